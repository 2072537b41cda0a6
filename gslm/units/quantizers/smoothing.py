"""Fewer unit changes: a dynamic program that trades distance to the centroid against changing.

The units u of a recording's frames x minimise

    sum over t of |x[t] - c[u[t]]|^2  +  penalty * (number of t where u[t] differs from u[t - 1]),

the duration-penalised segmentation of Kamper and van Niekerk (2021) with one cost for each run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.errors import UserError
from gslm.units.quantizers.kmeans import relative_distances

WINDOW_FRAMES = 3000
"""Frames, a minute at 50 Hz, that a decision may wait for what follows."""

_ROWS = 1024  # rows whose distances to all centroids are held at once

Runs = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Unit ids (n,) and their durations in frames (n,)."""


@dataclass(frozen=True)
class Smoothing:
    """Units that change only where it pays."""

    penalty: float
    """Cost of a change, in units of the centroids' `spacing`, so that one value suits any
    encoder: 1 makes about a third fewer runs."""

    def __post_init__(self) -> None:
        if not 0 < self.penalty < float("inf"):
            raise UserError(f"smoothing penalty {self.penalty}: give a number above 0, such as 1")

    def __str__(self) -> str:
        return f"smoothed {self.penalty:g}"


def spacing(centroids: Tensor) -> float:
    """Mean squared distance of centroids (k, dim) to the nearest other one; 0 for one alone."""
    if len(centroids) < 2:
        return 0.0
    rows = centroids.double()
    nearest = []
    for start in range(0, len(rows), _ROWS):
        distances = torch.cdist(rows[start : start + _ROWS], rows)
        distances.diagonal(start).fill_(torch.inf)
        nearest.append(distances.amin(1).square())
    return float(torch.cat(nearest).mean())


def smooth(
    parts: Iterable[Tensor], centroids: Tensor, penalty: float, window: int = WINDOW_FRAMES
) -> Iterator[Runs]:
    """Cheapest units of one recording, run by run, as soon as no later frame can change them.

    parts: float32 frames (n, dim) in order; how they are parted does not change the result.
    centroids: (k, dim). penalty: cost of a change, a squared distance. A run may be given in
    pieces. Where paths through the last `window` frames never met, the cheapest of them is
    taken there; elsewhere the units are the cheapest of all. Memory: one part and the window.
    """
    path = _CheapestPath(len(centroids), penalty, window)
    for part in parts:
        for rows in part.split(_ROWS):
            yield from path.extend(relative_distances(rows, centroids).numpy())
    if path.n_frames:
        yield path.decide_all()


class _CheapestPath:
    """Viterbi's algorithm where every change costs the same.

    A change at frame t comes from the unit that was cheapest at t - 1, whichever unit follows.
    So the way back is kept not as a table of frames by units, but as one link a frame: that unit
    and where its run began; and for each unit, where its current run began.
    """

    def __init__(self, n_units: int, penalty: float, window: int) -> None:
        self.penalty = np.float32(penalty)
        self.costs = np.zeros(n_units, np.float32)  # of the cheapest path to each unit
        self.starts = np.zeros(n_units, np.int64)  # of that path's last run
        self.units_before = np.zeros(window, np.int32)  # the links of the undecided frames
        self.starts_before = np.zeros(window, np.int64)
        self.n_frames = 0  # not decided yet; frames are counted from the first of these

    def extend(self, distances: NDArray[np.float32]) -> Iterator[Runs]:
        """Go on by frames (n, k); yields what is decided."""
        costs, starts = self.costs, self.starts
        changes = np.empty(len(costs), dtype=bool)
        for row in distances:
            if self.n_frames == len(self.units_before):
                yield self.decide_shared() or self.decide_all()
            t = self.n_frames
            if t:
                cheapest = costs.argmin()
                self.units_before[t] = cheapest
                self.starts_before[t] = starts[cheapest]
                np.subtract(costs, costs[cheapest], out=costs)
                np.greater(costs, self.penalty, out=changes)
                np.copyto(starts, t, where=changes)
                np.minimum(costs, self.penalty, out=costs)
            np.add(costs, row, out=costs)
            self.n_frames += 1
        if decided := self.decide_shared():
            yield decided

    def decide_shared(self) -> Runs | None:
        """Runs that all paths have in common; None where there are none."""
        end = self._last_shared_change()
        if end == 0:
            return None
        runs = self._runs(int(self.units_before[end]), int(self.starts_before[end]), end)
        n_left = self.n_frames - end
        self.units_before[:n_left] = self.units_before[end : self.n_frames]
        self.starts_before[:n_left] = self.starts_before[end : self.n_frames] - end
        self.starts -= end
        self.n_frames = n_left
        return runs

    def decide_all(self) -> Runs:
        """Runs of the cheapest path; what follows goes on from its end."""
        unit = int(self.costs.argmin())
        runs = self._runs(unit, int(self.starts[unit]), self.n_frames)
        self.costs[:] = self.penalty
        self.costs[unit] = 0
        self.starts[:] = 0
        self.n_frames = 0
        return runs

    def _last_shared_change(self) -> int:
        """Frame of the last change that all paths have; 0 where there is none."""
        taken = np.zeros(max(1, self.n_frames), dtype=bool)
        taken[self.starts] = True
        n_taken = int(taken.sum())
        for t in range(self.n_frames - 1, 0, -1):
            if taken[t]:
                if n_taken == 1:
                    return t
                # Go from this change to the one before it.
                before = self.starts_before[t]
                n_taken -= bool(taken[before])
                taken[before] = True
        return 0

    def _runs(self, unit: int, start: int, end: int) -> Runs:
        """The path whose last run, of `unit`, covers frames start to end - 1."""
        ids, durations = [unit], [end - start]
        while start:
            end, unit, start = (
                start,
                int(self.units_before[start]),
                int(self.starts_before[start]),
            )
            ids.append(unit)
            durations.append(end - start)
        return np.array(ids[::-1], np.int32), np.array(durations[::-1], np.int32)
