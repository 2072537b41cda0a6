"""Streaming k-means against scikit-learn, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.units.quantizers.kmeans import KMeansConfig, assign, fit_kmeans, inertia


def _mixture(n: int, dim: int, k: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    means = random.standard_normal((k, dim)) * 2
    rows = means[random.integers(0, k, n)] + random.standard_normal((n, dim)) + offset
    return torch.from_numpy(rows.astype(np.float32))


def test_inertia_is_no_worse_than_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    rows = _mixture(6000, 16, 30)
    theirs = cluster.KMeans(20, n_init=5, random_state=0).fit(rows.numpy()).inertia_
    config = KMeansConfig(20, n_starts=5, passes=60, tolerance=1e-6)
    result = fit_kmeans(lambda: rows.split(1000), config)
    assert inertia(rows, result.centroids) <= theirs * 1.01


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_assignment_and_inertia_equal_the_plain_distances(offset):
    rows, centroids = _mixture(500, 8, 5, offset=offset), _mixture(20, 8, 5, 1, offset)
    distances = torch.cdist(rows.double(), centroids.double())
    lowest = distances.min(1).values
    ours = distances.gather(1, assign(rows, centroids)[:, None])[:, 0]
    assert torch.allclose(ours, lowest, atol=1e-2)
    assert inertia(rows, centroids) == pytest.approx(float(lowest.square().sum()), rel=1e-4)


def test_reported_inertia_is_that_of_the_last_pass():
    rows = _mixture(3000, 8, 5, offset=50)
    config = KMeansConfig(5, passes=60, tolerance=0.0)
    result = fit_kmeans(lambda: rows.split(700), config)
    assert result.inertia == pytest.approx(inertia(rows, result.centroids), rel=1e-3)


def test_the_seed_decides_and_blocks_are_read_again():
    rows = _mixture(30_000, 8, 40)
    calls = []

    def blocks():
        calls.append(1)
        return rows.split(4096)

    config = KMeansConfig(30, passes=4, reservoir_rows=2000, tolerance=0.0)
    first = fit_kmeans(blocks, config)
    assert len(calls) == 2 + first.n_passes  # to count, to sample
    assert torch.equal(first.centroids, fit_kmeans(blocks, config).centroids)
    assert first.n_rows == 30_000


def test_duplicated_rows_leave_no_nan():
    rows = torch.ones(1000, 4)
    result = fit_kmeans(lambda: [rows], KMeansConfig(8))
    assert torch.isfinite(result.centroids).all()


def test_the_reservoir_is_an_even_sample():
    from gslm.units.quantizers.kmeans import _reservoir

    rows = torch.arange(50_000, dtype=torch.float32)[:, None]
    config = KMeansConfig(2, reservoir_rows=2000)
    sample, n = _reservoir(lambda: rows.split(999), config, torch.Generator().manual_seed(0))
    assert n == 50_000
    assert len(sample.unique()) == 2000
    assert sample.mean() == pytest.approx(25_000, rel=0.05)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3, 2), "3 frames cannot make 5 units"),
        (torch.full((10, 2), float("nan")), "NaN"),
        (torch.zeros(0, 2), "no frames"),
        (torch.zeros(10), "float32"),
    ],
)
def test_bad_features_are_one_line_errors(rows, message):
    with pytest.raises(UserError, match=message) as error:
        fit_kmeans(lambda: [rows], KMeansConfig(5))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**20])
def test_seeds_that_no_generator_takes_are_errors(seed):
    with pytest.raises(UserError, match="seed"):
        KMeansConfig(4, seed)
