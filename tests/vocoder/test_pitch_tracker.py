"""The pitch tracker on tones of known pitch, and against a slow version of itself."""

from __future__ import annotations

import numpy as np
import pytest

from gslm.vocoder.pitch_tracker import track_pitch


def _tone(f0: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Harmonics of a pitch in Hz for every sample; those over 7 kHz are left out."""
    phase = 2 * np.pi * np.cumsum(f0) / 16_000
    partials = [
        a * np.cos(k * phase + k * k) * (k * f0 < 7000) for k, a in enumerate(amplitudes, start=1)
    ]
    return (0.05 * np.sum(partials, axis=0)).astype(np.float32)


def _at_frames(f0: np.ndarray) -> np.ndarray:
    return f0[80::160]


@pytest.mark.parametrize(
    ("middle", "swing", "rate"), [(150, 50, 1.0), (220, 40, 2.0), (110, 20, 3)]
)
def test_glides_are_followed_within_two_percent(middle, swing, rate):
    time = np.arange(32_000) / 16_000
    f0 = middle + swing * np.sin(2 * np.pi * rate * time)
    found = track_pitch(_tone(f0, 1 / np.arange(1, 20)))
    inner = slice(5, -5)
    assert (found[inner] > 0).all()
    assert np.abs(found[inner] / _at_frames(f0)[inner] - 1).max() < 0.02


@pytest.mark.parametrize("f0", [80, 97, 120, 151, 190, 240, 301, 350, 400])
@pytest.mark.parametrize("slope", [0.5, 1.0, 1.5])
def test_tones_are_not_heard_an_octave_off(f0, slope):
    amplitudes = np.arange(1, 30) ** -slope
    found = track_pitch(_tone(np.full(16_000, float(f0)), amplitudes))[5:-5]
    assert np.abs(found / f0 - 1).max() < 0.02


def test_a_tone_whose_fundamental_a_telephone_cut_away_keeps_its_pitch():
    amplitudes = np.ones(15)
    amplitudes[:2] = 0
    found = track_pitch(_tone(np.full(16_000, 130.0), amplitudes))[5:-5]
    assert np.abs(found / 130 - 1).max() < 0.02


def test_noise_and_silence_are_unvoiced():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(32_000).astype(np.float32)
    assert (track_pitch(noise) > 0).mean() < 0.02
    for silence in (np.zeros(16_000), np.full(16_000, 0.3), 1e-5 * rng.standard_normal(16_000)):
        assert not track_pitch(silence.astype(np.float32))[3:-3].any()


@pytest.mark.parametrize("n_samples", [0, 1, 159, 160, 161, 1000])
def test_any_length_gives_its_frames_and_finite_values(n_samples):
    rng = np.random.default_rng(n_samples)
    found = track_pitch(rng.standard_normal(n_samples).astype(np.float32))
    assert found.shape == (max(1, -(-n_samples // 160)),)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_extreme_input_gives_finite_values_in_range():
    rng = np.random.default_rng(0)
    square = np.sign(np.sin(np.arange(8000) * 0.06)).astype(np.float32)
    click = np.zeros(8000, np.float32)
    click[4000] = 1
    loud_then_silent = np.concatenate([rng.uniform(-1, 1, 8000), np.zeros(8000)])
    for waveform in (square, click, loud_then_silent.astype(np.float32)):
        found = track_pitch(waveform)
        assert np.isfinite(found).all()
        assert ((found == 0) | ((found > 59) & (found < 510))).all()


def test_blocks_leave_no_seams(monkeypatch):
    waveform = _speechlike(3.0)
    expected = track_pitch(waveform)
    monkeypatch.setattr("gslm.vocoder.pitch_tracker._BLOCK_FRAMES", 17)
    assert np.allclose(track_pitch(waveform), expected, rtol=1e-4)


def test_voiced_frames_equal_the_peak_of_a_slow_autocorrelation():
    time = np.arange(16_000) / 16_000
    waveform = _tone(140 + 40 * time, 1 / np.arange(1, 20))
    found = track_pitch(waveform)
    for i in range(5, 95, 7):
        frame = waveform[160 * i + 80 - 454 : 160 * i + 80 + 454].astype(np.float64)
        heights = [
            float(np.corrcoef(frame[:640], frame[lag : lag + 640])[0, 1]) for lag in range(268)
        ]
        # Of the lags that correlate nearly as well as the best, the shortest is the period.
        peaks = [
            lag
            for lag in range(33, 267)
            if heights[lag] >= max(heights[lag - 1], heights[lag + 1])
            and heights[lag] > max(heights[33:]) - 0.05
        ]
        assert found[i] == pytest.approx(16_000 / peaks[0], rel=0.02)


def test_speech_equals_the_slow_version():
    waveform = _speechlike(2.0)
    found, expected = track_pitch(waveform), slow_pitch(waveform)
    same = np.isclose(found, expected, rtol=0.005)
    assert same.mean() > 0.985
    assert 0.2 < (expected > 0).mean() < 0.9


def _speechlike(seconds: float) -> np.ndarray:
    """Tones, noise and silence by turns, with a little noise throughout."""
    rng = np.random.default_rng(1)
    time = np.arange(int(16_000 * seconds)) / 16_000
    f0 = 170 + 50 * np.sin(2 * np.pi * 0.7 * time) + 20 * np.sin(2 * np.pi * 3 * time)
    part = np.floor(time * 5).astype(int) % 4
    tone = _tone(f0, np.arange(1, 25) ** -1.2) * (part < 2)
    noise = 0.05 * rng.standard_normal(len(time)) * (part == 2)
    return (tone + noise + 0.001 * rng.standard_normal(len(time))).astype(np.float32)


def slow_pitch(waveform: np.ndarray) -> np.ndarray:
    """The tracker as one would write it first: double precision and loops."""
    n_frames, longest = max(1, -(-len(waveform) // 160)), 268
    length = 640 + longest
    padded = np.pad(waveform.astype(np.float64), length)
    candidates = []
    for i in range(n_frames):
        start = length + 160 * i + 80 - length // 2
        candidates.append(_slow_candidates(padded[start : start + length], longest))
    return _slow_path(candidates)


def _slow_candidates(frame: np.ndarray, longest: int) -> list[tuple[float, float]]:
    frame = frame - frame.mean()
    head, floor = frame[:640], 640e-7
    correlation = np.array(
        [
            (head * frame[lag : lag + 640]).sum()
            / np.sqrt(((frame[lag : lag + 640] ** 2).sum() + floor) * ((head**2).sum() + floor))
            for lag in range(longest + 1)
        ]
    )
    found = []
    for lag in range(32, longest):
        before, peak, after = correlation[lag - 1 : lag + 2]
        if peak > before and peak >= after and peak > 0.2:
            offset = 0.5 * (before - after) / min(before - 2 * peak + after, -1e-6)
            offset = float(np.clip(offset, -0.5, 0.5))
            score = peak - 0.02 * np.log2(lag / 32)
            height = min(1.0, score - 0.25 * (before - after) * offset)
            found.append((score, height, 16_000 / (lag + offset)))
    return [(height, f0) for _, height, f0 in sorted(found, reverse=True)[:6]]


def _slow_path(candidates: list[list[tuple[float, float]]]) -> np.ndarray:
    """Cheapest path by dynamic programming over (cost, pitches so far), unvoiced as 0 Hz."""
    paths = [(0.0, [0.0])]
    for i, found in enumerate(candidates):
        states = [(1 - strength, f0) for strength, f0 in found] + [(0.55, 0.0)]
        longer = []
        for own, f0 in states:
            cost, path = min(
                ((cost + _slow_step(path[-1], f0) * (i > 0), path) for cost, path in paths),
                key=lambda pair: pair[0],
            )
            longer.append((cost + own, [*path, f0]))
        paths = longer
    return np.array(min(paths, key=lambda pair: pair[0])[1][1:])


def _slow_step(before: float, after: float) -> float:
    if before > 0 and after > 0:
        return 0.7 * abs(np.log2(before / after))
    return 0.0 if before == after else 0.12
