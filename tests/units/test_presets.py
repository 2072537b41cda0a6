"""Encoders by short name: the table, and what is loaded with the download replaced by a folder."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

import gslm.units
from gslm.audio import write_wav
from gslm.errors import UserError
from gslm.pipeline import UnitSettings, speech_encoder
from gslm.units.commands import encoders, fit
from gslm.units.encoders import NoSuchLayerError, load_encoder
from gslm.units.encoders.presets import PRESETS, preset, table


def test_names_and_layers_make_sense():
    names = [found.name for found in PRESETS]
    assert len(set(names)) == len(names)
    assert not {"tiny.en", "mfcc", "log-mel"} & set(names)
    assert len({found.source for found in PRESETS}) == len(PRESETS)
    for found in PRESETS:
        assert preset(found.name) is found
        assert 1 <= found.layer <= found.n_layers
        assert re.fullmatch(r"[\w-]+/[\w.-]+", found.source)
        assert found.licence and found.layer_from and found.learned_from
    assert preset("hubert") is None


def test_the_command_lists_every_preset_with_layer_and_licence(capsys):
    encoders()
    lines = capsys.readouterr().out.splitlines()
    assert lines == table().splitlines()
    for found in PRESETS:
        (line,) = (line for line in lines if line.split()[0] == found.name)
        assert f"{found.layer} of {found.n_layers}" in line
        assert found.licence in line and found.source in line
    assert {"tiny.en", "mfcc", "log-mel"} <= {line.split()[0] for line in lines}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that holds one small HuBERT of twelve layers; gives what it was asked for."""
    transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")
    config = transformers.HubertConfig(
        conv_dim=[16] * 7, hidden_size=16, num_hidden_layers=12, num_attention_heads=2,
        intermediate_size=32, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path / "hub"
    model = transformers.HubertModel(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    asked: list[tuple[str, list[str]]] = []
    answer = SimpleNamespace(headers={}, request=None, status_code=404)

    def download(name, allow_patterns=None):
        asked.append((name, allow_patterns))
        if not name.startswith(("facebook/", "someone/")):
            raise RepositoryNotFoundError(f"404 {name}", response=answer)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return folder, model, asked


def test_a_preset_brings_its_layer_and_says_what_it_learned_from(hub):
    _, _, asked = hub
    encoder = load_encoder("hubert-base")
    assert (encoder.name, encoder.layer) == ("transformers/hubert", 6)
    assert encoder.learned_from == preset("hubert-base").learned_from
    assert {name for name, _ in asked} == {"facebook/hubert-base-ls960"}
    assert load_encoder("hubert-base", 9).layer == 9
    with pytest.raises(NoSuchLayerError, match="choose one from 1 to 12"):
        load_encoder("hubert-base", 13)


def test_pickled_weights_are_asked_for_only_where_there_are_no_safetensors(hub):
    folder, model, asked = hub
    expected = load_encoder("hubert-base").weights_hash
    assert not [patterns for _, patterns in asked if "pytorch_model.bin" in patterns]
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert load_encoder("hubert-base").weights_hash == expected
    assert "pytorch_model.bin" in asked[-1][1]


def test_other_hub_names_need_a_layer_and_unknown_ones_are_one_line_errors(hub):
    assert load_encoder("someone/other-hubert", 2).layer == 2
    with pytest.raises(UserError, match=r"someone/other-hubert: name a layer"):
        load_encoder("someone/other-hubert")
    with pytest.raises(UserError, match=r"nobody/knows: neither a folder here") as error:
        load_encoder("nobody/knows", 2)
    assert "\n" not in str(error.value)


def _recordings(folder):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_wav(folder / f"{name}.wav", (0.1 * rng.standard_normal(40_000)).astype(np.float32))
    return folder


def test_fit_takes_a_preset_without_a_layer(hub, tmp_path, capsys):
    audio = _recordings(tmp_path / "audio")
    fit(audio, output=tmp_path / "units", encoder="hubert-base", k=5)
    assert "speech alone (960 h of English audiobooks)" in capsys.readouterr().out
    units = gslm.units.load(tmp_path / "units")
    assert (units.fingerprint.layer, units.n_units, units.normalization) == (6, 5, "frame")
    assert units.encoder.learned_from == preset("hubert-base").learned_from
    fit(audio, output=tmp_path / "other", encoder="hubert-base", layer=9, k=5)
    assert gslm.units.load(tmp_path / "other").fingerprint.layer == 9


def test_training_takes_the_same_names(hub):
    assert speech_encoder(UnitSettings(encoder="hubert-base")).layer == 6
    assert speech_encoder(UnitSettings(encoder="hubert-base", layer=2)).layer == 2
    with pytest.raises(UserError, match="layer -1"):
        speech_encoder(UnitSettings(encoder="hubert-base", layer=-1))
