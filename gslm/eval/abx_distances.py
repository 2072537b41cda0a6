"""How far tokens are from each other: all pairs of a tile at once, each pair once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.errors import UserError
from gslm.eval.abx_items import Frames, Tokens
from gslm.eval.dtw import edit_distances, warped_distances, warped_unit_distances
from gslm.types import deduplicate

FRAME_DISTANCES = ("angular", "cosine", "euclidean", "kl")
"""Between feature vectors; `cosine` is another name of `angular`, as in the older tools."""
UNIT_DISTANCES = ("one-hot", "edit")
"""Between units: frame by frame, warped; or of sequences without repetitions."""

_VALUES = 32_000_000
"""Frame distances held at once, 128 MB: the more, the more pairs of a size there are."""
_PAIRS = 2_000_000
"""Pairs of tokens compared at once."""
_KL_FLOOR = 1e-6

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """Pairs of tokens to compare, and where their distances go."""

    rows: Integers
    """Tokens, (r,)."""
    columns: Integers
    """Tokens, (c,)."""
    pairs: tuple[Integers, Integers]
    """Which row meets which column, (p,) each."""
    matrix: Floats
    """Takes the distances, at (row, column)."""
    both_ways: bool
    """Whether the distance of (column, row) is wanted as well."""

    @property
    def is_square(self) -> bool:
        """Whether rows and columns are the same tokens: rows are always some of the columns."""
        return len(self.rows) == len(self.columns)

    def store(self, forth: Floats, back: Floats) -> None:
        """Write the distances of all pairs, as rows to columns and as columns to rows."""
        i, j = self.pairs
        self.matrix[i, j] = forth
        if self.both_ways:
            self.matrix[j, i] = back


class TokenDistances:
    """Distances between tokens by one measure."""

    def __init__(
        self, tokens: Tokens, distance: str, unit_length: bool, pool: ThreadPoolExecutor | None
    ) -> None:
        """Prepare the frames.

        unit_length: scale every frame to length 1 first. Raises `UserError` where the distance
        does not suit the frames.
        """
        kinds = UNIT_DISTANCES if tokens.discrete else FRAME_DISTANCES
        if distance not in kinds:
            what = "units" if tokens.discrete else "features"
            raise UserError(
                f"distance {distance!r} does not suit {what}; choose {', '.join(kinds)}"
            )
        self.tokens, self.distance, self.pool = tokens, distance, pool
        self.angular = distance in ("angular", "cosine")
        self.unit_length = unit_length or self.angular
        self.units, self.starts, self.lengths = tokens.frames, tokens.starts, tokens.lengths
        if distance == "edit":
            self.units, self.starts, self.lengths = _without_repetitions(tokens)
        if not tokens.discrete:
            self.frames = torch.from_numpy(tokens.frames)
            self.norms = torch.linalg.vector_norm(self.frames, dim=1, keepdim=True)
            self.silent = self.norms[:, 0] == 0
            self.norms[self.silent] = 1
            self.has_silence = bool(self.silent.any())
        if distance == "kl" and (tokens.frames < 0).any():
            raise UserError("distance 'kl' needs probabilities, but some features are below 0")

    def n_values(self, rows: Integers, columns: Integers) -> int:
        """Size of the table of frame distances of a tile; 0 for units, which need none."""
        if self.tokens.discrete:
            return 0
        return int(self.lengths[rows].sum() * self.lengths[columns].sum())

    def fill(self, tiles: list[Tile]) -> None:
        """Compare the pairs of some tiles and write their distances."""
        pairs = [_oriented(tile, self.lengths) for tile in tiles]
        rows = np.concatenate([tile.rows[i] for tile, (i, _, _) in zip(tiles, pairs, strict=True)])
        columns = np.concatenate(
            [tile.columns[j] for tile, (_, j, _) in zip(tiles, pairs, strict=True)]
        )
        n_rows, n_columns = self.lengths[rows], self.lengths[columns]
        if self.distance == "edit":
            forth = back = edit_distances(
                self.units, self.starts[rows], n_rows, self.starts[columns], n_columns, self.pool
            )
        elif self.tokens.discrete:
            forth, back = warped_unit_distances(
                self.units, self.starts[rows], n_rows, self.starts[columns], n_columns, self.pool
            )
        else:
            values, firsts, steps = self._tables(tiles, pairs)
            forth, back = warped_distances(
                values, firsts, steps, n_rows, n_columns, self._finish, self.pool
            )
        stops = np.cumsum([len(i) for i, _, _ in pairs])[:-1]
        for tile, (_, _, turned), there, here in zip(
            tiles, pairs, np.split(forth, stops), np.split(back, stops), strict=True
        ):
            tile.store(np.where(turned, here, there), np.where(turned, there, here))

    def _tables(
        self, tiles: list[Tile], pairs: list[tuple[Integers, Integers, NDArray[np.bool_]]]
    ) -> tuple[Floats, Integers, Integers]:
        """Frame values of every tile, and where in them each pair's table begins and steps."""
        total = sum(self.n_values(tile.rows, tile.columns) for tile in tiles)
        values, used = np.empty(total, np.float32), 0
        firsts, steps = [], []
        for tile, (i, j, _) in zip(tiles, pairs, strict=True):
            row_frames, row_starts = _frames_of(tile.rows, self.starts, self.lengths)
            if tile.is_square:
                column_frames, column_starts = row_frames, row_starts
            else:
                column_frames, column_starts = _frames_of(tile.columns, self.starts, self.lengths)
            width = len(column_frames)
            size = len(row_frames) * width
            out = values[used : used + size].reshape(len(row_frames), width)
            self._frame_values(row_frames, column_frames, torch.from_numpy(out))
            firsts.append(used + row_starts[i] * width + column_starts[j])
            steps.append(np.full(len(i), width))
            used += size
        return values, np.concatenate(firsts), np.concatenate(steps)

    def _frame_values(self, rows: Integers, columns: Integers, out: Tensor) -> None:
        """What `_finish` turns into distances, of every row frame and column frame."""
        x = self._vectors(rows)
        y = x if columns is rows else self._vectors(columns)
        if self.angular:
            torch.mm(x, y.T, out=out)
            if self.has_silence:
                self._silence(rows, columns, out)
            return
        # Sums of squares or of logarithms cancel where frames are alike: in double precision what
        # is left is exact enough.
        x, y = x.double(), y.double()
        if self.distance == "euclidean":
            found = (x * x).sum(1, keepdim=True) + (y * y).sum(1) - 2 * (x @ y.T)
        else:
            log_x, log_y = (x + _KL_FLOOR).log(), (y + _KL_FLOOR).log()
            own = (x * log_x).sum(1, keepdim=True) + (y * log_y).sum(1)
            found = 0.5 * (own - x @ log_y.T - log_x @ y.T)
        out.copy_(found.clamp_(min=0))

    def _vectors(self, frames: Integers) -> Tensor:
        which = torch.from_numpy(frames)
        vectors = self.frames[which]
        return vectors / self.norms[which] if self.unit_length else vectors

    def _silence(self, rows: Integers, columns: Integers, out: Tensor) -> None:
        """A frame of zeros is as far as can be from any other, and at no distance from its like."""
        silent, others = self.silent[rows], self.silent[columns]
        out[silent], out[:, others] = -1, -1
        out[silent[:, None] & others] = 1

    def _finish(self, values: Floats) -> None:
        """Turn frame values into distances, in place."""
        tensor = torch.from_numpy(values)
        if self.angular:
            tensor.clamp_(-1, 1).acos_().mul_(1 / math.pi)
        elif self.distance == "euclidean":
            tensor.sqrt_()


