"""Durations: rounding, expectation, and independence of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gslm.vocoder.duration import DurationConfig, DurationPredictor, rounded_durations


@pytest.fixture
def predictor() -> DurationPredictor:
    torch.manual_seed(0)
    return DurationPredictor(DurationConfig(n_units=10, dim=16, n_blocks=3, longest=20)).eval()


def test_rounded_durations_keep_the_total():
    rng = np.random.default_rng(0)
    for _ in range(100):
        expected = torch.from_numpy(rng.uniform(1, 6, 50))
        rounded = rounded_durations(expected)
        assert rounded.dtype == torch.int64
        assert int(rounded.min()) >= 1
        assert abs(int(rounded.sum()) - float(expected.sum())) <= 0.5
        assert float((rounded - expected).abs().max()) <= 1


def test_halves_do_not_lose_frames():
    assert int(rounded_durations(torch.tensor([1.5, 1.0, 1.0, 1.0, 1.5])).sum()) == 6
    assert rounded_durations(torch.zeros(0)).shape == (0,)


def test_padding_of_a_batch_changes_nothing(predictor):
    short, long = torch.randint(10, (5,)), torch.randint(10, (12,))
    padded = torch.full((2, 12), 10)
    padded[0, :5], padded[1] = short, long
    together = predictor.expected(padded)
    assert torch.allclose(together[0, :5], predictor.expected(short[None])[0], atol=1e-5)
    assert torch.allclose(together[1], predictor.expected(long[None])[0], atol=1e-5)


def test_the_expectation_is_the_mean_of_the_distribution(predictor):
    units = torch.randint(10, (1, 7))
    logits = predictor(units)[0]
    for i, row in enumerate(logits.tolist()):
        weights = [math.exp(x) for x in row]
        mean = sum(w * (k + 1) for k, w in enumerate(weights)) / sum(weights)
        assert float(predictor.expected(units)[0, i].detach()) == pytest.approx(mean, rel=1e-4)


def test_the_loss_is_the_likelihood_of_the_durations_without_padding(predictor):
    units = torch.randint(10, (2, 6))
    durations = torch.randint(1, 30, (2, 6))
    units[1, 4:], durations[1, 4:] = 10, 0
    logs = predictor(units).log_softmax(-1).detach()
    expected = [
        -float(logs[row, i, min(int(durations[row, i]), 20) - 1])
        for row, n in ((0, 6), (1, 4))
        for i in range(n)
    ]
    assert float(predictor.loss(units, durations).detach()) == pytest.approx(
        np.mean(expected), rel=1e-4
    )
