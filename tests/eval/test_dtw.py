from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gslm.eval import dtw
from gslm.eval.dtw import edit_distances, warped_distances, warped_unit_distances
from tests.eval.abx_reference import edited, one_hot, warped


@pytest.mark.parametrize("longest", [1, 7, 40])
@pytest.mark.parametrize("ties", [False, True])
def test_warping_costs_and_lengths_are_the_tables(longest, ties):
    random = np.random.default_rng(longest)
    n, m = random.integers(1, longest + 1, (2, 80))
    values = random.random(int((n * m).sum())).astype(np.float32)
    if ties:
        values = np.round(2 * values) / 2
    firsts = np.cumsum(n * m) - n * m
    tables = [values[f : f + i * j].reshape(i, j) for f, i, j in zip(firsts, n, m, strict=True)]
    forth, back = warped_distances(values, firsts, m.copy(), n, m)
    np.testing.assert_array_equal(forth, [warped(table) for table in tables])
    np.testing.assert_array_equal(back, [warped(table.T) for table in tables])


def test_values_become_distances_only_where_they_are_read():
    values = np.full(100, 4.0, np.float32)
    n = np.array([3, 2])
    forth, _ = warped_distances(values, np.array([0, 50]), np.array([3, 2]), n, n, _halve)
    np.testing.assert_array_equal(forth, [2, 2])
    np.testing.assert_array_equal(values, 4)


def _halve(values):
    values /= 2


def sequences(longest, n_units, n_pairs=60):
    random = np.random.default_rng(n_units)
    units = random.integers(0, n_units, 500).astype(np.int32)
    starts = random.integers(0, 400, (2, n_pairs))
    lengths = random.integers(1, longest + 1, (2, n_pairs))
    parts = [
        [units[start : start + length] for start, length in zip(*side, strict=True)]
        for side in zip(starts, lengths, strict=True)
    ]
    return (units, starts[0], lengths[0], starts[1], lengths[1]), list(zip(*parts, strict=True))


@pytest.mark.parametrize("n_units", [1, 2, 50])
@pytest.mark.parametrize("longest", [1, 9, 60])
def test_unit_warping_is_that_of_tables_of_zeros_and_ones(n_units, longest):
    arguments, pairs = sequences(longest, n_units)
    forth, back = warped_unit_distances(*arguments)
    np.testing.assert_array_equal(forth, [warped(one_hot(x, y)) for x, y in pairs])
    np.testing.assert_array_equal(back, [warped(one_hot(y, x)) for x, y in pairs])


def test_unit_warping_of_long_sequences_does_not_overflow():
    random = np.random.default_rng(0)
    units = random.integers(0, 3, 700).astype(np.int32)
    found, _ = warped_unit_distances(units, *(np.array([v]) for v in (0, 300, 320, 310)))
    assert found[0] == warped(one_hot(units[:300], units[320:630]))


@pytest.mark.parametrize("n_units", [2, 5, 50])
@pytest.mark.parametrize("longest", [1, 9, 60])
def test_edit_distance_is_levenshteins_over_the_longer_length(n_units, longest):
    (units, starts, n, others, m), _ = sequences(longest, n_units)
    # Sequences without repetitions, as the caller gives them.
    units = units + np.arange(len(units), dtype=np.int32) % 2 * n_units
    pairs = [
        (units[i : i + x], units[j : j + y])
        for i, x, j, y in zip(starts, n, others, m, strict=True)
    ]
    found = edit_distances(units, starts, n, others, m)
    np.testing.assert_array_equal(found, [edited(x, y) for x, y in pairs])


def test_small_batches_and_threads_change_nothing(monkeypatch):
    arguments, _ = sequences(30, 4, 300)
    expected = warped_unit_distances(*arguments), edit_distances(*arguments)
    monkeypatch.setattr(dtw, "_WIDTH", 50)
    with ThreadPoolExecutor(2) as pool:
        found = warped_unit_distances(*arguments, pool), edit_distances(*arguments, pool)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_pairs_give_no_distances():
    none = np.zeros(0, np.int64)
    assert len(edit_distances(np.zeros(3, np.int32), none, none, none, none)) == 0
