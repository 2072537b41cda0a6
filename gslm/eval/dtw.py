"""Many small alignments at once: dynamic time warping and edit distance of pairs of sequences.

Pairs of like size go through the recurrence together, one anti-diagonal of all their tables at a
time, so that each step is a few array operations on long rows. Costs and path lengths are those
of the usual table, cell for cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]

_WIDTH = 32_768
"""Cells of one anti-diagonal over a whole batch: the arrays of a step stay in the cache."""

_MOST_PAIRS = 8_192


@dataclass(frozen=True)
class Batch:
    """Pairs whose tables are filled together."""

    pairs: Integers
    """Which pairs, (b,), those of one size beside each other."""
    n_rows: int
    """Most rows of their tables."""
    n_columns: int
    """Most columns of their tables."""
    ends: dict[int, list[tuple[int, slice]]]
    """For an anti-diagonal: in which row which of the pairs (as a slice of the batch) end."""


def batches(n_rows: Integers, n_columns: Integers) -> Iterator[Batch]:
    """Group pairs by size; n_rows and n_columns, (p,), are each pair's lengths in frames.

    Lengths are rounded up a little, so that rare sizes share a batch with their neighbours:
    what lies beyond a pair's own end changes nothing in its table before it.
    """
    if not len(n_rows):
        return
    span = int(max(n_rows.max(), n_columns.max())) + 1
    size = n_rows * span + n_columns
    class_ = _rounded_up(n_rows) * 4 * span + _rounded_up(n_columns)
    order = np.lexsort((size, class_))
    class_, size = class_[order], size[order]
    starts = np.flatnonzero(np.r_[True, class_[1:] != class_[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        widest = min(int(n_rows[order[start:stop]].max()), int(n_columns[order[start:stop]].max()))
        step = max(1, min(_MOST_PAIRS, _WIDTH // widest))
        for first in range(start, stop, step):
            part = slice(first, min(first + step, stop))
            yield _batch(order[part], size[part], span)


def warped_distances(
    values: Floats,
    firsts: Integers,
    row_steps: Integers,
    n_rows: Integers,
    n_columns: Integers,
    finish: Callable[[Floats], object] | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> tuple[Floats, Floats]:
    """Cost of the cheapest warping of each pair, over the number of its steps.

    values: flat (v,); the table of frame distances of pair p begins at firsts[p], its rows are
    row_steps[p] apart and its columns lie beside each other. firsts, row_steps, n_rows,
    n_columns: (p,). finish: turns the values of some cells into distances, in place. A path goes
    by one row, one column or both at a time; of equally cheap steps the diagonal one is taken,
    then the one along the columns.

    Returns float32 (p,) twice: as read, and with rows and columns exchanged, which can differ
    where two ways are equally cheap but not equally long.
    """
    found = np.empty(len(firsts), np.float32), np.empty(len(firsts), np.float32)

    def fill(batch: Batch) -> None:
        table = _Warping(values, firsts[batch.pairs], row_steps[batch.pairs], finish, batch)
        for target, result in zip(found, table.fill(), strict=True):
            target[batch.pairs] = result

    _run(fill, batches(n_rows, n_columns), pool)
    return found


class _Warping:
    """The tables of one batch, frame distances read from a flat array."""

    def __init__(
        self,
        values: Floats,
        firsts: Integers,
        row_steps: Integers,
        finish: Callable[[Floats], object] | None,
        batch: Batch,
    ) -> None:
        self.values, self.finish, self.batch = values, finish, batch
        rows, pairs = batch.n_rows, len(firsts)
        # Cell (i, j) of anti-diagonal d = i + j stands at first + i * (row_step - 1) + d.
        self.bases = firsts + np.arange(rows)[:, None] * (row_steps - 1)
        self.at = np.empty((rows, pairs), np.int64)
        self.distances = np.empty((rows, pairs), np.float32)
        self.lesser = np.empty((rows, pairs), np.float32)
        length_type = np.uint8 if rows + batch.n_columns < 256 else np.uint16
        # Twice: which of two equally cheap straight steps is taken depends on who is X.
        self.compared = np.empty((2, rows, pairs), np.bool_)
        self.mask = np.empty((2, rows, pairs), length_type)
        self.chosen = np.empty((2, rows, pairs), length_type)
        # The row before the first, and all that no step has reached, costs infinitely much.
        self.costs = [np.full((rows + 1, pairs), np.inf, np.float32) for _ in range(3)]
        self.lengths = [np.zeros((2, rows + 1, pairs), length_type) for _ in range(3)]

    def fill(self) -> tuple[Floats, Floats]:
        batch, pairs = self.batch, self.bases.shape[1]
        found = np.empty(pairs, np.float32), np.empty(pairs, np.float32)
        for d in range(batch.n_rows + batch.n_columns - 1):
            self._step(d)
            for row, part in batch.ends.get(d, ()):
                cost, lengths = self.costs[d % 3][row + 1, part], self.lengths[d % 3]
                for target, length in zip(found, lengths[:, row + 1, part], strict=True):
                    np.divide(cost, length, out=target[part], dtype=np.float32)
        return found

    def _step(self, d: int) -> None:
        low, high = max(0, d - self.batch.n_columns + 1), min(self.batch.n_rows - 1, d) + 1
        here, shifted, count = slice(low + 1, high + 1), slice(low, high), high - low
        distances = self._frame_distances(d, low, high)
        cost, length = self.costs[d % 3][here], self.lengths[d % 3][:, here]
        if d == 0:
            cost[...] = distances
            length[...] = 1
            return
        last, before = self.costs[(d - 1) % 3], self.costs[(d - 2) % 3]
        left, up, diagonal = last[here], last[shifted], before[shifted]
        lengths, lengths_before = self.lengths[(d - 1) % 3], self.lengths[(d - 2) % 3]
        left_length, up_length = lengths[:, here], lengths[:, shifted]
        mask, chosen, lesser = self.mask[:, :count], self.chosen[:, :count], self.lesser[:count]
        compared = self.compared[:, :count]
        np.less_equal(left, up, out=compared[0])
        np.less(left, up, out=compared[1])
        _select(compared, left_length, up_length, mask, chosen)
        np.minimum(left, up, out=lesser)
        np.less_equal(diagonal, lesser, out=compared[0])
        _select(compared[:1], lengths_before[:, shifted], chosen, mask, length)
        np.add(length, 1, out=length)
        np.minimum(diagonal, lesser, out=cost)
        np.add(cost, distances, out=cost)

    def _frame_distances(self, d: int, low: int, high: int) -> Floats:
        at, distances = self.at[: high - low], self.distances[: high - low]
        np.add(self.bases[low:high], d, out=at)
        # Cells beyond a pair's end may lie beyond the array: any value does there.
        np.take(self.values, at, out=distances, mode="wrap")
        if self.finish is not None:
            self.finish(distances)
        return distances


def _select(
    condition: NDArray[np.bool_], yes: NDArray, no: NDArray, mask: NDArray, out: NDArray
) -> None:
    """`yes` where the condition holds, else `no`; numpy's own `where` is ten times slower."""
    mask = mask[: len(condition)]
    np.negative(condition.view(np.uint8), out=mask, dtype=mask.dtype)
    np.bitwise_xor(yes, no, out=out)
    np.bitwise_and(out, mask, out=out)
    np.bitwise_xor(out, no, out=out)


