"""CPC against a slow version of its definition, and what its checkpoints may and may not hold."""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import pytest
import torch

import gslm.units
from gslm.errors import UserError
from gslm.units.chunking import encode_clips
from gslm.units.encoders import CPCEncoder, SpeechEncoder, load_cpc, load_encoder
from gslm.units.unit_encoder import UnitEncoder

SHAPES = ((10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1))
N_CHANNELS, DIM, N_LEVELS = 6, 5, 3
LENGTHS = (1, 100, 159, 160, 161, 319, 800, 801, 1234, 1250, 1250)


def _state(recurrence: str = "LSTM", n_levels: int = N_LEVELS) -> dict[str, torch.Tensor]:
    """Random weights under the original's names."""
    g = torch.Generator().manual_seed(0)
    state = {}
    for i, (width, _, _) in enumerate(SHAPES):
        inputs = N_CHANNELS if i else 1
        scale = (inputs * width) ** -0.5
        state[f"gEncoder.conv{i}.weight"] = torch.randn(N_CHANNELS, inputs, width, generator=g)
        state[f"gEncoder.conv{i}.weight"] *= scale
        state[f"gEncoder.conv{i}.bias"] = torch.randn(N_CHANNELS, generator=g) * 0.1
        norm = torch.randn(2, 1, N_CHANNELS, 1, generator=g) * 0.3
        state[f"gEncoder.batchNorm{i}.weight"] = 1 + norm[0]
        state[f"gEncoder.batchNorm{i}.bias"] = norm[1]
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[recurrence]
    for level in range(n_levels):
        inputs = DIM if level else N_CHANNELS
        for name, width in (("weight_ih", inputs), ("weight_hh", DIM)):
            state[f"gAR.baseNet.{name}_l{level}"] = torch.randn(gates * DIM, width, generator=g)
        for name in ("bias_ih", "bias_hh"):
            state[f"gAR.baseNet.{name}_l{level}"] = torch.randn(gates * DIM, generator=g)
    return state


def _checkpoint(recurrence: str = "LSTM", n_levels: int = N_LEVELS, **settings) -> dict:
    config = {"hiddenEncoder": N_CHANNELS, "hiddenGar": DIM, "nLevelsGRU": n_levels}
    return {"weights": _state(recurrence, n_levels), "config": config | settings}


@pytest.fixture
def path(tmp_path):
    torch.save(_checkpoint(), tmp_path / "cpc.pt")
    return tmp_path / "cpc.pt"


