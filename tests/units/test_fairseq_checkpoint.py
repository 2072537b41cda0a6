"""Files of fairseq and torchaudio: what is read of them, what is refused, and that nothing runs."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types

import pytest
import torch
from fairseq_models import model_of, save_fairseq
from safetensors.torch import save_file

from gslm.errors import UserError
from gslm.units.encoders import NoSuchLayerError, load_encoder

pytest.importorskip("fairseq2n", reason="gslm[fairseq2] is not installed")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small checkpoint as a dictionary; tests change copies of it."""
    path = save_fairseq(model_of("hubert-base"), tmp_path_factory.mktemp("fairseq") / "h.pt")
    return torch.load(path, weights_only=False)


def saved(checkpoint, tmp_path, name="changed.pt", **settings):
    torch.save(checkpoint, tmp_path / name, **settings)
    return tmp_path / name


def refused(path, match, layer=2):
    with pytest.raises(UserError, match=match) as error:
        load_encoder(path, layer)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


class RunsCode:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class EvaluatesCode(RunsCode):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("kind", [RunsCode, EvaluatesCode])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["all", "cfg", "model"])
def test_a_malicious_pickle_does_not_run(original, tmp_path, kind, zipped, where):
    bait = kind(tmp_path / "it-ran")
    checkpoint = {
        "all": bait,
        "cfg": original | {"cfg": {"model": bait}},
        "model": original | {"model": original["model"] | {"mask_emb": bait}},
    }[where]
    path = saved(checkpoint, tmp_path, _use_new_zipfile_serialization=zipped)
    refused(path, "asks to run .* it was not run")
    assert not (tmp_path / "it-ran").exists()
    torch.load(path, weights_only=False)  # it would have
    assert (tmp_path / "it-ran").exists()


@pytest.fixture
def omegaconf(monkeypatch):
    """A class under the name of omegaconf's DictConfig, and what was run of it."""
    ran = []

    class DictConfig:
        def __setstate__(self, state):
            ran.append(state)
            self.__dict__.update(state)

    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = DictConfig
    DictConfig.__module__, DictConfig.__qualname__ = module.__name__, "DictConfig"
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return DictConfig, ran


def test_a_stand_in_gives_no_way_to_what_it_stands_for(original, tmp_path, omegaconf):
    """Even where the real class is there and would run something, the stand-in takes its place."""
    kind, ran = omegaconf
    config = config_of(kind, model=config_of(kind, layer_norm_first=True))
    path = saved(original | {"cfg": config}, tmp_path)
    assert load_encoder(path, 2).config()["pre_norm"]
    assert ran == []


def test_settings_that_lie_in_themselves_are_an_error(original, tmp_path, omegaconf):
    config = omegaconf[0]()
    config._content = config
    refused(saved(original | {"cfg": config}, tmp_path), "another shape or kind .*recursion")


def config_of(kind, **settings):
    """Settings as omegaconf pickles them: a node that holds nodes or values."""
    node = kind()
    node._content = settings
    return node


def test_settings_are_read_from_a_namespace_as_old_checkpoints_have_them(original, tmp_path):
    settings = argparse.Namespace(
        arch="hubert_base", layer_norm_first=True, normalize=True, encoder_attention_heads=4
    )
    checkpoint = {"args": settings, "model": original["model"]}
    config = load_encoder(saved(checkpoint, tmp_path), 2).config()
    assert (config["kind"], config["n_heads"]) == ("hubert", 4)
    assert config["pre_norm"]
    assert config["normalize"]


def test_what_is_for_training_alone_is_passed_over(original, tmp_path):
    for_training = {
        "label_embs_concat": torch.zeros(5, 4),
        "final_proj.weight": torch.zeros(4, 128),
        "quantizer.vars": torch.zeros(1, 5, 4),
    }
    path = saved(original | {"model": original["model"] | for_training}, tmp_path)
    plain = load_encoder(saved(original, tmp_path, "plain.pt"), 2)
    assert load_encoder(path, 2).weights_hash == plain.weights_hash


