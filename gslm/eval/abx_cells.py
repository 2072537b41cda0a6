"""Cells of an ABX task, and their errors averaged step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PhonePair:
    """The error for X and A of one phone, or other ON, against B of another."""

    x: str
    """Phone of X and A."""
    b: str
    """Phone of B."""
    error_rate: float
    """From 0 to 1, averaged as the whole is."""
    n_triplets: int
    """Triplets behind it."""


@dataclass(frozen=True)
class Cells:
    """Triplets that agree in every label, and how often X is nearer to B than to A in each."""

    labels: dict[str, NDArray[np.str_]]
    """For each column, its values by number."""
    columns: dict[str, Integers]
    """For each column, every cell's value, (c,); `b` holds ON's of B, `x:…` ACROSS's of X."""
    errors: NDArray[np.float64]
    """Errors in each cell, (c,); ties count half."""
    sizes: Integers
    """Triplets in each cell, (c,)."""
    on: str
    """The column that tells A from B."""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def error_rates(self) -> NDArray[np.float64]:
        """Share of errors in each cell, (c,)."""
        return self.errors / self.sizes

    def phone_pairs(self, levels: Sequence[tuple[str, ...]]) -> list[PhonePair]:
        """Error of each ordered pair of phones.

        levels: columns to average over, one level after another; those of a tuple at once. The
        first averages over X's ACROSS as well. Together they are all of BY and ACROSS.
        """
        left = {name: codes for name, codes in self.columns.items() if not name.startswith("x:")}
        rates, sizes = self.error_rates, self.sizes
        for level in levels:
            left = {name: codes for name, codes in left.items() if name not in level}
            first, which = _grouped(list(left.values()))
            rates = np.bincount(which, rates) / np.bincount(which)
            sizes = np.bincount(which, sizes).astype(np.int64)
            left = {name: codes[first] for name, codes in left.items()}
        names = self.labels[self.on]
        return [
            PhonePair(str(names[x]), str(names[b]), float(rate), int(size))
            for x, b, rate, size in zip(left[self.on], left["b"], rates, sizes, strict=True)
        ]

    def error_rate(self, levels: Sequence[tuple[str, ...]]) -> float:
        """Mean over the pairs of phones; see `phone_pairs`."""
        return float(np.mean([pair.error_rate for pair in self.phone_pairs(levels)]))


def merged_cells(
    labels: dict[str, NDArray[np.str_]],
    columns: dict[str, Integers],
    doubled_errors: Integers,
    sizes: Integers,
    on: str,
) -> Cells:
    """Cells out of parts, of which several may belong to one cell.

    columns: (p,) each; doubled_errors: twice the errors of each part, (p,), sizes its triplets.
    """
    first, which = _grouped(list(columns.values()))
    return Cells(
        labels,
        {name: codes[first] for name, codes in columns.items()},
        np.bincount(which, doubled_errors) / 2,
        np.bincount(which, sizes).astype(np.int64),
        on,
    )


def _grouped(columns: list[Integers]) -> tuple[Integers, Integers]:
    """Rows of equal values in all columns: the first of each, and which group each row is in."""
    which = np.zeros(len(columns[0]), np.int64)
    first = np.zeros(1, np.int64)
    for column in columns:
        together = which * (int(column.max()) + 1) + column
        _, first, which = np.unique(together, return_index=True, return_inverse=True)
    return first, which
