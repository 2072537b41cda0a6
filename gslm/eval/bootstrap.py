"""Bootstrap intervals over clips: how far a mean or an error rate could be off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RESAMPLES = 10_000
_BLOCK = 500


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap percentile interval."""

    estimate: float
    """The figure on all clips."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit, such as percent."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor)


def ratio_interval(
    errors: ArrayLike, totals: ArrayLike, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of sum(errors) / sum(totals) when clips are drawn again with replacement.

    errors, totals: (clips,), such as word errors and words; with totals of one, a mean. Word error
    rates after Bisani & Ney (2004), https://doi.org/10.1109/ICASSP.2004.1326009.
    """
    e, n = np.asarray(errors, float), np.asarray(totals, float)
    draws = np.concatenate([(c @ e) / (c @ n) for c in _counts(len(e), seed)])
    return _interval(float(e.sum() / n.sum()), draws, level)


def paired_difference_interval(
    errors: ArrayLike,
    other_errors: ArrayLike,
    totals: ArrayLike,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the difference of two rates on the same clips, drawn together.

    errors, other_errors, totals: (clips,) in the same order. Returns the interval of
    (sum(errors) - sum(other_errors)) / sum(totals): how much worse the first is.
    """
    difference = np.asarray(errors, float) - np.asarray(other_errors, float)
    return ratio_interval(difference, totals, level, seed)


def _counts(n_clips: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each clip is drawn, (resamples, clips) at a time: memory bounded by a block."""
    rng = np.random.default_rng(seed)
    for start in range(0, N_RESAMPLES, _BLOCK):
        rows = min(_BLOCK, N_RESAMPLES - start)
        yield rng.multinomial(n_clips, np.full(n_clips, 1 / n_clips), size=rows).astype(float)


def _interval(estimate: float, draws: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