def _clip(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _slow(clip: torch.Tensor, state: dict[str, torch.Tensor], level: int) -> np.ndarray:
    """The definition, step by step, in float64: (frames, states of `level`)."""
    w = {name: value.double().numpy() for name, value in state.items()}
    x = np.pad(clip.double().numpy(), (0, max(0, 160 - len(clip))))[None]
    for i, (width, stride, zeros) in enumerate(SHAPES):
        x = np.pad(x, ((0, 0), (zeros, zeros)))
        kernel, bias = w[f"gEncoder.conv{i}.weight"], w[f"gEncoder.conv{i}.bias"]
        starts = range(0, x.shape[1] - width + 1, stride)
        x = np.stack([np.tensordot(kernel, x[:, s : s + width], 2) + bias for s in starts], 1)
        x = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + 1e-5)
        gain, shift = w[f"gEncoder.batchNorm{i}.weight"][0], w[f"gEncoder.batchNorm{i}.bias"][0]
        x = np.maximum(x * gain + shift, 0)
    rows = x.T
    for j in range(level):
        inward, inside, bias_in, bias_inside = (
            w[f"gAR.baseNet.{name}_l{j}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state_, cell, out = np.zeros(DIM), np.zeros(DIM), []
        for row in rows:
            a, b = inward @ row + bias_in, inside @ state_ + bias_inside
            if len(a) == 4 * DIM:
                entry, forget, new, exit_ = np.split(a + b, 4)
                cell = _sigmoid(forget) * cell + _sigmoid(entry) * np.tanh(new)
                state_ = _sigmoid(exit_) * np.tanh(cell)
            else:
                reset, keep = np.split(_sigmoid(a[: 2 * DIM] + b[: 2 * DIM]), 2)
                new = np.tanh(a[2 * DIM :] + reset * b[2 * DIM :])
                state_ = (1 - keep) * new + keep * state_
            out.append(state_)
        rows = np.stack(out)
    return rows


@pytest.mark.parametrize("recurrence", ["LSTM", "GRU"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_states_equal_a_slow_version(tmp_path, recurrence, level):
    torch.save(_checkpoint(recurrence, arMode=recurrence), tmp_path / "cpc.pt")
    encoder = load_cpc(tmp_path / "cpc.pt", level)
    assert isinstance(encoder, SpeechEncoder)
    clips = [_clip(n) for n in LENGTHS]
    for clip, ours in zip(clips, encoder(clips), strict=True):
        expected = _slow(clip, _state(recurrence), level)
        assert ours.shape == (encoder.n_frames(len(clip)), encoder.dim) == expected.shape
        assert np.abs(ours.numpy() - expected).max() < 1e-4


def test_a_clip_does_not_depend_on_its_batch(path):
    encoder = load_encoder(path)
    clips = [_clip(n) for n in LENGTHS]
    for clip, together in zip(clips, encoder(clips), strict=True):
        assert torch.allclose(encoder([clip])[0], together, atol=1e-6)


def test_silence_gives_finite_states(path):
    assert torch.isfinite(load_encoder(path)([torch.zeros(16_000)])[0]).all()


def test_gradients_reach_the_samples(path):
    clip = _clip(2000).requires_grad_()
    load_encoder(path)([clip])[0].sum().backward()
    assert clip.grad is not None and clip.grad.abs().sum() > 0


def test_levels_above_the_cut_are_not_held_and_the_second_is_the_default(path, tmp_path):
    encoder = load_encoder(path)
    assert (encoder.layer, encoder.dim, encoder.hop_length) == (2, DIM, 160)
    assert not [name for name in encoder.tensors() if name.endswith("_l2")]
    torch.save(_checkpoint(n_levels=1), tmp_path / "one.pt")
    assert load_encoder(tmp_path / "one.pt").layer == 1


@pytest.mark.parametrize("n_samples", [1, 159, 160, 5000, 160 * 1000, 160 * 1001, 400_123])
def test_long_recordings_have_every_frame_once(path, n_samples):
    encoder = load_encoder(path)
    frames = encode_clips(encoder, [_clip(n_samples).numpy()])[0]
    assert len(frames) == encoder.n_frames(n_samples)


def test_chunks_begin_where_the_states_have_forgotten(path):
    """With weights whose forget gates are open about half, as at random, nothing of it is left."""
    encoder = load_encoder(path)
    clip = _clip(400_000)
    chunked = encode_clips(encoder, [clip.numpy()])[0]
    assert torch.allclose(chunked, encoder([clip])[0], atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_a_units_folder_comes_back_the_same(path, tmp_path, half):
    encoder = load_encoder(path)
    first = UnitEncoder(encoder, encoder([_clip(16_000)])[0][::10])
    first.save(tmp_path / "units", half=half)
    loaded = gslm.units.load(tmp_path / "units")
    assert isinstance(loaded.encoder, CPCEncoder)
    assert loaded.encoder.weights_hash == encoder.weights_hash
    assert loaded.fingerprint == first.fingerprint
    assert loaded.fingerprint.frame_rate == 100
    waveform = _clip(20_000).numpy()
    assert np.mean(loaded(waveform).ids != first(waveform).ids) <= (0.05 if half else 0)


def test_a_checkpoint_of_training_is_read_beside_its_arguments(path, tmp_path):
    heads = {
        "gEncoder": _state(),
        "cpcCriterion": {"w": torch.zeros(1)},
        "optimizer": {},
        "best": 0,
    }
    torch.save(heads, tmp_path / "checkpoint_7.pt")
    clip = _clip(3000)
    ours, theirs = load_encoder(tmp_path / "checkpoint_7.pt"), load_encoder(path)
    assert torch.equal(ours([clip])[0], theirs([clip])[0])
    (tmp_path / "checkpoint_args.json").write_text(json.dumps({"cpc_mode": "reverse"}))
    with pytest.raises(UserError, match="cpc_mode"):
        load_encoder(tmp_path / "checkpoint_7.pt")


def test_settings_may_be_a_namespace(tmp_path):
    checkpoint = _checkpoint()
    checkpoint["config"] = argparse.Namespace(**checkpoint["config"])
    torch.save(checkpoint, tmp_path / "cpc.pt")
    assert load_encoder(tmp_path / "cpc.pt").dim == DIM


class _Malicious:
    def __reduce__(self):
        return os.system, ("touch $PWNED",)


def _without(name: str) -> dict:
    checkpoint = _checkpoint()
    del checkpoint["weights"][name]
    return checkpoint


def _with(name: str, value: object) -> dict:
    checkpoint = _checkpoint()
    checkpoint["weights"][name] = value
    return checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "layer", "message"),
    [
        (_checkpoint(), 4, "no layer 4; choose one from 1 to 3"),
        (_checkpoint(), 0, "no layer 0"),
        (_checkpoint(hiddenGar=7), 2, "hiddenGar is 7"),
        (_checkpoint(arMode="GRU"), 2, "arMode is 'GRU'"),
        (_checkpoint(normMode="batchNorm"), 2, "normMode"),
        (_checkpoint("RNN"), 2, "not known; LSTM and GRU are"),
        (_without("gEncoder.conv3.weight"), 2, r"do not fit.*Missing.*convolutions.3.weight"),
        (_without("gAR.baseNet.bias_ih_l1"), 2, r"do not fit.*Missing.*recurrence.bias_ih_l1"),
        (_without("gAR.baseNet.weight_hh_l0"), 2, "holds no CPC encoder with a recurrent net"),
        (_with("gEncoder.conv5.weight", torch.zeros(3)), 2, r"do not fit.*Unexpected"),
        (_with("gEncoder.extra", torch.zeros(3)), 2, r"do not fit.*Unexpected.*extra"),
        (_with("gEncoder.conv1.weight", torch.zeros(3)), 2, "do not fit"),
        ({"model": {}, "cfg": {}}, 2, "no CPC checkpoint"),
        ([1, 2], 2, "no CPC checkpoint"),
        ({"weights": [], "config": {}}, 2, "expected tensors and settings"),
        ({"weights": _state(), "config": _Malicious()}, 2, "asks to run .*system"),
    ],
)
def test_bad_checkpoints_are_one_line_errors(tmp_path, monkeypatch, checkpoint, layer, message):
    monkeypatch.setenv("PWNED", str(tmp_path / "pwned"))
    torch.save(checkpoint, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=message) as error:
        load_cpc(tmp_path / "bad.pt", layer)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_damaged_files_are_one_line_errors(path):
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="damaged, truncated") as error:
        load_cpc(path)
    assert "\n" not in str(error.value)
    path.write_text("no pickle at all")
    with pytest.raises(UserError, match=r"not torch's \(a pickle of another program, or none"):
        load_cpc(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        load_cpc(path)