def warped_unit_distances(
    units: NDArray[np.integer],
    row_starts: Integers,
    n_rows: Integers,
    column_starts: Integers,
    n_columns: Integers,
    pool: ThreadPoolExecutor | None = None,
) -> tuple[Floats, Floats]:
    """`warped_distances` of unit sequences, where two frames are 0 apart if equal, else 1.

    units: flat (u,), one a frame; the sequences of pair p are units[row_starts[p]:][:n_rows[p]]
    and the same of the columns.
    """
    found = np.empty(len(n_rows), np.float32), np.empty(len(n_rows), np.float32)

    def fill(batch: Batch) -> None:
        rows, columns = _sequences(units, row_starts, column_starts, batch)
        for target, result in zip(found, _warp_units(rows, columns, batch), strict=True):
            target[batch.pairs] = result

    _run(fill, batches(n_rows, n_columns), pool)
    return found


def _warp_units(rows: NDArray, columns: NDArray, batch: Batch) -> tuple[Floats, Floats]:
    """Costs, the direction just taken, and path lengths, in one integer a cell.

    The cost stands in the high bits, so that the least integer is the cheapest step; below it
    stand two bits for the direction, so that of equally cheap ones the preferred is the least;
    then the length of its path.
    """
    (n_rows, pairs), n_columns = rows.shape, len(columns)
    length_bits = (n_rows + n_columns).bit_length()
    shift = length_bits + 2
    most = (max(n_rows, n_columns) + 2) << shift
    type_: Any = next(t for t in (np.int16, np.int32, np.int64) if most <= np.iinfo(t).max)
    border = most - (1 << shift)
    tables = [np.full((2, n_rows + 1, pairs), border, type_) for _ in range(3)]
    other, step = np.empty((2, n_rows, pairs), type_), np.empty((n_rows, pairs), type_)
    unequal = np.empty((n_rows, pairs), np.bool_)
    # As read, then with rows and columns exchanged: the diagonal 0, then 1, then 2.
    along_columns = np.array([1, 2], type_).reshape(2, 1, 1) << length_bits
    along_rows = np.array([2, 1], type_).reshape(2, 1, 1) << length_bits
    without_direction = type_(~(3 << length_bits))
    found: tuple[Floats, Floats] = np.empty(pairs, np.float32), np.empty(pairs, np.float32)
    for d in range(n_rows + n_columns - 1):
        low, high = max(0, d - n_columns + 1), min(n_rows - 1, d) + 1
        here, shifted, count = slice(low + 1, high + 1), slice(low, high), high - low
        beside = columns[n_columns - 1 - d + low : n_columns - 1 - d + high]
        np.not_equal(rows[low:high], beside, out=unequal[:count])
        np.multiply(unequal[:count].view(np.int8), 1 << shift, out=step[:count], dtype=type_)
        np.add(step[:count], 1, out=step[:count])
        cells = tables[d % 3][:, here]
        if d == 0:
            cells[...] = step[:count]
        else:
            last, before = tables[(d - 1) % 3], tables[(d - 2) % 3]
            np.add(last[:, here], along_columns, out=cells)
            np.add(last[:, shifted], along_rows, out=other[:, :count])
            np.minimum(cells, other[:, :count], out=cells)
            np.minimum(cells, before[:, shifted], out=cells)
            np.bitwise_and(cells, without_direction, out=cells)
            np.add(cells, step[:count], out=cells)
        for row, part in batch.ends.get(d, ()):
            for target, cell in zip(found, tables[d % 3][:, row + 1, part], strict=True):
                lengths = (cell & (1 << length_bits) - 1).astype(np.float32)
                np.divide(cell >> shift, lengths, out=target[part], dtype=np.float32)
    return found


