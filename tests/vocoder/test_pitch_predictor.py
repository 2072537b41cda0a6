"""The pitch predictor: independence of the batch, and its losses against loops."""

from __future__ import annotations

import math

import pytest
import torch

from gslm.vocoder.pitch import PitchConfig, PitchPredictor


@pytest.fixture
def predictor() -> PitchPredictor:
    torch.manual_seed(0)
    return PitchPredictor(PitchConfig(n_units=10, dim=16, n_blocks=3, kernel_size=5)).eval()


def test_padding_of_a_batch_changes_nothing(predictor):
    short, long = torch.randint(10, (8,)), torch.randint(10, (30,))
    padded = torch.full((2, 30), 10)
    padded[0, :8], padded[1] = short, long
    for together, alone in zip(predictor(padded), predictor(short[None]), strict=True):
        assert together.shape == (2, 60)
        assert torch.allclose(together[:1, :16], alone, atol=1e-5)


def test_predictions_are_hertz_where_voiced_and_zero_elsewhere(predictor):
    units = torch.randint(10, (1, 50))
    voicing, octaves = predictor(units)
    for found, v, o in zip(
        predictor.predict(units)[0].tolist(), voicing[0].tolist(), octaves[0].tolist(), strict=True
    ):
        assert found == pytest.approx(160 * 2**o if v > 0 else 0, rel=1e-4)


def test_losses_leave_padding_and_unvoiced_pitch_out(predictor):
    units = torch.randint(10, (2, 6))
    units[1, 3:] = 10
    f0 = torch.rand(2, 12) * 200 + 80
    f0[0, ::3] = 0
    voicing, octaves = (x.detach() for x in predictor(units))
    nats, errors = [], []
    for row, n in ((0, 12), (1, 6)):
        for i in range(n):
            chance = 1 / (1 + math.exp(-float(voicing[row, i])))
            is_voiced = float(f0[row, i]) > 0
            nats.append(-math.log(chance if is_voiced else 1 - chance))
            if is_voiced:
                errors.append(abs(float(octaves[row, i]) - math.log2(float(f0[row, i]) / 160)))
    found = [loss.detach() for loss in predictor.losses(units, f0)]
    assert float(found[0]) == pytest.approx(sum(nats) / len(nats), rel=1e-4)
    assert float(found[1]) == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_a_batch_without_voice_has_a_finite_loss(predictor):
    voicing, octaves = predictor.losses(torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 10))
    (voicing + octaves).backward()
    assert float(octaves.detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in predictor.parameters() if p.grad is not None)
