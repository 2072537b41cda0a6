"""What is refused of a folder in transformers' format, always in one line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gslm.units
from gslm.errors import UserError
from gslm.units.encoders import NoSuchLayerError, load_encoder
from gslm.units.unit_encoder import UnitEncoder

transformers = pytest.importorskip("transformers", reason="gslm[transformers] is not installed")
from tests.units.speech_models import DIM, SpeechModels, save_model  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return SpeechModels(tmp_path_factory)


def _fails(match: str, folder: Path, layer: int | None = 2) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_encoder(folder, layer)
    assert "\n" not in str(error.value)


def test_a_text_model_is_refused(tmp_path):
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path)
    _fails(r"'bert' model, which is no speech encoder.*wavlm", tmp_path)


def test_another_models_weights_are_refused(saved, tmp_path):
    save_model(saved("hubert-base")[0], tmp_path)
    save_file({"embeddings.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    _fails("hold nothing of a hubert encoder", tmp_path)


def _edited(saved, folder: Path, **edits: Tensor | None) -> Path:
    save_model(saved("hubert-base")[0], folder)
    tensors = load_file(folder / "model.safetensors")
    for name, value in edits.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "encoder.layers.0.final_layer_norm.bias",
            None,
            r"do not fit.*Missing key.*final_layer_norm",
        ),
        ("feature_extractor.conv_layers.0.conv.weight", None, r"do not fit.*Missing.*conv_layers"),
        ("encoder.layers.0.gate.bias", torch.zeros(3), r"do not fit.*Unexpected key.*gate"),
        ("encoder.layers.3.attention.k_proj.bias", torch.zeros(3), r"Unexpected key.*layers\.3"),
        ("feature_projection.projection.bias", torch.zeros(3), "do not fit.*size mismatch"),
        ("feature_projection.projection.bias", torch.full((DIM,), torch.nan), "finite numbers"),
    ],
)
def test_missing_and_extra_keys_are_one_line_errors(saved, tmp_path, name, value, message):
    _fails(message, _edited(saved, tmp_path, **{name: value}))


def test_wrong_layers_are_one_line_errors(saved):
    folder = saved("hubert-base")[1]
    for layer in (0, 4, -1):
        with pytest.raises(NoSuchLayerError, match=f"no layer {layer}; choose one from 1 to 3"):
            load_encoder(folder, layer)
    _fails(r"name a layer of this hubert model with --layer", folder, None)


def test_settings_of_another_kind_are_one_line_errors(saved, tmp_path):
    model = saved("hubert-base")[0]
    _fails("made for 8000 Hz", save_model(model, tmp_path, sampling_rate=8000))
    conformer = saved("w2v-bert")[0]
    _fails("stacks of 3 spectra", save_model(conformer, tmp_path / "stack", stride=3))
    nothing = save_model(conformer, tmp_path / "nothing", num_mel_bins=None)
    _fails("spectra of None bands", nothing)


def _with_setting(saved, folder: Path, name: str, value: object) -> Path:
    save_model(saved("wavlm-base" if name == "max_bucket_distance" else "hubert-base")[0], folder)
    config = json.loads((folder / "config.json").read_text()) | {name: value}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_hidden_layers", "many", "num_hidden_layers should be a number"),
        ("conv_stride", [5, 2], "sizes that make no hubert"),
        ("conv_stride", [5, 2, 2, 2, 2, 2, 0], "strides and widths must be at least 1"),
        ("num_attention_heads", 0, "heads, strides and widths must be at least 1"),
        ("num_attention_heads", -1, "heads, strides and widths must be at least 1"),
        ("feat_extract_activation", "relu", "without GELU"),
        ("hidden_act", "foo", "no hubert model .'foo' is not known"),
        ("dtype", "foo", "no hubert model .*foo"),
        ("layer_norm_eps", "x", "layer_norm_eps 'x' is no number"),
        ("max_bucket_distance", "x", "max_bucket_distance 'x' is no number"),
    ],
)
def test_impossible_settings_are_one_line_errors(saved, tmp_path, name, value, message):
    _fails(message, _with_setting(saved, tmp_path, name, value))


@pytest.mark.parametrize("named", [5, [5], None, ["HubertModel"]])
def test_a_model_whose_heads_are_not_told_learned_from_speech(saved, tmp_path, named):
    folder = _with_setting(saved, tmp_path, "architectures", named)
    assert load_encoder(folder, 1).learned_from == "speech alone"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (["a"], "has no weight_map"),
        ({"a": ["x"]}, "no such file; the model is incomplete"),
        ({"a": "b", "c": 1}, "1: no such file; the model is incomplete"),
    ],
)
def test_a_damaged_list_of_files_is_a_one_line_error(saved, tmp_path, weight_map, message):
    folder = save_model(saved("hubert-base")[0], tmp_path)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _fails(message, folder)


def test_missing_and_damaged_files_are_one_line_errors(saved, tmp_path):
    folder = save_model(saved("hubert-base")[0], tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _fails("damaged or truncated", folder)
    path.unlink()
    _fails("holds no weights; expected model.safetensors or pytorch_model.bin", folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no zip")
    _fails(r"not torch's \(.*failed reading zip archive", folder)
    torch.save([1, 2], folder / "pytorch_model.bin")
    _fails("expected tensors by name, found list", folder)
    (folder / "config.json").write_text("{")
    _fails("not readable as JSON", folder)


class _Malicious:
    def __reduce__(self):
        return os.system, ("touch $PWNED",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_does_not_run(saved, tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("PWNED", str(tmp_path / "pwned"))
    folder = save_model(saved("hubert-base")[0], tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(
        {"a": _Malicious()}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )
    _fails("asks to run .*system", folder)
    assert not (tmp_path / "pwned").exists()


def test_without_transformers_the_error_says_what_to_install(saved, tmp_path, monkeypatch):
    folder = saved("hubert-base")[1]
    encoder = load_encoder(folder, 1)
    UnitEncoder(encoder, torch.randn(5, DIM)).save(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    _fails(r"need transformers; run `pip install 'gslm\[transformers\]'`", folder)
    with pytest.raises(UserError, match=r"pip install 'gslm\[transformers\]'"):
        gslm.units.load(tmp_path)


def test_a_units_folder_of_another_shape_is_a_one_line_error(saved, tmp_path):
    encoder = load_encoder(saved("hubert-base")[1], 1)
    UnitEncoder(encoder, torch.randn(5, DIM)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder_config"]["model"]["intermediate_size"] = 65
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not fit") as error:
        gslm.units.load(tmp_path)
    assert "\n" not in str(error.value)
