"""Interpolated Kneser-Ney n-grams: the reference that a unit language model must beat."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gslm.errors import UserError

Context: TypeAlias = tuple[int, ...]
BOS, EOS = -1, -2
"""Marks of a sequence's beginning and end; units are 0 and up."""


@dataclass(frozen=True)
class _Level:
    """Counts of one order."""

    counts: dict[Context, dict[int, int]]
    """For each context: how often each token follows (the highest order), or after how many
    different tokens the context and token stand together (lower orders)."""
    totals: dict[Context, int]
    """Sum of each context's counts."""
    discounts: tuple[float, float, float]
    """Taken off counts of 1, 2, and 3 or more."""
    reserved: dict[Context, float] = field(default_factory=dict)
    """Share of each context's probability that goes to the lower order."""


class NGramModel:
    """Interpolated Kneser-Ney smoothing with three discounts an order (Chen & Goodman 1998)."""

    def __init__(
        self, sequences: Iterable[Sequence[int]], order: int, vocabulary_size: int
    ) -> None:
        """Count `sequences` of units, each (n,) with ids from 0 to vocabulary_size - 1.

        order: longest n-gram, 1 or more. A sequence is predicted from its beginning to its end,
        so the end is one more token. Raises `UserError` where there is nothing to count.
        """
        if order < 1:
            raise UserError(f"n-gram order must be at least 1, got {order}")
        self.order, self.vocabulary_size = order, vocabulary_size
        counts = [defaultdict(Counter) for _ in range(order)]  # type: ignore[var-annotated]
        for sequence in sequences:
            for context, token in _events(sequence, order):
                counts[order - 1][context][token] += 1
        if not counts[order - 1]:
            raise UserError("n-gram: there are no sequences to count; give a corpus that has some")
        for n in range(order - 1, 0, -1):
            for context, followers in counts[n].items():
                for token in followers:
                    counts[n - 1][context[1:]][token] += 1
        self.levels = [_level(level) for level in counts]

    def probability(self, context: Context, token: int) -> float:
        """Probability of `token` (a unit or `EOS`) after `context` (any length, `BOS` first)."""
        context = context[max(0, len(context) - self.order + 1) :]
        value = 1.0 / (self.vocabulary_size + 1)
        for n in range(len(context) + 1):
            level, seen = self.levels[n], context[len(context) - n :]
            total = level.totals.get(seen)
            if total is None:
                break
            count = level.counts[seen].get(token, 0)
            kept = count - level.discounts[min(count, 3) - 1] if count else 0.0
            value = kept / total + level.reserved[seen] * value
        return value

    def score(self, sequence: Sequence[int]) -> float:
        """Log-likelihood of a sequence and its end, in nats."""
        return sum(
            math.log(self.probability(context, token))
            for context, token in _events(sequence, self.order)
        )


def _events(sequence: Sequence[int] | NDArray, order: int) -> Iterator[tuple[Context, int]]:
    """Each token of a sequence, and its end, with the `order` - 1 tokens before it."""
    padded = [BOS] * (order - 1) + [int(unit) for unit in np.asarray(sequence)] + [EOS]
    for index in range(order - 1, len(padded)):
        yield tuple(padded[index - order + 1 : index]), padded[index]


def _level(counts: dict[Context, Counter[int]]) -> _Level:
    """Totals, discounts and reserved shares of one order's counts."""
    discounts = _discounts(counts.values())
    totals, reserved = {}, {}
    for context, followers in counts.items():
        totals[context] = followers.total()
        taken = sum(discounts[min(count, 3) - 1] for count in followers.values())
        reserved[context] = taken / totals[context]
    return _Level(dict(counts), totals, discounts, reserved)


def _discounts(counts: Iterable[Counter[int]]) -> tuple[float, float, float]:
    """Chen and Goodman's estimates from the counts of counts.

    Where too few counts are small for an estimate, one discount of 0.5 stands in.
    """
    seen = Counter(count for followers in counts for count in followers.values() if count <= 4)
    if not all(seen[count] for count in (1, 2, 3, 4)):
        return 0.5, 0.5, 0.5
    base = seen[1] / (seen[1] + 2 * seen[2])
    first, second, third = (n - (n + 1) * base * seen[n + 1] / seen[n] for n in (1, 2, 3))
    limit = [min(max(value, 0.0), n) for n, value in enumerate((first, second, third), 1)]
    return limit[0], limit[1], limit[2]
