"""Our streaming k-means beside scikit-learn's MiniBatchKMeans with GSLM's settings.

    python benchmarks/kmeans.py [--quick] [--noise] [--rows 100000] [--threads 2]

Prints the machine's float32 matmul rate, seconds, inertia (measured the same way for both) and
the ratio; then our peak memory over one and over ten hours of features that are made on the fly.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from machine import matmul_rate

from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans, inertia

DIM = 768
K = 100


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="ten thousand rows")
    parser.add_argument("--noise", action="store_true", help="rows without clusters")
    parser.add_argument("--memory-hours", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_hours:
        _peak_of(arguments.memory_hours)
        return
    n_rows = 10_000 if arguments.quick else arguments.rows
    print(f"matmul 2048^3, {arguments.threads} threads: {matmul_rate():.0f} GFLOP/s")
    rows = make_rows(n_rows, arguments.noise)
    ours_s, ours = min(_ours(rows) for _ in range(3))
    print(f"gslm          {ours_s:8.2f} s   inertia {ours:.6e}")
    theirs_s, theirs = _scikit_learn(rows)
    print(f"scikit-learn  {theirs_s:8.2f} s   inertia {theirs:.6e}")
    print(f"ratio {theirs_s / ours_s:.1f} x, inertia {100 * (ours / theirs - 1):+.3f} %")
    for hours in (0.1, 1.0) if arguments.quick else (1.0, 10.0):
        command = [sys.executable, __file__, "--memory-hours", str(hours)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def make_rows(n_rows: int, noise: bool) -> torch.Tensor:
    """Rows (n, 768) around 400 means, or plain Gaussian noise."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((n_rows, DIM), dtype=np.float32)
    if not noise:
        means = random.standard_normal((400, DIM), dtype=np.float32)
        rows += means[random.integers(0, 400, n_rows)]
    return torch.from_numpy(rows)


def _ours(rows: torch.Tensor) -> tuple[float, float]:
    start = time.perf_counter()
    result = fit_kmeans(lambda: rows.split(20_000), KMeansConfig(K))
    seconds = time.perf_counter() - start
    return seconds, inertia(rows, result.centroids)


def _scikit_learn(rows: torch.Tensor) -> tuple[float, float]:
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(
        K, init="k-means++", n_init=20, batch_size=10_000, max_iter=150, tol=0.0,
        max_no_improvement=100, reassignment_ratio=0.5, random_state=0, compute_labels=False,
    )  # fmt: skip
    start = time.perf_counter()
    model.fit(rows.numpy())
    seconds = time.perf_counter() - start
    return seconds, inertia(rows, torch.from_numpy(model.cluster_centers_).float())


def _peak_of(hours: float) -> None:
    """Fit on `hours` of features that exist one block at a time; print this process' peak."""
    n_blocks = max(1, round(hours * 3600 * 50 / 20_000))

    def blocks() -> Iterator[torch.Tensor]:
        for i in range(n_blocks):
            generator = torch.Generator().manual_seed(i)
            yield torch.randn(20_000, DIM, generator=generator)

    fit_kmeans(blocks, KMeansConfig(K, passes=2, n_starts=1))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory over {hours:g} hours of features: {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