def test_a_fine_tuned_model_says_that_it_learned_from_transcripts(original, tmp_path):
    tuned = {f"w2v_encoder.w2v_model.{name}": t for name, t in original["model"].items()}
    tuned["w2v_encoder.proj.weight"] = torch.zeros(32, 128)
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": original["cfg"]}, "task": {}}
    encoder = load_encoder(saved({"cfg": cfg, "model": tuned}, tmp_path), 2)
    plain = load_encoder(saved(original, tmp_path, "plain.pt"), 2)
    assert encoder.learned_from == "speech, then transcripts"
    assert (encoder.name, encoder.weights_hash) == ("hubert", plain.weights_hash)


@pytest.mark.parametrize("zipped", [True, False])
def test_half_precision_and_files_of_old_torch_are_read(original, tmp_path, zipped):
    halves = {name: tensor.half() for name, tensor in original["model"].items()}
    path = saved(original | {"model": halves}, tmp_path, _use_new_zipfile_serialization=zipped)
    encoder = load_encoder(path, 2)
    assert all(tensor.dtype == torch.float32 for tensor in encoder.tensors().values())
    clip = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    exact = load_encoder(saved(original, tmp_path, "exact.pt"), 2)
    assert (encoder([clip])[0] - exact([clip])[0]).abs().max() < 0.02


@pytest.mark.parametrize("name", ["state.pt", "state.safetensors"])
def test_layers_above_are_not_read(original, tmp_path, name, monkeypatch):
    """Of a state dict in either format: what stands for them may be of any shape."""
    state = {n: t for n, t in original["model"].items() if "encoder.layers.2." not in n}
    state |= {n: torch.zeros(1) for n in original["model"] if "encoder.layers.2." in n}
    save = save_file if name.endswith("safetensors") else torch.save
    save({n: t.contiguous() for n, t in state.items()}, tmp_path / name)
    encoder = load_encoder(tmp_path / name, 2)
    assert encoder.config()["n_layers"] == 3
    assert not any("layers.2." in n for n in encoder.tensors() if n.startswith("encoder.layers"))


@pytest.mark.parametrize("name", ["state.pt", "state.safetensors"])
@pytest.mark.parametrize("layer", [0, -1, 4])
def test_a_layer_that_there_is_not_is_named(original, tmp_path, name, layer):
    save = save_file if name.endswith("safetensors") else torch.save
    save({n: t.contiguous() for n, t in original["model"].items()}, tmp_path / name)
    with pytest.raises(NoSuchLayerError, match=f"no layer {layer}; choose one from 1 to 3"):
        load_encoder(tmp_path / name, layer)


LAST = "encoder.layers.1.fc2.weight"
FIRST_BIAS = "encoder.layers.0.fc1.bias"
POSITIONS = "encoder.pos_conv.0.weight_v"
CONVOLUTION = "feature_extractor.conv_layers.0.0.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop(LAST), r"do not fit .*ffn\.output_proj"),
        (lambda state: state.update({LAST: torch.zeros(3, 3)}), "do not fit"),
        (lambda state: state.update({LAST: "text"}), "is no tensor"),
        (lambda state: state.update(more=torch.zeros(1)), "more is no weight of a HuBERT"),
        (lambda state: state.pop("encoder.pos_conv.0.bias"), "another model or architecture"),
        (
            lambda state: state.pop("encoder.pos_conv.0.weight_g"),
            r"pos_encoder\.conv\.weight' is missing",
        ),
        (lambda state: state.pop(FIRST_BIAS), r"ffn\.inner_proj\.bias' is missing"),
        (lambda state: state.update({FIRST_BIAS: torch.tensor(1.0)}), "another shape.*0-d tensor"),
        (lambda state: state.update({FIRST_BIAS: None}), r"fc1\.bias is no tensor"),
        (lambda state: state.update({FIRST_BIAS: torch.tensor([1.0, torch.nan])}), "finite"),
        (lambda state: state.update({LAST: state[LAST].to(torch.complex64)}), "finite"),
        (lambda state: state.update({POSITIONS: torch.zeros(3, 3)}), "another shape.*size"),
        (lambda state: state.update({POSITIONS: torch.zeros(128, 0, 16)}), "another shape.*zero"),
        (lambda state: state.update({CONVOLUTION: torch.zeros(3)}), "another shape.*unpack"),
        (
            lambda state: state.update({FIRST_BIAS.replace("0", "99"): torch.zeros(1)}),
            "above one that is missing, 3",
        ),
        (
            lambda state: state.update({FIRST_BIAS.replace("0", "9" * 5000): torch.zeros(1)}),
            "do not fit.*Unexpected key",
        ),
        (lambda state: state.pop("feature_extractor.conv_layers.3.0.weight"), "strides"),
        (lambda state: state.clear(), "another model or architecture"),
    ],
)
def test_weights_that_do_not_fit_are_errors(original, tmp_path, change, match):
    state = dict(original["model"])
    change(state)
    refused(saved(original | {"model": state}, tmp_path), match)


