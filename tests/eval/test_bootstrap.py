import numpy as np
import pytest

from gslm.eval.bootstrap import paired_difference_interval, ratio_interval


def test_interval_of_a_mean_agrees_with_the_normal_one():
    rng = np.random.default_rng(1)
    values = rng.normal(3, 1, 200)
    found = ratio_interval(values, np.ones(200))
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_slow_bootstrap_gives_the_same_interval():
    errors, words = np.array([0, 2, 1, 0, 5, 1]), np.array([6, 9, 7, 12, 20, 6])
    found = ratio_interval(errors, words)
    rng = np.random.default_rng(7)
    draws = []
    for _ in range(10_000):
        picked = [int(rng.integers(6)) for _ in range(6)]
        draws.append(sum(errors[i] for i in picked) / sum(words[i] for i in picked))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.estimate == pytest.approx(9 / 60)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_pairing_removes_the_difficulty_of_the_clips():
    rng = np.random.default_rng(2)
    words = np.full(100, 10)
    recorded = rng.integers(0, 8, 100)
    made = recorded + 1
    found = paired_difference_interval(made, recorded, words)
    assert (found.low, found.estimate, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_same_seed_same_interval_and_one_clip_has_no_spread():
    a = ratio_interval([1, 0, 3], [4, 5, 6], seed=3)
    assert a == ratio_interval([1, 0, 3], [4, 5, 6], seed=3)
    one = ratio_interval([1], [4])
    assert one.low == one.high == 0.25
