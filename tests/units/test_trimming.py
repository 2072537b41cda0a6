"""Where speech begins and ends: beside a slow reference, at any loudness, noise and block size."""

from __future__ import annotations

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.units.trimming import FRAME, Stretch, speech_stretch


def _speech(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Something with the level of speech that rises and falls four times a second."""
    n = int(seconds * 16_000)
    swell = 0.2 + 0.8 * np.abs(np.sin(np.arange(n) * np.pi * 4 / 16_000 + 0.5))
    return 0.2 * swell * rng.standard_normal(n)


def _recording(before: int, seconds: float, after: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    silence = np.zeros(before), np.zeros(after)
    samples = np.concatenate([silence[0], _speech(seconds, rng), silence[1]])
    return (samples + noise * rng.standard_normal(len(samples))).astype(np.float32)


def _brute_force(samples: np.ndarray) -> Stretch:
    """The rule as its constants say it, on all frames at once."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    level = np.clip(np.round(10 * np.log10(np.maximum((frames**2).mean(1), 1e-10))), -100, 0)
    ordered = np.sort(level)
    floor = ordered[int(np.ceil(0.05 * len(level) - 1e-9)) - 1]
    loud = ordered[int(np.ceil(0.95 * len(level) - 1e-9)) - 1]
    threshold = min(max(floor + 8, loud - 40, -99), max(loud - 15, -99))
    over = level >= threshold
    runs = [i for i in range(len(over) - 2) if over[i : i + 3].all()]
    if threshold <= floor or not runs:
        return Stretch(0, len(samples))
    return Stretch(max(0, runs[0] - 10) * FRAME, min(len(samples), (runs[-1] + 3 + 20) * FRAME))


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("seed", range(5))
def test_stretch_equals_the_slow_reference_for_any_blocks(noise, seed):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 30_000, 2)
    samples = _recording(before, rng.uniform(0.3, 4), after, noise, seed)
    expected = _brute_force(samples)
    assert speech_stretch([samples]) == expected
    cuts = np.sort(rng.integers(0, len(samples), 40))
    assert speech_stretch(np.split(samples, cuts)) == expected


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
@pytest.mark.parametrize("gain", [1.0, 0.03])
def test_silence_goes_and_speech_stays(noise, gain):
    samples = gain * _recording(16_000, 2.0, 24_000, noise)
    first, end = speech_stretch([samples.astype(np.float32)])
    assert 16_000 - 0.12 * 16_000 <= first <= 16_000
    assert 48_000 <= end <= 48_000 + 0.23 * 16_000


def test_pauses_and_clicks(monkeypatch):
    speech = _recording(8000, 1.0, 16_000, 1e-4)
    twice = np.concatenate([speech, speech])
    assert speech_stretch([twice]).end > len(speech) + 8000 + 16_000  # the pause stays
    clicked = twice.copy()
    clicked[1000:1100] = 0.9
    assert speech_stretch([clicked]).first == speech_stretch([twice]).first


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(16_000, np.float32),
        np.full(1, 0.5, np.float32),
        np.full(100, 0.5, np.float32),
        np.zeros(FRAME, np.float32),
        (0.01 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32),
        np.sin(np.arange(16_000)).astype(np.float32),
    ],
    ids=["silence", "one sample", "part of a frame", "one frame", "even noise", "even tone"],
)
def test_what_holds_no_speech_over_a_floor_is_kept_whole(samples):
    assert speech_stretch([samples]) == (0, len(samples))


def test_no_samples_are_an_error():
    with pytest.raises(UserError, match="no samples"):
        speech_stretch([])
