"""How features are centred and scaled before they are quantised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gslm.errors import UserError
from gslm.processes import add_over_processes

NORMALIZATIONS = ("none", "frame", "global", "frame+global", "utterance")
"""none; each frame over its own dimensions; each dimension by mean and deviation of the training
set; the one, then the other; or each dimension by those of the recording itself."""

_LEAST_DEVIATION = 1e-3  # keeps constant dimensions, as in silence, from being blown up


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and standard deviation of each dimension."""

    mean: Tensor
    """Float32 (dim,)."""
    deviation: Tensor
    """Float32 (dim,), never below a small floor."""

    def normalize(self, frames: Tensor) -> Tensor:
        """Centre and scale frames (n, dim)."""
        mean, deviation = self.mean.to(frames.device), self.deviation.to(frames.device)
        return (frames - mean) / deviation


def check_normalization(name: str) -> str:
    """Return `name` or raise a `UserError` that lists what is known."""
    if name not in NORMALIZATIONS:
        raise UserError(f"normalisation {name!r} is unknown; known are {', '.join(NORMALIZATIONS)}")
    return name


def by_frame(name: str) -> bool:
    """Whether a normalisation begins with each frame over its own dimensions."""
    return name in ("frame", "frame+global")


def by_training_set(name: str) -> bool:
    """Whether a normalisation needs the mean and deviation of the training set."""
    return name in ("global", "frame+global")


def normalize_frames(frames: Tensor) -> Tensor:
    """Centre and scale each frame over its dimensions, (n, dim) to the same shape.

    A transformer's next layer reads its states through such a norm; a few large dimensions that
    say little about the sound would else decide which centroid is nearest.
    """
    return F.layer_norm(frames, frames.shape[-1:])


def feature_statistics(
    blocks: Iterable[Tensor], *, over_processes: bool = False, dim: int = 0
) -> FeatureStatistics:
    """Statistics over all rows of blocks (n, dim), summed in float64.

    over_processes: all processes call this, and the rows of all count; `dim` is then needed,
    since one of them may have no rows. Raises `UserError` where there are no rows.
    """
    count = torch.zeros((), dtype=torch.float64)
    sums = torch.zeros(dim, dtype=torch.float64)
    squares = torch.zeros_like(sums)
    for block in blocks:
        rows = block.cpu().double()
        if len(sums) == 0:
            sums = torch.zeros(rows.shape[1], dtype=torch.float64)
            squares = torch.zeros_like(sums)
        count += len(rows)
        sums += rows.sum(0)
        squares += rows.square().sum(0)
    if over_processes:
        add_over_processes(count, sums, squares)
    n_rows = int(count)
    if n_rows == 0:
        raise UserError("no frames to measure; give at least one readable recording")
    mean = sums / n_rows
    deviation = (squares / n_rows - mean.square()).clamp(min=0).sqrt().clamp(min=_LEAST_DEVIATION)
    return FeatureStatistics(mean.float(), deviation.float())
