"""`gslm ulm` on a small corpus."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gslm.corpus import CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.ulm import UnitLM, commands
from gslm.ulm.model import PRESETS, Decoder, DecoderConfig
from tests.ulm.test_sample import FINGERPRINT, unit_lm


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "corpus", FINGERPRINT, {"root": "here"})
    rows = [
        CorpusRow(f"größe {i}.wav", random.integers(0, 50, 9).astype(np.int32), None, 2880, "a")
        for i in range(60)
    ]
    writer.write_shard(0, rows, [])
    writer.finish(1, None)
    return tmp_path / "corpus"


def test_train_then_score_then_sample(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shape = DecoderConfig(1, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=32)
    monkeypatch.setitem(PRESETS, "mini", shape)
    folder = tmp_path / "ulm"
    commands.train(corpus, output=folder, steps=3, half=True)
    assert "held-out nats a unit" in capsys.readouterr().out
    commands.score(folder, corpus, split="all")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 60
    assert rows[0]["n_tokens"] == 10
    assert rows[0]["per_token"] == pytest.approx(rows[0]["log_likelihood"] / 10)
    commands.sample(folder, prompt="1 2 3", n_samples=2, max_tokens=5, min_tokens=5)
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split()) for line in lines] == [5, 5]
    expected = UnitLM.load(folder).sample([np.array([1, 2, 3])], 5, min_tokens=5, seed=0)[0]
    assert lines[0] == " ".join(map(str, expected))


def test_a_corpus_of_frames_scores_like_one_of_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit_lm().save(tmp_path / "ulm")
    frames = np.array([3, 3, 3, 7, 7, 1], np.int32)
    runs = CorpusRow("a.wav", frames[[0, 3, 5]], np.array([3, 2, 1], np.int32), 1920, "")
    printed = []
    for name, row in (("frames", CorpusRow("a.wav", frames, None, 1920, "")), ("runs", runs)):
        writer = CorpusWriter(tmp_path / name, FINGERPRINT, {"root": "here"})
        writer.write_shard(0, [row])
        writer.finish(1, ["a.wav"])
        commands.score(tmp_path / "ulm", tmp_path / name)
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["n_tokens"] == 4


def test_mistakes_are_one_line(corpus: Path, tmp_path: Path) -> None:
    lm = unit_lm()
    lm.fingerprint = replace(FINGERPRINT, encoder="log-mel")
    lm.save(tmp_path / "other")
    config = replace(lm.config, n_pieces=60)
    UnitLM(config, Decoder(config), FINGERPRINT).save(tmp_path / "pieces")
    for run, words in (
        (lambda: commands.score(tmp_path / "other", corpus), "log-mel"),
        (lambda: commands.score(tmp_path / "pieces", corpus), "60 BPE pieces"),
        (lambda: commands.sample(tmp_path / "pieces"), "60 BPE pieces"),
        (lambda: commands.train(corpus, output=tmp_path / "x", steps=0), "steps must be at least"),
        (lambda: commands.score(tmp_path / "nowhere", corpus), "no such file"),
        (lambda: commands.sample(tmp_path / "other", prompt="1 two"), "'1 two'"),
        (lambda: commands.sample(tmp_path / "other", prompt="50", max_tokens=9), "50"),
        (lambda: commands.train(tmp_path, output=tmp_path / "x"), "no corpus"),
    ):
        with pytest.raises(UserError, match=words) as error:
            run()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()