def fill(tiles: Iterable[Tile], distances: TokenDistances) -> None:
    """Compare the pairs of all tiles and write their distances, many small tiles at a time."""
    group: list[Tile] = []
    n_values = n_pairs = 0
    for tile in tiles:
        group.append(tile)
        n_values += distances.n_values(tile.rows, tile.columns)
        n_pairs += len(tile.pairs[0])
        if n_values >= _VALUES or n_pairs >= _PAIRS:
            distances.fill(group)
            group, n_values, n_pairs = [], 0, 0
    if group:
        distances.fill(group)


def _oriented(tile: Tile, lengths: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Rows and columns of a tile's pairs, turned so that the shorter token is the row.

    Fewer shapes of tables, and fewer rows in them, are faster. Only a square tile holds both.
    """
    i, j = tile.pairs
    if not tile.is_square:
        return i, j, np.zeros(len(i), np.bool_)
    turned = lengths[tile.rows[i]] > lengths[tile.columns[j]]
    return np.where(turned, j, i), np.where(turned, i, j), turned


def _frames_of(tokens: Integers, starts: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """Frames of tokens one after another, (f,), and where among them each token begins."""
    counts = lengths[tokens]
    begins = np.cumsum(counts) - counts
    return np.repeat(starts[tokens] - begins, counts) + np.arange(counts.sum()), begins


def _without_repetitions(tokens: Tokens) -> tuple[Frames, Integers, Integers]:
    """Each token's units without repetitions, and where they begin and how many they are."""
    parts = [
        deduplicate(tokens.frames[start : start + length])[0]
        for start, length in zip(tokens.starts.tolist(), tokens.lengths.tolist(), strict=True)
    ]
    lengths = np.array([len(part) for part in parts], np.int64)
    return np.concatenate(parts), np.cumsum(lengths) - lengths, lengths
