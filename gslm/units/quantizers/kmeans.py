"""k-means over blocks of features that are read again for each pass, never held together.

Start: k-means++ (Arthur and Vassilvitskii, 2007; its greedy variant) on a part of a reservoir
sample, several times, each refined on the whole sample, the best kept. Then Lloyd's passes over
all blocks, as products of matrices. Memory: one block, the reservoir and the centroids.

Where accelerate or torchrun started several processes, each has blocks of its own: the result is
that of one process which reads the blocks of the first, then those of the second, and so on, to
rounding. Sums go over the processes in each pass; the first one draws and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from gslm.errors import UserError
from gslm.processes import add_over_processes, copy_of_first, this_process

Blocks = Callable[[], Iterable[Tensor]]
"""Called for each pass; gives feature blocks (rows, dim) of float32, the same ones each time."""

Project = Callable[[Tensor], Tensor]
"""Takes means (k, dim) to centroids of the same shape."""

_ROWS = 8192  # most rows a product: distances and features stay in the cache
_DISTANCES = 2**22  # most distances a product, for many centroids
_CANDIDATES = 6  # candidates that k-means++ tries for each centroid
_DRAWN_AT_ONCE = 2**20  # rows that the reservoir draws for at once
_START_ROWS = 40  # rows a centroid that k-means++ reads k times: few enough for the cache


@dataclass(frozen=True)
class KMeansConfig:
    """Settings of one clustering."""

    k: int
    """Number of centroids."""
    seed: int = 0
    """Seed of the reservoir, the starts and the re-seeding."""
    n_starts: int = 3
    """k-means++ starts on the reservoir; the best goes on."""
    reservoir_rows: int = 10_000
    """Rows of the sample that the starts are made on; at least ten for each centroid."""
    sample_passes: int = 5
    """Lloyd's passes over the reservoir for each start."""
    passes: int = 20
    """Most passes over all blocks."""
    tolerance: float = 2e-4
    """Stop when a pass lowers the inertia by less than this share."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k-means: k must be at least 1, not {self.k}")
        if self.passes < 1 or self.n_starts < 1:
            raise UserError("k-means: passes and n_starts must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"k-means: seed {self.seed} must be from 0 to 2^63 - 1")


@dataclass(frozen=True)
class KMeansResult:
    """Centroids and how they were found."""

    centroids: Tensor
    """Float32 (k, dim)."""
    inertia: float
    """Sum of squared distances in the last pass, to the centroids before its update."""
    n_rows: int
    """Rows in a pass."""
    n_passes: int
    """Passes over all blocks, the reservoir's not counted."""


