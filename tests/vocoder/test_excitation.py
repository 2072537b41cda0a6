"""The pulse train and its parts against slow sums and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gslm.vocoder.excitation import fill_unvoiced, harmonic_pulses, phase_turns, seeded_noise

HOP = 160


def _pulses(f0: torch.Tensor, voiced: torch.Tensor | None = None) -> torch.Tensor:
    filled = fill_unvoiced(f0)
    voiced = (f0 > 0).float() if voiced is None else voiced
    return harmonic_pulses(phase_turns(filled, HOP), filled, voiced, HOP)


def _sum_of_cosines(f0_frames: np.ndarray) -> np.ndarray:
    """Every harmonic below the Nyquist frequency, one after the other, in double precision."""
    middles = (np.arange(len(f0_frames)) + 0.5) * HOP - 0.5
    f0 = np.interp(np.arange(len(f0_frames) * HOP), middles, f0_frames)
    phase = 2 * np.pi * np.cumsum(f0) / 16_000
    count = np.floor(8000 / f0 - 0.5)
    total = np.zeros(len(f0))
    for k in range(1, int(count.max()) + 1):
        total += np.where(k <= count, np.cos(k * phase), 0.0)
    return total * np.sqrt(2 / count)


@pytest.mark.parametrize("f0", [60.0, 100.0, 123.4, 200.0, 333.3, 500.0])
def test_a_steady_pitch_equals_the_sum_of_its_cosines(f0):
    frames = np.full(60, f0)
    found = _pulses(torch.tensor(frames, dtype=torch.float32)[None])[0].numpy()
    assert np.allclose(found, _sum_of_cosines(frames), atol=0.01 * np.abs(found).max())


def test_a_gliding_pitch_equals_the_sum_of_its_cosines():
    frames = 150 + 60 * np.sin(np.arange(100) / 9)
    found = _pulses(torch.tensor(frames, dtype=torch.float32)[None])[0].numpy()
    expected = _sum_of_cosines(frames.astype(np.float32).astype(np.float64))
    # Rounding may move the sample at which a harmonic comes or goes; few samples may differ.
    close = np.isclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert close.mean() > 0.999


def test_no_harmonic_reaches_the_nyquist_frequency():
    for f0 in (79.0, 311.0, 499.0):
        count = np.floor(8000 / f0 - 0.5)
        assert count * f0 < 8000 <= (count + 2) * f0


@pytest.mark.parametrize("f0", [80.0, 160.0, 400.0])
def test_voiced_power_is_one(f0):
    power = _pulses(torch.full((1, 100), f0)).square().mean()
    assert float(power) == pytest.approx(1, abs=0.01)


def test_unvoiced_stretches_are_silent():
    f0 = torch.zeros(1, 30)
    assert not _pulses(f0).any()
    f0[:, 10:20] = 200.0
    pulses = _pulses(f0)[0]
    # The gate opens and closes over one frame about the border.
    assert not pulses[: 9 * HOP + HOP // 2].any()
    assert not pulses[20 * HOP + HOP // 2 :].any()
    assert pulses[11 * HOP : 19 * HOP].any()


def test_fill_unvoiced_equals_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        f0 = rng.uniform(80, 300, 12) * (rng.random(12) < rng.random())
        expected = f0.copy()
        for i in range(12):
            earlier, later = f0[: i + 1][f0[: i + 1] > 0], f0[f0 > 0]
            expected[i] = earlier[-1] if len(earlier) else later[0] if len(later) else 100.0
        assert np.allclose(fill_unvoiced(torch.from_numpy(f0)[None])[0].numpy(), expected)


def test_phase_runs_on_and_counts_periods():
    turns = phase_turns(torch.full((1, 100), 125.0), HOP)
    assert turns.dtype == torch.float64
    assert float(turns[0, -1]) == pytest.approx(125.0)
    assert bool((turns.diff() > 0).all())


def test_noise_is_the_same_wherever_a_stretch_begins():
    whole = seeded_noise(3, 0, 50_000)
    for start, stop in [(0, 10), (15_990, 16_010), (31_999, 50_000), (16_000, 32_000)]:
        assert torch.equal(seeded_noise(3, start, stop), whole[start:stop])
    assert not torch.equal(seeded_noise(4, 0, 100), whole[:100])
    assert len(seeded_noise(3, 5, 5)) == 0
    assert float(whole.mean()) == pytest.approx(0, abs=0.03)
    assert float(whole.std()) == pytest.approx(1, abs=0.03)