@pytest.mark.parametrize(
    ("model", "task", "match"),
    [
        ({}, {"sample_rate": 8000}, "made for 8000 Hz"),
        ({"activation_fn": "relu"}, {}, "activation_fn 'relu'"),
        ({"layer_type": "conformer"}, {}, "layer_type 'conformer'"),
        ({"conv_feature_layers": "[(512, 10, 5)]"}, {}, "its settings say"),
        ({"conv_feature_layers": "__import__('os').getcwd()"}, {}, "are not understood"),
        ({"conv_feature_layers": "[(1, 1, 1)] * 10 ** 9"}, {}, "are not understood"),
        ({"conv_feature_layers": "[(1, 1, 1)] * 100 * 100"}, {}, "not understood .more than 100"),
        ({"encoder_attention_heads": "x"}, {}, "another shape or kind .*'x'"),
    ],
)
def test_settings_of_another_network_are_errors(original, tmp_path, model, task, match):
    cfg = {"model": {"_name": "hubert"} | model, "task": task}
    refused(saved(original | {"cfg": cfg}, tmp_path), match)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({"encoder_attention_heads": 0}, "n_heads 0 must be at least 1"),
        ({"encoder_attention_heads": -1}, "n_heads -1 must be at least 1"),
        (
            {"conv_feature_layers": "[(32, 10, 0)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2"},
            r"convolutions \(\(32, 10, 0\), .*stride of at least 1",
        ),
    ],
)
def test_impossible_sizes_are_errors(original, tmp_path, model, match):
    path = saved(original | {"cfg": {"model": model, "task": {}}}, tmp_path)
    with pytest.raises(UserError, match=match) as error:
        load_encoder(path, 2)
    assert "\n" not in str(error.value)


def test_strides_are_those_of_the_settings(original, tmp_path):
    text = "[(32, 10, 5)] + [(32,3,2)] * 4 + [(32,2,2)] + [(32,2,1)]"
    cfg = {"model": {"_name": "hubert", "conv_feature_layers": text}, "task": {}}
    assert load_encoder(saved(original | {"cfg": cfg}, tmp_path), 2).hop_length == 160


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, torch.zeros(3), {"model": [1]}, {"state_dict": {}}, None]
)
def test_other_things_in_a_torch_file_are_errors(content, tmp_path):
    refused(saved(content, tmp_path), "expected fairseq's HuBERT or wav2vec 2.0")


def test_files_that_are_no_models_are_errors(original, tmp_path):
    for name, data, match in (
        ("text.pt", b"these are words, and no weights", r"not torch's \(no pickle"),
        ("letters.pt", b"hi", r"not torch's \(no pickle"),
        ("empty.pt", b"", r"not torch's \(no pickle, or one that is cut off"),
        ("another.pt", pickle.dumps({"a": 1}), r"not torch's \(a pickle of another program"),
        ("zeros.pt", bytes(1000), r"not torch's \(Cannot use .*tar"),
        ("half.pt", saved(original, tmp_path).read_bytes()[:50_000], "damaged, truncated"),
        ("half.safetensors", b"\x10\0\0\0\0\0\0\0{}", r"truncated \(.*header"),
        ("sound.wav", b"RIFF\x24\0\0\0WAVEfmt ", r"not torch's \(no pickle"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, match)


def test_weights_of_transformers_are_to_come_as_their_folder(tmp_path):
    path = saved(model_of("hubert-base").state_dict(), tmp_path, "pytorch_model.bin")
    refused(path, r"give the folder with config\.json")
    torch.save({}, tmp_path / "nothing.pt")
    refused(tmp_path / "nothing.pt", "another model or architecture")
