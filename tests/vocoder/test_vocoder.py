"""The vocoder as a whole: lengths, windows, files and errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gslm.bundle import read_json, write_json
from gslm.errors import UserError
from gslm.types import Units
from gslm.vocoder import Vocoder


def _units(fingerprint, n: int, seed: int = 0, longest: int = 6) -> Units:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, fingerprint.vocabulary_size, n).astype(np.int32)
    return Units(ids, rng.integers(1, longest, n).astype(np.int32), fingerprint)


def test_recorded_durations_give_320_samples_a_frame(vocoder, fingerprint):
    units = _units(fingerprint, 20)
    waveform = vocoder.synthesize(units, predict_durations=False)
    assert waveform.dtype == np.float32
    assert waveform.shape == (320 * units.n_frames,)
    assert np.isfinite(waveform).all()
    assert 0.01 < np.abs(waveform).max() <= 1
    assert np.array_equal(waveform, vocoder.synthesize(units.expanded(), predict_durations=False))


def test_predicted_durations_depend_on_the_units_alone(vocoder, fingerprint):
    units = _units(fingerprint, 20)
    predicted = vocoder.predict_durations(units)
    assert (np.diff(predicted.ids) != 0).all()
    assert predicted.durations.min() >= 1
    waveform = vocoder.synthesize(units)
    assert len(waveform) == 320 * predicted.n_frames
    assert np.array_equal(waveform, vocoder.synthesize(units.expanded()))
    expected = vocoder.durations.expected(torch.from_numpy(predicted.ids.astype(np.int64))[None])
    assert abs(predicted.n_frames - float(expected.detach().sum())) < 1


def test_the_seed_decides_the_noise(vocoder, fingerprint):
    units = _units(fingerprint, 10)
    first, again, other = (vocoder.synthesize(units, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("n_frames", [1, 2, 1063, 1064, 1065, 2000, 3000])
def test_windows_equal_one_pass_over_the_whole(vocoder, fingerprint, monkeypatch, n_frames):
    ids = _units(fingerprint, n_frames, longest=2).ids
    units = Units(np.repeat(ids[: -(-n_frames // 4)], 4)[:n_frames], None, fingerprint)
    in_windows = vocoder.synthesize(units, predict_durations=False)
    monkeypatch.setattr("gslm.vocoder.vocoder._WINDOW_FRAMES", 10**9)
    whole = vocoder.synthesize(units, predict_durations=False)
    assert in_windows.shape == whole.shape == (320 * n_frames,)
    assert np.abs(in_windows - whole).max() < 1e-3
    voiced = vocoder.pitch.predict(torch.from_numpy(units.ids.astype(np.int64))[None]) > 0
    assert n_frames < 100 or 0.1 < float(voiced.float().mean()) < 0.99


def test_windows_predict_the_durations_of_one_pass(vocoder, fingerprint, monkeypatch):
    ids = np.tile(np.arange(4, dtype=np.int32), 600)
    units = Units(ids, None, fingerprint)
    in_windows = vocoder.predict_durations(units).durations
    monkeypatch.setattr("gslm.vocoder.vocoder._WINDOW_FRAMES", 10**9)
    assert np.abs(in_windows - vocoder.predict_durations(units).durations).max() == 0


def test_a_saved_vocoder_speaks_alike(vocoder, fingerprint, tmp_path):
    units = _units(fingerprint, 20)
    expected = vocoder.synthesize(units)
    vocoder.save(tmp_path / "whole")
    assert np.array_equal(Vocoder.load(tmp_path / "whole").synthesize(units), expected)
    vocoder.save(tmp_path / "half", half=True)
    half = Vocoder.load(tmp_path / "half")
    assert half.fingerprint == fingerprint
    assert all(p.dtype == torch.float32 for p in half.generator.parameters())
    for part in ("generator", "durations", "pitch"):
        rounded, exact = (getattr(x, part).state_dict() for x in (half, vocoder))
        assert rounded.keys() == exact.keys()
        for name, tensor in exact.items():
            assert torch.allclose(rounded[name], tensor, rtol=1e-3, atol=1e-6)
    assert np.isfinite(half.synthesize(units)).all()
    sizes = [(tmp_path / x / "model.safetensors").stat().st_size for x in ("whole", "half")]
    assert sizes[1] < 0.65 * sizes[0]


def test_foreign_units_are_refused(vocoder, fingerprint):
    foreign = replace(fingerprint, centroids_hash="f" * 16)
    with pytest.raises(UserError, match="do not match") as caught:
        vocoder.synthesize(_units(foreign, 5))
    assert "f" * 16 in str(caught.value)
    assert fingerprint.centroids_hash in str(caught.value)


def test_sequences_that_cannot_be_spoken_are_refused(vocoder, fingerprint):
    nothing = np.zeros(0, dtype=np.int32)
    with pytest.raises(UserError, match="empty"):
        vocoder.synthesize(Units(nothing, None, fingerprint))
    for outside in (4, -1):
        units = Units(np.array([0, outside], dtype=np.int32), None, fingerprint)
        with pytest.raises(UserError, match=f"unit {outside} is outside"):
            vocoder.synthesize(units)
    zero = Units(np.array([1, 2], np.int32), np.zeros(2, np.int32), fingerprint)
    with pytest.raises(UserError, match="empty"):
        vocoder.synthesize(zero, predict_durations=False)


def test_damaged_folders_are_one_line(vocoder, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Vocoder.load(tmp_path)
    vocoder.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    _refused(tmp_path, "truncated")
    weights.write_bytes(data)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", config | {"generator": config["generator"] | {"dim": 8}})
    _refused(tmp_path, "do not fit")
    write_json(tmp_path / "config.json", config | {"generator": {"n_units": 4, "sise": 8}})
    _refused(tmp_path, "sise")
    write_json(tmp_path / "config.json", {})
    _refused(tmp_path, "fingerprint")
    write_json(tmp_path / "config.json", [])
    _refused(tmp_path, "config.json")
    write_json(tmp_path / "config.json", config)
    weights.unlink()
    _refused(tmp_path, "no such file")


def _refused(folder, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        Vocoder.load(folder)
    assert "\n" not in str(caught.value)
