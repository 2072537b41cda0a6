"""Spherical k-means against every partition, a plain version, and closed forms."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.units.quantizers.kmeans import _DISTANCES, KMeansConfig, _rows
from gslm.units.quantizers.spherical import assign_spherical, fit_spherical, unit_length


def _directions(n: int, dim: int, k: int, seed: int = 0, noise: float = 0.5) -> torch.Tensor:
    """Rows of any length around k directions."""
    random = np.random.default_rng(seed)
    means = random.standard_normal((k, dim))
    rows = means[random.integers(0, k, n)] + noise * random.standard_normal((n, dim))
    return torch.from_numpy((rows * random.uniform(0.1, 9, (n, 1))).astype(np.float32))


def _cosines(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    """Sum of each row's cosine to its nearest centroid."""
    return float((unit_length(rows).double() @ centroids.double().T).amax(1).sum())


def _plain(rows: np.ndarray, k: int, seed: int) -> float:
    """Lloyd's passes on the sphere from rows drawn at random; the sum of cosines reached."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centroids = rows[np.random.default_rng(seed).choice(len(rows), k, replace=False)]
    for _ in range(100):
        labels = (rows @ centroids.T).argmax(1)
        for i in set(labels.tolist()):
            mean = rows[labels == i].sum(0)
            centroids[i] = mean / np.linalg.norm(mean)
    return float((rows @ centroids.T).max(1).sum())


@pytest.mark.parametrize("seed", range(4))
def test_no_partition_of_a_few_rows_is_better(seed):
    rows = _directions(9, 3, 4, seed)
    unit = unit_length(rows).double()
    best = max(
        sum(float(unit[torch.tensor(labels) == i].sum(0).norm()) for i in range(2))
        for labels in product(range(2), repeat=9)
    )
    result = fit_spherical(lambda: [rows], KMeansConfig(2, n_starts=10, tolerance=0.0))
    assert _cosines(rows, result.centroids) == pytest.approx(best, rel=1e-5)


def test_many_rows_are_clustered_as_well_as_by_the_best_of_ten_plain_runs():
    rows = _directions(3000, 12, 25)
    plain = max(_plain(rows.numpy(), 15, seed) for seed in range(10))
    config = KMeansConfig(15, n_starts=5, passes=60, tolerance=1e-6)
    result = fit_spherical(lambda: rows.split(700), config)
    assert _cosines(rows, result.centroids) >= 0.995 * plain
    labels = assign_spherical(rows, result.centroids)
    means = torch.stack([unit_length(rows)[labels == i].sum(0) for i in range(15)])
    torch.testing.assert_close(result.centroids, unit_length(means), atol=2e-2, rtol=0)


def test_opposite_bundles_give_their_mean_directions():
    rows = torch.tensor([[3.0, 4], [4, 3], [-30, -40], [-0.4, -0.3]])
    result = fit_spherical(lambda: [rows], KMeansConfig(2))
    expected = unit_length(torch.tensor([[1.0, 1], [-1, -1]]))
    found = result.centroids[result.centroids[:, 0].argsort(descending=True)]
    torch.testing.assert_close(found, expected)
    cosine = (3 + 4) / (5 * 2**0.5)
    assert result.inertia == pytest.approx(4 * (2 - 2 * cosine), abs=1e-5)


def test_only_the_direction_counts():
    rows = _directions(500, 6, 8)
    lengths = torch.linspace(0.01, 100, 500)[:, None]
    first = fit_spherical(lambda: [rows], KMeansConfig(8))
    other = fit_spherical(lambda: [rows * lengths], KMeansConfig(8))
    torch.testing.assert_close(first.centroids, other.centroids, atol=1e-4, rtol=0)
    torch.testing.assert_close(first.centroids.norm(dim=1), torch.ones(8))
    labels = assign_spherical(rows * lengths, first.centroids)
    assert torch.equal(labels, (unit_length(rows) @ first.centroids.T).argmax(1))


def test_blocks_are_read_again_and_the_seed_decides():
    rows = _directions(20_000, 8, 40)
    calls = []

    def blocks():
        calls.append(1)
        return rows.split(4096)

    config = KMeansConfig(30, passes=4, reservoir_rows=2000, tolerance=0.0)
    first = fit_spherical(blocks, config)
    assert len(calls) == 2 + first.n_passes  # to count, to sample
    assert torch.equal(first.centroids, fit_spherical(blocks, config).centroids)


def test_clusters_without_rows_are_seeded_again():
    rows = torch.cat([torch.ones(1000, 4), _directions(40, 4, 20)])
    result = fit_spherical(lambda: [rows], KMeansConfig(30, passes=20, tolerance=0.0))
    assert torch.isfinite(result.centroids).all()
    assert len(assign_spherical(rows, result.centroids).unique()) > 20


def test_rows_of_zeros_spoil_nothing():
    rows = torch.cat([torch.zeros(10, 6), _directions(300, 6, 5)])
    result = fit_spherical(lambda: [rows], KMeansConfig(5))
    assert torch.isfinite(result.centroids).all()
    assert assign_spherical(torch.zeros(2, 6), result.centroids).shape == (2,)
    assert assign_spherical(torch.zeros(0, 6), result.centroids).shape == (0,)


def test_thousands_of_clusters_are_found_in_bounded_pieces():
    assert _rows(10_000) * 10_000 <= _DISTANCES
    rows = _directions(6000, 8, 2000, noise=0.05)
    result = fit_spherical(lambda: rows.split(1000), KMeansConfig(2000, n_starts=1, passes=3))
    assert len(assign_spherical(rows, result.centroids).unique()) > 1500
    assert result.inertia / 6000 < 0.05


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(3, 2), "3 frames cannot make 5 units"),
        (torch.full((10, 2), float("nan")), "NaN"),
        (torch.ones(0, 2), "no frames"),
        (torch.ones(10), "float32"),
        (torch.ones(10, 2, dtype=torch.int64), "float32"),
    ],
)
def test_bad_features_are_one_line_errors(rows, message):
    with pytest.raises(UserError, match=message) as error:
        fit_spherical(lambda: [rows], KMeansConfig(5))
    assert "\n" not in str(error.value)
