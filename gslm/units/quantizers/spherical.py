"""Spherical k-means: rows and centroids of unit length, compared by the cosine between them.

On the unit sphere |x - c|^2 = 2 - 2 cos(x, c), so everything but the centroids' length is plain
k-means: after each pass the means go back to the sphere (Dhillon and Modha, 2001). Clusters that
lost all rows are seeded again, blocks are read again for each pass, and memory is bounded, as in
`kmeans`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gslm.units.quantizers.kmeans import Blocks, KMeansConfig, KMeansResult, assign, fit_kmeans


def unit_length(rows: Tensor) -> Tensor:
    """Rows (n, dim) over their L2 norms; rows of zeros stay."""
    return F.normalize(rows, dim=1)


def fit_spherical(blocks: Blocks, config: KMeansConfig, progress: bool = False) -> KMeansResult:
    """Cluster the directions of the rows of all blocks.

    Returns centroids of unit length (k, dim); the inertia is the sum of 2 - 2 cos(x, c). Raises
    `UserError` as `fit_kmeans` does.
    """

    def directions() -> Iterator[Tensor]:
        for block in blocks():
            # What is not a matrix of finite floats is told by `fit_kmeans`.
            sound = block.ndim == 2 and block.is_floating_point()
            yield unit_length(block) if sound else block

    return fit_kmeans(directions, config, progress, project=unit_length)


def assign_spherical(features: Tensor, centroids: Tensor) -> Tensor:
    """Index of the centroid of largest cosine; int64 (rows,).

    features: (rows, dim) of any length; centroids: (k, dim) of unit length.
    """
    if len(features) == 0:
        return torch.zeros(0, dtype=torch.int64)
    return assign(unit_length(features), centroids)
