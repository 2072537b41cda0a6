"""Encoders against transformers, scipy-free references, and their own promises."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.eval.judge import Judge, require_other_weights
from gslm.types import Fingerprint
from gslm.units.encoders import Chunking, LogMelEncoder, MFCCEncoder, begun_frames, load_encoder
from gslm.units.encoders.base import SpeechEncoder
from gslm.units.encoders.checkpoints import sinusoids
from gslm.units.encoders.spectral import cosine_transform, mel_filterbank


def _noise(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A small random Whisper of transformers and the folder it was saved to."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=50, d_model=64, encoder_layers=3, encoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.WhisperModel(config).eval()
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_whisper_equals_transformers_on_thirty_seconds(whisper, layer):
    import transformers

    model, folder = whisper
    samples = _noise(480_000)
    mel = transformers.WhisperFeatureExtractor()(
        samples.numpy(), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        expected = model.encoder(mel, output_hidden_states=True).hidden_states[layer][0]
    encoder = load_encoder(folder, layer, Chunking(1500, 250))
    assert torch.allclose(encoder.log_mel([samples])[0].T, mel[0], atol=1e-5)
    assert torch.allclose(encoder([samples])[0], expected, atol=1e-4)


def test_whisper_holds_no_layer_above_the_cut(whisper):
    names = load_encoder(whisper[1], 2).tensors()
    assert not [name for name in names if name.startswith(("layers.2", "layer_norm"))]


def test_whisper_reads_a_ctranslate2_folder(whisper, tmp_path):
    model, folder = whisper
    _write_ctranslate2(model.encoder, tmp_path / "model.bin")
    samples = _noise(20_000)
    for layer in (2, 3):
        theirs, ours = load_encoder(folder, layer), load_encoder(tmp_path, layer)
        assert torch.allclose(theirs([samples])[0], ours([samples])[0], atol=2e-2)
        assert ours.model.config == theirs.model.config


def test_quantised_weights_are_refused_not_read_as_numbers(whisper, tmp_path):
    _write_ctranslate2(whisper[0].encoder, tmp_path / "model.bin", quantised=True)
    with pytest.raises(UserError, match=r"quantised \(int8\); give a float16") as error:
        load_encoder(tmp_path, 2)
    assert "\n" not in str(error.value)


def test_a_judge_whose_weights_cannot_be_compared_is_refused(whisper, tmp_path):
    encoder = load_encoder(whisper[1], 2)
    own = Fingerprint("whisper", encoder.weights_hash, 2, 50.0, "none", "0" * 16, 200)
    _write_ctranslate2(whisper[0].encoder, tmp_path / "model.bin", quantised=True)
    judge = Judge("my-int8", "", "en", tmp_path, None)
    with pytest.raises(UserError, match=r"my-int8: cannot tell .*quantised") as error:
        require_other_weights(judge, own)
    assert "\n" not in str(error.value)
    require_other_weights(judge, replace(own, layer=4))  # of a deeper model
    require_other_weights(judge, replace(own, encoder="mfcc", layer=0))


def test_truncated_ctranslate2_file_is_a_one_line_error(whisper, tmp_path):
    path = tmp_path / "model.bin"
    _write_ctranslate2(whisper[0].encoder, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.bin") as error:
        load_encoder(tmp_path, 2)
    assert "\n" not in str(error.value)


def test_missing_layer_and_empty_folder_are_errors(whisper, tmp_path):
    with pytest.raises(UserError, match="no layer 4"):
        load_encoder(whisper[1], 4)
    with pytest.raises(UserError, match="no Whisper encoder"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("d_model", "x", "setting d_model should be a whole number"),
        ("d_model", -1, "d_model -1 must be at least 1"),
        ("encoder_attention_heads", 0, "n_heads 0 must be at least 1"),
        ("encoder_attention_heads", 7, "d_model 64 is no multiple of n_heads 7"),
        ("encoder_layers", None, "setting n_layers should be a whole number"),
        ("num_mel_bins", 3.5, "setting n_mels should be a whole number"),
    ],
)
def test_impossible_sizes_of_a_whisper_are_errors(whisper, tmp_path, name, value, message):
    settings = json.loads((whisper[1] / "config.json").read_text()) | {name: value}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path, 2)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["log-mel", "mfcc"])
def test_a_layer_of_spectra_is_an_error(name, layer):
    with pytest.raises(UserError, match=f"{name} has no layers; leave out --layer"):
        load_encoder(name, layer)


def test_an_empty_name_is_said_to_be_empty():
    with pytest.raises(UserError, match="the encoder's name is empty"):
        load_encoder("")


@pytest.mark.parametrize("name", ["log-mel", "mfcc", "whisper"])
def test_a_clip_does_not_depend_on_its_batch(name, request):
    encoder = load_encoder(request.getfixturevalue("whisper")[1] if name == "whisper" else name)
    assert isinstance(encoder, SpeechEncoder)
    lengths = [1, 320, 321, 5000, 5000, 16_001]
    clips = [_noise(n, n) for n in lengths]
    for clip, together in zip(clips, encoder(clips), strict=True):
        alone = encoder([clip])[0]
        assert alone.shape == (begun_frames(len(clip)), encoder.dim)
        assert torch.isfinite(alone).all()
        assert torch.allclose(alone, together, atol=1e-4)


def test_filters_equal_those_of_transformers():
    audio_utils = pytest.importorskip("transformers.audio_utils")
    for n_mels in (40, 80, 128):
        expected = audio_utils.mel_filter_bank(
            201, n_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney"
        )
        assert np.allclose(mel_filterbank(n_mels, 400), expected, atol=1e-6)


def test_log_mel_and_mfcc_equal_a_slow_version():
    samples = _noise(3200).numpy()
    padded = np.pad(samples, 40, mode="reflect")
    window = np.hanning(401)[:-1]
    frames = np.stack([padded[320 * i : 320 * i + 400] * window for i in range(10)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    log_mel = np.log(np.maximum(power @ mel_filterbank(80, 400).numpy(), 1e-8))
    assert np.allclose(LogMelEncoder()([torch.from_numpy(samples)])[0], log_mel, atol=1e-3)

    log_mel = np.log(np.maximum(power @ mel_filterbank(40, 400).numpy(), 1e-8))
    static = log_mel @ cosine_transform(13, 40).numpy()
    ours = MFCCEncoder()([torch.from_numpy(samples)])[0].numpy()
    assert np.allclose(ours[:, :13], static, atol=1e-3)
    slope = [np.polyfit(range(5), static[i - 2 : i + 3], 1)[0] for i in range(2, 8)]
    assert np.allclose(ours[2:8, 13:26], slope, atol=1e-3)


def test_cosine_transform_is_orthonormal():
    matrix = cosine_transform(40, 40)
    assert torch.allclose(matrix.T @ matrix, torch.eye(40), atol=1e-5)


def _write_ctranslate2(encoder, path: Path, quantised: bool = False) -> None:
    """Write a transformers encoder in CTranslate2's layout, float16 or with int8 matrices."""
    state = encoder.state_dict()
    variables = {"encoder/num_heads": np.array(4, np.int16)}

    def put(target: str, source: str, norm: bool = False) -> None:
        for theirs, ours in (("weight", "gamma"), ("bias", "beta")):
            variables[f"encoder/{target}/{ours if norm else theirs}"] = state[f"{source}.{theirs}"]

    put("conv1", "conv1")
    put("conv2", "conv2")
    put("layer_norm", "layer_norm", norm=True)
    for i in range(3):
        here, there = f"layer_{i}", f"layers.{i}"
        put(f"{here}/self_attention/layer_norm", f"{there}.self_attn_layer_norm", norm=True)
        put(f"{here}/self_attention/linear_1", f"{there}.self_attn.out_proj")
        put(f"{here}/ffn/layer_norm", f"{there}.final_layer_norm", norm=True)
        put(f"{here}/ffn/linear_0", f"{there}.fc1")
        put(f"{here}/ffn/linear_1", f"{there}.fc2")
        q, k, v = (f"{there}.self_attn.{letter}_proj" for letter in "qkv")
        stacked = torch.cat([state[f"{name}.weight"] for name in (q, k, v)])
        no_bias = torch.zeros(64)
        biases = torch.cat([state[f"{q}.bias"], no_bias, state[f"{v}.bias"]])
        variables[f"encoder/{here}/self_attention/linear_0/weight"] = stacked
        variables[f"encoder/{here}/self_attention/linear_0/bias"] = biases
    variables["encoder/position_encodings/encodings"] = sinusoids(1500, 64)
    if quantised:
        for name in [n for n in variables if n.endswith("/weight") and "conv" not in n]:
            scale = 127 / variables[name].abs().amax(1)
            variables[name] = (variables[name] * scale[:, None]).round().to(torch.int8)
            variables[f"{name}_scale"] = scale
    with path.open("wb") as file:
        file.write(
            struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, len(variables))
        )
        for name, value in variables.items():
            array = np.asarray(value)
            if array.dtype == np.float32:
                array = array.astype(np.float16)
            code = {"int8": 1, "int16": 2, "float16": 4}[array.dtype.name]
            encoded = name.encode() + b"\0"
            file.write(struct.pack("<H", len(encoded)) + encoded + struct.pack("<B", array.ndim))
            file.write(struct.pack(f"<{array.ndim}I", *array.shape))
            file.write(struct.pack("<BI", code, array.nbytes) + array.tobytes())