def edit_distances(
    units: NDArray[np.integer],
    row_starts: Integers,
    n_rows: Integers,
    column_starts: Integers,
    n_columns: Integers,
    pool: ThreadPoolExecutor | None = None,
) -> Floats:
    """Levenshtein distance of each pair of unit sequences, over the length of the longer one.

    Arguments as of `warped_unit_distances`. Returns float32 (p,), from 0 to 1.
    """
    found = np.empty(len(n_rows), np.float32)

    def fill(batch: Batch) -> None:
        rows, columns = _sequences(units, row_starts, column_starts, batch)
        found[batch.pairs] = _edit(rows, columns, batch)

    _run(fill, batches(n_rows, n_columns), pool)
    return np.divide(found, np.maximum(n_rows, n_columns), dtype=np.float32)


def _edit(rows: NDArray, columns: NDArray, batch: Batch) -> Floats:
    (n_rows, pairs), n_columns = rows.shape, len(columns)
    type_ = np.int16 if n_rows + n_columns < 2**15 else np.int32
    tables = [np.empty((n_rows + 1, pairs), type_) for _ in range(3)]
    unequal = np.empty((n_rows, pairs), np.bool_)
    found = np.empty(pairs, np.float32)
    for d in (-2, -1):  # the corner, and the first deletion and insertion
        tables[d % 3][:2] = d + 2
    for d in range(n_rows + n_columns - 1):
        low, high = max(0, d - n_columns + 1), min(n_rows - 1, d) + 1
        here, shifted = slice(low + 1, high + 1), slice(low, high)
        table, last, before = (tables[(d - back) % 3] for back in range(3))
        beside = columns[n_columns - 1 - d + low : n_columns - 1 - d + high]
        np.not_equal(rows[low:high], beside, out=unequal[: high - low])
        cells = table[here]
        np.minimum(last[here], last[shifted], out=cells)
        np.add(cells, 1, out=cells)
        # A diagonal step costs 1 unless the units are equal.
        diagonal = before[shifted]
        np.add(diagonal, unequal[: high - low], out=diagonal)
        np.minimum(cells, diagonal, out=cells)
        table[0] = d + 2
        if d + 1 < n_rows:
            table[d + 2] = d + 2
        for row, part in batch.ends.get(d, ()):
            found[part] = table[row + 1, part]
    return found


def _sequences(
    units: NDArray[np.integer], row_starts: Integers, column_starts: Integers, batch: Batch
) -> tuple[NDArray, NDArray]:
    """Units of the batch's rows (n_rows, b), and of its columns in reverse (n_columns, b).

    Reversed, the columns that meet rows on one anti-diagonal lie beside each other.
    """
    rows = row_starts[batch.pairs] + np.arange(batch.n_rows)[:, None]
    columns = column_starts[batch.pairs] + np.arange(batch.n_columns)[::-1, None]
    return units.take(rows, mode="wrap"), units.take(columns, mode="wrap")


def _rounded_up(lengths: Integers) -> Integers:
    """Lengths in steps of up to a fifth: 1, 2, … 8, 10, … 16, 20, … 32, 40, …"""
    steps = 1 << np.maximum(0, np.frexp(np.maximum(lengths - 1, 1))[1] - 3).astype(np.int64)
    return -(-lengths // steps) * steps


def _batch(pairs: Integers, size: Integers, span: int) -> Batch:
    starts = np.flatnonzero(np.r_[True, size[1:] != size[:-1]])
    stops = [*starts[1:].tolist(), len(size)]
    rows, columns = np.divmod(size[starts], span)
    ends: dict[int, list[tuple[int, slice]]] = {}
    for row, column, start, stop in zip(
        rows.tolist(), columns.tolist(), starts.tolist(), stops, strict=True
    ):
        ends.setdefault(row + column - 2, []).append((row - 1, slice(start, stop)))
    return Batch(pairs, int(rows.max()), int(columns.max()), ends)


def _run(
    fill: Callable[[Batch], None], work: Iterable[Batch], pool: ThreadPoolExecutor | None
) -> None:
    """Fill every batch, on the threads of the pool where there is one."""
    for _ in map(fill, work) if pool is None else pool.map(fill, work):
        pass