def assign(features: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid; int64 (rows,) for features (rows, dim), centroids (k, dim)."""
    centred, offsets, _ = _prepared(centroids)
    parts = features.split(_rows(len(centroids)))
    return torch.cat([_scores(rows, centred, offsets).argmin(1) for rows in parts])


def relative_distances(features: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances less a number for each row, which is enough to compare centroids.

    features: (rows, dim); centroids: (k, dim). Returns (rows, k).
    """
    centred, offsets, _ = _prepared(centroids)
    return _scores(features, centred, offsets)


def inertia(features: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances of features (rows, dim) to their nearest of (k, dim)."""
    total = 0.0
    for rows in features.split(_rows(len(centroids))):
        total += float(
            (rows - centroids[assign(rows, centroids)]).square().sum(dtype=torch.float64)
        )
    return total


def fit_kmeans(
    blocks: Blocks, config: KMeansConfig, progress: bool = False, project: Project | None = None
) -> KMeansResult:
    """Cluster the rows of all blocks.

    project: takes the means (k, dim) of each pass to where centroids must lie; see `spherical`.
    Raises `UserError` for features that are not finite, differ in width, or have fewer rows
    than centroids. The result depends on the blocks, their order and the seed alone. Of several
    processes all must call this, each with its own blocks, be they none.
    """
    generator = torch.Generator().manual_seed(config.seed)
    reservoir, n_rows = _reservoir(blocks, config, generator)
    if n_rows < config.k:
        raise UserError(
            f"k-means: {n_rows} frames cannot make {config.k} units; give more audio or a smaller k"
        )
    centroids = reservoir[: config.k]
    if this_process().is_main_process:
        starts = (_start(reservoir, config, generator, project) for _ in range(config.n_starts))
        centroids = min(starts, key=lambda start: start[1])[0]
    centroids = copy_of_first(centroids)
    previous = float("inf")
    bar = tqdm(range(1, config.passes + 1), desc="k-means", unit="pass", disable=not progress)
    for n_passes in bar:  # noqa: B007  (its last value is reported)
        sums, counts, sum_of_squares = _sums(blocks(), centroids)
        add_over_processes(sums, counts, sum_of_squares)
        # One process draws new places for centroids that lost all rows.
        moved = _moved(centroids, sums, counts, reservoir, generator, project)
        centroids, total = copy_of_first(moved), float(sum_of_squares)
        bar.set_postfix(inertia=f"{total / n_rows:.4f}")
        if previous - total <= config.tolerance * total:
            break
        previous = total
    bar.close()
    return KMeansResult(centroids, total, n_rows, n_passes)


def _rows(k: int) -> int:
    """Rows whose distances to k centroids are computed at once."""
    return max(1, min(_ROWS, _DISTANCES // k))


def _prepared(centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centroids around their mean m, the offsets that `_scores` adds, and m.

    |x - c|^2 differs from |c - m|^2 + 2 m.(c - m) - 2 x.(c - m) by |x - m|^2 alone, and the
    latter stays exact enough in float32 for features far from zero.
    """
    mean = centroids.mean(0)
    centred = centroids - mean
    return centred, centred.square().sum(1) + 2 * (centred @ mean), mean


def _scores(rows: Tensor, centred: Tensor, offsets: Tensor) -> Tensor:
    """Squared distances less what is equal for all centroids; (rows, k)."""
    return torch.addmm(offsets, rows, centred.T, alpha=-2)


def _sums(blocks: Iterable[Tensor], centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of each centroid, added up (k, dim) and counted (k,), and the inertia (), in float64."""
    sums = torch.zeros_like(centroids)
    counts = torch.zeros(len(centroids), dtype=torch.float64)
    centred, offsets, mean = _prepared(centroids)
    total = torch.zeros((), dtype=torch.float64)
    for block in blocks:
        for rows in block.split(_rows(len(centroids))):
            lowest, labels = _scores(rows, centred, offsets).min(1)
            sums.index_add_(0, labels, rows)
            counts += torch.bincount(labels, minlength=len(centroids))
            total += lowest.sum(dtype=torch.float64) + _sum_of_squares(rows)
    # What the scores leave out: the sum of |x - m|^2, less the |x|^2 added above.
    total += (counts.sum() * mean.double().square().sum() - 2 * (sums.sum(0) @ mean)).double()
    return sums, counts, total


def _moved(
    centroids: Tensor,
    sums: Tensor,
    counts: Tensor,
    reservoir: Tensor,
    generator: torch.Generator,
    project: Project | None,
) -> Tensor:
    """New centroids (k, dim): means of their rows, or rows far from all others."""
    moved = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None].float(), centroids)
    if project is not None:
        moved = project(moved)
    dead = (counts == 0).nonzero().flatten()
    if len(dead):
        moved[dead] = _far_rows(reservoir, moved, len(dead), generator)
    return moved


def _sum_of_squares(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows)) ** 2


def _far_rows(rows: Tensor, centroids: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n rows with odds that grow with the squared distance to the nearest centroid."""
    nearest = centroids[assign(rows, centroids)]
    distances = (rows - nearest).square().sum(1)
    return rows[_draw(distances, n, generator)]


def _draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n indices in proportion to weights (rows,); evenly where all weights are zero."""
    sums = weights.double().clamp(min=0).cumsum(0)
    if float(sums[-1]) <= 0:
        return torch.randint(len(weights), (n,), generator=generator)
    points = torch.rand(n, generator=generator, dtype=torch.float64) * sums[-1]
    return torch.searchsorted(sums, points, right=True).clamp(max=len(weights) - 1)


def _start(
    sample: Tensor, config: KMeansConfig, generator: torch.Generator, project: Project | None
) -> tuple[Tensor, float]:
    """One k-means++ start, refined on the sample; centroids and the sample's inertia."""
    part = torch.randperm(len(sample), generator=generator)[: _START_ROWS * config.k]
    centroids = _plus_plus(sample[part], config.k, generator)
    inertia_before = float("inf")
    for _ in range(config.sample_passes):
        sums, counts, total = _sums([sample], centroids)
        centroids = _moved(centroids, sums, counts, sample, generator, project)
        inertia_before = float(total)
    return centroids, inertia_before


def _plus_plus(sample: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: of a few candidates drawn by squared distance, keep the best.

    Above a thousand centroids several are taken from each draw, which costs little quality and
    keeps the number of sweeps over the sample near a thousand.
    """
    squares = sample.square().sum(1)
    first = int(torch.randint(len(sample), (1,), generator=generator))
    chosen = [first]
    nearest = (squares + squares[first] - 2 * (sample @ sample[first])).clamp(min=0)
    per_draw = 1 + k // 1000
    while len(chosen) < k:
        drawn = _draw(nearest, _CANDIDATES * per_draw, generator)
        distances = torch.addmm(squares[drawn], sample, sample[drawn].T, alpha=-2)
        distances += squares[:, None]
        distances = torch.minimum(distances.clamp(min=0), nearest[:, None])
        best = distances.sum(0).argsort(stable=True)[: min(per_draw, k - len(chosen))]
        chosen += drawn[best].tolist()
        nearest = distances[:, best].amin(1)
    return sample[torch.tensor(chosen)].clone()


def _reservoir(
    blocks: Blocks, config: KMeansConfig, generator: torch.Generator
) -> tuple[Tensor, int]:
    """An even sample of the rows of all processes, which all of them get, and their number."""
    process = this_process()
    counts = torch.zeros(process.num_processes, 2, dtype=torch.int64)
    counts[process.process_index] = torch.tensor(_counted(blocks))
    add_over_processes(counts)
    n_rows, dim = int(counts[:, 0].sum()), int(counts[:, 1].max())
    if n_rows == 0:
        raise UserError("k-means: no frames to cluster; give at least one readable recording")
    chosen = _chosen_rows(n_rows, max(config.reservoir_rows, 10 * config.k), generator)
    # Each row is one process' own: the others add zeros.
    sample = torch.zeros(len(chosen), dim)
    order = chosen.argsort()
    start = int(counts[: process.process_index, 0].sum())
    for block in blocks():
        first, end = torch.searchsorted(
            chosen[order], torch.tensor([start, start + len(block)])
        ).tolist()
        sample[order[first:end]] = block[chosen[order[first:end]] - start]
        start += len(block)
    add_over_processes(sample)
    return sample, n_rows


def _counted(blocks: Blocks) -> tuple[int, int]:
    """Rows of this process' blocks and their width, 0 where there are none; checks all."""
    n_rows = dim = 0
    for block in blocks():
        _check(block, dim)
        dim = block.shape[1]
        n_rows += len(block)
    return n_rows, dim


def _chosen_rows(n_rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Numbers (at most size,) of rows drawn evenly: Vitter's algorithm R, in bounded memory."""
    chosen = torch.arange(min(size, n_rows))
    for start in range(size, n_rows, _DRAWN_AT_ONCE):
        rows = torch.arange(start, min(n_rows, start + _DRAWN_AT_ONCE))
        places = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        slots = (places * (rows + 1)).long()
        # Row by row: where two rows fall on one slot the later one must stay, always.
        for row in (slots < size).nonzero().flatten().tolist():
            chosen[slots[row]] = rows[row]
    return chosen


def _check(block: Tensor, dim: int) -> None:
    if block.ndim != 2 or block.dtype != torch.float32:
        raise UserError(
            f"k-means: features must be float32 (rows, dim), not {block.dtype} {tuple(block.shape)}"
        )
    if dim and block.shape[1] != dim:
        raise UserError(
            f"k-means: features have {block.shape[1]} dimensions after {dim}; "
            "use one encoder for all"
        )
    # A sum is finite only if every term is (terms near the float32 limit apart).
    if not torch.isfinite(block.sum()):
        raise UserError("k-means: features hold NaN or infinite values; check the audio")
