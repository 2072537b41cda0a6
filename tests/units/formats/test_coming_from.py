"""docs/coming-from.md: its commands run, and make the units of transformers and scikit-learn."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from gslm.audio import read_audio
from gslm.cli import app
from gslm.corpus import Corpus

transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")
cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is not installed")
joblib = pytest.importorskip("joblib", reason="scikit-learn is not installed")

PAGE = Path(__file__).parents[3] / "docs" / "coming-from.md"
SIZES = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SLOWER = {
    "conv_dim": [32] * 8,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
    "num_feat_extract_layers": 8,
}
CLIPS = {
    "84/local.flac": 2.0,
    "84/short.calf.flac": 0.4,
    "121/clip one.flac": 3.1,
    "121/é.flac": 1.0,
}
PAIR = {
    f"{role}{end}": value
    for role, units in (("prompt", "<Un3><Un9>"), ("chosen", "<Un0>"), ("rejected", "<Un19>"))
    for end, value in (("_path", f"made/7_{role}.wav"), ("", {"audio_repr": units}))
}


def _model(n_layers: int, **sizes) -> torch.nn.Module:
    torch.manual_seed(n_layers)
    config = transformers.HubertConfig(**(SIZES | sizes), num_hidden_layers=n_layers)
    return transformers.HubertModel(config).eval().requires_grad_(False)


def _fit(model, layer: int, folder: Path, path: Path) -> dict[str, np.ndarray]:
    """Write a km.bin of the clips' features; gives each clip's units by scikit-learn."""
    features = {}
    for name in CLIPS:
        clip = torch.from_numpy(read_audio(folder / name))
        hidden = model(clip[None], output_hidden_states=True).hidden_states
        features[name] = hidden[layer][0].numpy()
    k_means = cluster.MiniBatchKMeans(20, n_init=1, random_state=0)
    k_means.fit(np.concatenate(list(features.values())))
    joblib.dump(k_means, path)
    return {name: k_means.predict(frames) for name, frames in features.items()}


def _commands() -> list[list[str]]:
    lines = re.findall(r"^ {4,}gslm (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def _python() -> str:
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return program


def _save_checkpoint(model, path: Path) -> None:
    """Write fairseq's .pt; a folder of that name where fairseq2 has no wheel."""
    if importlib.util.find_spec("fairseq2n") is None:
        model.save_pretrained(path)
        return
    from tests.units.fairseq_models import save_fairseq

    save_fairseq(model, path)


def test_the_page_runs_and_makes_the_units_of_transformers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio = tmp_path / "example_data" / "audio"
    random = np.random.default_rng(0)
    for name, seconds in {**CLIPS, "84/not listed.flac": 0.5}.items():
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio / name, 0.1 * random.standard_normal(round(16_000 * seconds)), 16_000)
    soundfile.write("clip.wav", soundfile.read(audio / "84/local.flac")[0], 16_000)
    rows = "".join(f"{n}\t{round(16_000 * s)}\n" for n, s in CLIPS.items())
    Path("manifest.tsv").write_text(f"{audio}\n{rows}", encoding="utf-8")
    Path("preference.jsonl").write_text(f"{json.dumps(PAIR)}\n", encoding="utf-8")

    hubert, slower = _model(6), _model(11, **SLOWER)
    _save_checkpoint(hubert, tmp_path / "hubert_base_ls960.pt")
    slower.save_pretrained(tmp_path / "local-mhubert")
    expected = _fit(hubert, 6, audio, tmp_path / "km.bin")
    slow_expected = _fit(slower, 11, audio, tmp_path / "km_25hz.bin")
    # What a short name would fetch from the Hub lies here.
    for command in _commands():
        local = ["local-mhubert" if token == "mhubert-25hz" else token for token in command]
        app(local, exit_on_error=False, print_error=False, result_action="return_value")
    found: dict[str, Any] = {}
    exec(_python(), found)

    stems = {name: Path(name).name.removesuffix(".flac") for name in CLIPS}
    units = {name: " ".join(map(str, units)) for name, units in expected.items()}
    assert _lines("units.txt") == sorted(f"{stems[name]}|{line}" for name, line in units.items())
    assert _lines("by-path.txt") == sorted(
        f"{name.removesuffix('.flac')}|{line}" for name, line in units.items()
    )
    hidden = Path("hidden.txt").read_text().splitlines()
    ordered = [line.split("\t")[0] for line in Path("ordered.tsv").read_text().splitlines()]
    assert ordered[0] == "example_data/audio"
    assert dict(zip(ordered[1:], hidden, strict=True)) == units
    frames = {name: units.tolist() for name, units in expected.items()}
    assert _frames("gslm-corpus") == _frames("from-text") == frames
    assert np.array_equal(found["runs"].expanded().ids, expected["84/local.flac"])
    assert sorted(_frames("from-textless").values()) == sorted(frames.values())
    slow = _frames("slam-corpus")
    assert {name: slow[name] for name in CLIPS} == {n: u.tolist() for n, u in slow_expected.items()}
    assert _frames("from-slamkit") == slow
    trained = [row.units.tolist() for row in Corpus.open("gslm-corpus").rows("train")]
    assert [row.units.tolist() for row in Corpus.open("from-bin").rows()] == trained
    assert json.loads(Path("pairs.jsonl").read_text()) == PAIR


def _lines(path: str) -> list[str]:
    return sorted(Path(path).read_text(encoding="utf-8").splitlines())


def _frames(folder: str) -> dict[str, list[int]]:
    corpus = Corpus.open(folder)
    return {row.id: corpus.units(row).expanded().ids.tolist() for row in corpus.rows()}
