"""Blocks of tokens that are compared with each other, and the errors within them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gslm.eval.abx_distances import Tile, TokenDistances

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

_MATRIX = 100_000_000
"""Largest table of token distances that is held, 400 MB; larger blocks go in pieces."""
_TILE_VALUES = 1_000_000
_TILE_PAIRS = 500_000
_FEW = 40
"""Up to so many A's each triplet is compared by itself; above, A's are sorted first."""
_TRIPLETS = 2_000_000
"""Triplets compared at once; below 2^24, so that float32 counts exactly."""


@dataclass(frozen=True)
class Block:
    """Tokens of the same context, or of whatever else BY asks for.

    They stand ordered by what ACROSS tells apart, here called speaker, then by what ON tells
    apart, here called phone. Tokens that agree in both are a group: X, A and B of a cell are one
    group each.
    """

    tokens: Integers
    """Numbers of the items, (n,)."""
    group_starts: Integers
    """First token of each group, and n at the end, (g + 1,)."""
    speaker_groups: Integers
    """First group of each speaker, and g at the end, (s + 1,)."""
    phones: Integers
    """Phone of each group, counted within the block, (g,)."""
    speakers: Integers
    """Speaker of each group, counted within the block, (g,)."""
    group_at: Integers
    """Group of each speaker and phone, or -1, (s, p)."""
    compared: NDArray[np.bool_]
    """Whether the tokens of a group are X for A and B of a speaker, (g, s)."""
    same_group: bool
    """Whether A and X are of the same group, for want of an ACROSS."""

    def pieces(self) -> Iterator[Piece]:
        """The block as pieces whose tables can be held: all of it where that is possible."""
        n = len(self.tokens)
        step = n if n * n <= _MATRIX else max(1, _MATRIX // n)
        yield from (Piece(self, start, min(start + step, n)) for start in range(0, n, step))

    def wanted(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether tokens start to stop, as X, are held against each other token, (x, n)."""
        group = np.repeat(np.arange(len(self.phones)), np.diff(self.group_starts))
        wanted = self.compared[group[start:stop]][:, self.speakers[group]]
        wanted[np.arange(stop - start), np.arange(start, stop)] = False
        return wanted

    def wanted_of(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether tokens from `start` on, as X, are held against tokens start to stop, (x, a)."""
        group = np.repeat(np.arange(len(self.phones)), np.diff(self.group_starts))
        return self.compared[group[start:]][:, self.speakers[group[start:stop]]]


@dataclass
class Piece:
    """Some tokens of a block as X, and their distances to all of it."""

    block: Block
    start: int
    """First token that is X."""
    stop: int
    """One after the last."""
    matrix: Floats = field(init=False)
    """Distances (x, n)."""

    @property
    def n_distances(self) -> int:
        """Size of the matrix."""
        return (self.stop - self.start) * len(self.block.tokens)

    def tiles(self, distances: TokenDistances) -> Iterator[Tile]:
        """The comparisons that fill the matrix; in a whole block each pair is compared once."""
        block, n = self.block, len(self.block.tokens)
        self.matrix = np.empty((self.stop - self.start, n), np.float32)
        whole = self.stop - self.start == n
        ends = np.cumsum(distances.lengths[block.tokens])
        start = self.start
        while start < self.stop:
            first = start if whole else 0
            before = int(ends[first - 1]) if first else 0
            most = before + _TILE_VALUES // max(1, int(ends[-1]) - before)
            if not whole and start:
                most += int(ends[start - 1])
            stop = int(np.searchsorted(ends, most, side="right"))
            stop = min(stop, start + _TILE_PAIRS // (n - first), self.stop)
            stop = max(stop, start + 1)
            wanted = block.wanted(start, stop)[:, first:]
            if whole:
                wanted |= block.wanted_of(start, stop).T
                wanted &= np.arange(stop - start)[:, None] < np.arange(n - start)
            i, j = np.nonzero(wanted)
            yield Tile(
                rows=block.tokens[start:stop],
                columns=block.tokens[first:],
                pairs=(i.astype(np.int64, copy=False), j.astype(np.int64, copy=False)),
                matrix=self.matrix[start - self.start :, first:],
                both_ways=whole,
            )
            start = stop

    def errors(self) -> Iterator[tuple[int, int, Integers, int]]:
        """Errors of every cell, twice over, so that ties count one.

        Yields the group of X, a speaker of A and B, the errors against each group of that
        speaker as B (A's own among them, which means nothing), and the pairs of X and A; to be
        had once the tiles are filled.
        """
        block, offset = self.block, self.start
        if block.same_group:
            # A token is no A to itself: nothing is nearer to it, so that it makes no error.
            self.matrix[np.arange(self.stop - offset), np.arange(offset, self.stop)] = -np.inf
        group_starts = block.group_starts.tolist()
        speaker_groups = block.speaker_groups.tolist()
        for group, speaker in zip(
            *(part.tolist() for part in block.compared.nonzero()), strict=True
        ):
            low = max(group_starts[group], self.start) - offset
            high = min(group_starts[group + 1], self.stop) - offset
            if low >= high:
                continue
            own = int(block.group_at[speaker, block.phones[group]])
            first, last = speaker_groups[speaker], speaker_groups[speaker + 1]
            begin = group_starts[first]
            rows = self.matrix[low:high]
            errors = doubled_errors(
                rows[:, group_starts[own] : group_starts[own + 1]],
                rows[:, begin : group_starts[last]],
            )
            sums = np.add.reduceat(errors, block.group_starts[first:last] - begin)
            n_a = group_starts[own + 1] - group_starts[own] - block.same_group
            yield group, speaker, sums, (high - low) * n_a


def doubled_errors(own: Floats, others: Floats) -> Integers:
    """How often each token is nearer to X than an A is, plus how often at least as near.

    own: distances (x, a) to A's; others: (x, b). Returns (b,), summed over X's and A's.
    """
    n_x, n_a = own.shape
    total = np.zeros(others.shape[1], np.int64)
    if n_a > _FEW:
        for ordered, others_of_x in zip(np.sort(own, axis=1), others, strict=True):
            total -= np.searchsorted(ordered, others_of_x, "left")
            total -= np.searchsorted(ordered, others_of_x, "right")
        return total + 2 * n_x * n_a
    step = max(1, _TRIPLETS // (n_a * max(1, others.shape[1])))
    for start in range(0, n_x, step):
        a, b = own[start : start + step, :, None], others[start : start + step, None, :]
        found = (a > b).view(np.int8)
        np.add(found, a >= b, out=found)
        found = found.reshape(-1, others.shape[1]).astype(np.float32)
        total += (np.ones(len(found), np.float32) @ found).astype(np.int64)
    return total
