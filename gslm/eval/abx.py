"""ABX: how often a token is nearer to one of another phone than to one of its own.

X and A are tokens of one phone, B of another. The error is how often X is nearer to B than to A,
ties counting half, averaged over cells of alike triplets and then over what tells cells apart
(Schatz 2016; Kahn et al. 2020 for Libri-Light's items and averages).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from gslm.errors import UserError
from gslm.eval.abx_blocks import Block, Piece
from gslm.eval.abx_cells import Cells, PhonePair, merged_cells
from gslm.eval.abx_distances import TokenDistances, fill
from gslm.eval.abx_items import Items, Tokens

Integers = NDArray[np.int64]

SPEAKERS = ("within", "across", "any")
"""All three tokens of one speaker; X of another than A and B; whoever speaks."""
CONTEXTS = ("within", "any")
"""All three tokens between the same neighbours, or between any."""

_TOGETHER = 4_000_000
"""Distances of tokens held at once, unless one block alone has more."""


@dataclass(frozen=True)
class AbxTask:
    """Which triplets are compared: columns of the item file, as ABXpy and fastabx name them."""

    on: str = "phone"
    """X and A share its value, B has another."""
    by: tuple[str, ...] = ("prev-phone", "next-phone", "speaker")
    """All three share each value."""
    across: tuple[str, ...] = ()
    """A and B share each value, X has another."""

    @property
    def name(self) -> str:
        """Its columns: `ON phone, BY prev-phone, next-phone, ACROSS speaker`."""
        by, across = ", ".join(self.by) or "-", ", ".join(self.across) or "-"
        return f"ON {self.on}, BY {by}, ACROSS {across}"

    def averaging(self) -> tuple[tuple[str, ...], ...]:
        """Columns over which cells are averaged, those of a tuple at once, as Libri-Light does.

        Contexts first, then the speaker, then the rest of ACROSS.
        """
        columns = self.by + self.across
        contexts = tuple(name for name in self.by if name != "speaker")
        others = tuple((name,) for name in self.across if name != "speaker")
        return (contexts, *((("speaker",),) if "speaker" in columns else ()), *others)


def phone_task(speaker: str = "within", context: str = "within") -> AbxTask:
    """The task of phones: see `SPEAKERS` and `CONTEXTS`. `UserError` for others."""
    if speaker not in SPEAKERS:
        raise UserError(f"speaker {speaker!r} is unknown; choose {', '.join(SPEAKERS)}")
    if context not in CONTEXTS:
        raise UserError(f"context {context!r} is unknown; choose {', '.join(CONTEXTS)}")
    by = ("prev-phone", "next-phone") if context == "within" else ()
    if speaker == "within":
        return AbxTask(by=(*by, "speaker"))
    return AbxTask(by=by, across=("speaker",) if speaker == "across" else ())


@dataclass(frozen=True)
class AbxResult:
    """What an ABX task found."""

    task: AbxTask
    """The task."""
    cells: Cells
    """Every cell's errors."""
    n_items: int
    """Tokens that had a frame and were used."""
    n_empty: int
    """Tokens without a frame, which were left out."""

    @property
    def error_rate(self) -> float:
        """Mean error from 0 to 1; chance is 0.5."""
        return self.cells.error_rate(self.task.averaging())

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def n_triplets(self) -> int:
        """Number of triplets in all cells."""
        return int(self.cells.sizes.sum())

    def phone_pairs(self) -> list[PhonePair]:
        """Error of each ordered pair of phones, whose mean is the error rate."""
        return self.cells.phone_pairs(self.task.averaging())


class AbxScorer:
    """A task over some items, to score any number of feature or unit sets with.

    What is held against what is worked out at once, and again only where some tokens have no
    frames.
    """

    def __init__(
        self,
        items: Items,
        task: AbxTask | None = None,
        *,
        max_group: int | None = None,
        max_x_across: int | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare the task.

        task: phones within speaker and context where None. max_group: most tokens of a group,
        drawn once for all cells that it is in; max_x_across: most other speakers a pair of A and
        B is held against; None for all of them, exactly. seed: of the draws. Raises `UserError`
        where the items lack a column, or no triplet fits the task and the limits.
        """
        limits = (max_group, 2), (max_x_across, 1)
        if any(most is not None and most < least for most, least in limits):
            raise UserError("ABX needs groups of at least 2 tokens and 1 other speaker; take more")
        if seed < 0:
            raise UserError(f"ABX: seed {seed}; it must be 0 or above")
        self.items, self.task = items, task or AbxTask()
        self.max_group, self.max_x_across, self.seed = max_group, max_x_across, seed
        self._labels = _Labels(items, self.task)
        self._present: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._chosen: Integers = np.zeros(0, np.int64)
        self._blocks: list[Block] = []
        self._find_blocks(np.ones(len(items), np.bool_))

    def __call__(
        self,
        tokens: Tokens,
        distance: str | None = None,
        *,
        unit_length: bool = False,
        threads: int | None = None,
        progress: bool = False,
    ) -> AbxResult:
        """ABX error of the tokens' frames, which `slice_features` cut for the same items.

        distance: of `FRAME_DISTANCES` (default angular) or, for units, `UNIT_DISTANCES` (default
        one-hot). unit_length: scale frames to length 1 before any distance, as
        zerospeech-libriabx2 does. threads: torch's number where None. Raises `UserError` where
        the distance does not suit the frames, or no triplet is left.
        """
        threads = torch.get_num_threads() if threads is None else threads
        if threads < 1:
            raise UserError(f"ABX: {threads} threads; it takes 1 or more")
        default = "one-hot" if tokens.discrete else "angular"
        self._find_blocks(tokens.lengths > 0)
        parts: list[_Part] = []
        with (
            ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool,
            tqdm(
                total=len(self._chosen), desc="ABX", unit="token", disable=not progress, delay=2
            ) as bar,
        ):
            distances = TokenDistances(tokens, distance or default, unit_length, pool)
            for pieces in _together(self._blocks):
                fill(chain.from_iterable(piece.tiles(distances) for piece in pieces), distances)
                for piece in pieces:
                    parts.extend(_parts(piece))
                    bar.update(piece.stop - piece.start)
            bar.update(len(self._chosen) - bar.n)
        return AbxResult(self.task, self._labels.cells(parts), len(self._chosen), tokens.n_empty)

    def _find_blocks(self, present: NDArray[np.bool_]) -> None:
        if self._blocks and np.array_equal(present, self._present):
            return
        random = np.random.default_rng(self.seed)
        self._present = present
        self._chosen = _chosen(self._labels, np.flatnonzero(present), self.max_group, random)
        starts = _starts(self._labels.by[self._chosen]).tolist()
        found = (
            _block(self._labels, self._chosen[start:stop], self.max_x_across, random)
            for start, stop in pairwise(starts)
        )
        self._blocks = [block for block in found if block is not None]
        if not self._blocks:
            raise UserError(
                f"{self.items.path}: no triplet fits the task ({self.task.name}); take more "
                "items, or a wider task"
            )


@dataclass(frozen=True)
class _Part:
    """Errors of one group of X against one speaker's A's and every B, named by an item of each.

    A's own group stands among the B's, and is to be passed over.
    """

    x: int
    a: int
    b: Integers
    doubled_errors: Integers
    sizes: Integers


class _Labels:
    """The columns of a task as numbers, one an item."""

    def __init__(self, items: Items, task: AbxTask) -> None:
        names = (task.on, *task.by, *task.across)
        if len(set(names)) != len(names):
            raise UserError(f"ABX: a column stands twice in ON, BY and ACROSS ({', '.join(names)})")
        self.task = task
        found = {name: np.unique(items.column(name), return_inverse=True) for name in names}
        self.names = {name: values for name, (values, _) in found.items()}
        self.codes = {name: codes for name, (_, codes) in found.items()}
        self.on = self.codes[task.on]
        self.by = self._joined(task.by, len(items))
        self.across = self._joined(task.across, len(items))

    def _joined(self, names: tuple[str, ...], n: int) -> Integers:
        """One number for each combination of some columns' values, (n,)."""
        which = np.zeros(n, np.int64)
        for name in names:
            which = which * len(self.names[name]) + self.codes[name]
            which = np.unique(which, return_inverse=True)[1]
        return which

    def cells(self, parts: list[_Part]) -> Cells:
        counts = [len(part.b) for part in parts]
        x = np.repeat([part.x for part in parts], counts)
        a = np.repeat([part.a for part in parts], counts)
        b = np.concatenate([part.b for part in parts])
        columns = {self.task.on: self.on[x], "b": self.on[b]}
        columns |= {name: self.codes[name][x] for name in self.task.by}
        columns |= {name: self.codes[name][a] for name in self.task.across}
        columns |= {f"x:{name}": self.codes[name][x] for name in self.task.across}
        errors = np.concatenate([part.doubled_errors for part in parts])
        sizes = np.concatenate([part.sizes for part in parts])
        real = self.on[x] != self.on[b]
        columns = {name: codes[real] for name, codes in columns.items()}
        return merged_cells(self.names, columns, errors[real], sizes[real], self.task.on)


def _chosen(
    labels: _Labels, items: Integers, max_group: int | None, random: np.random.Generator
) -> Integers:
    """Items that take part, ordered by BY, then ACROSS, then ON; at most so many of a group."""
    if max_group is not None:
        items = random.permutation(items)
    order = np.lexsort((labels.on[items], labels.across[items], labels.by[items]))
    items = items[order]
    if max_group is not None:
        starts = _starts(labels.by[items], labels.across[items], labels.on[items])
        rank = np.arange(len(items)) - np.repeat(starts[:-1], np.diff(starts))
        items = items[rank < max_group]
    return items


def _block(
    labels: _Labels, items: Integers, max_x_across: int | None, random: np.random.Generator
) -> Block | None:
    on, across = labels.on[items], labels.across[items]
    group_starts = _starts(across, on)
    if len(group_starts) < 3:
        return None
    first = group_starts[:-1]
    phone = np.unique(on[first], return_inverse=True)[1]
    speaker_groups = _starts(across[first])
    n_groups = np.diff(speaker_groups)
    speaker = np.repeat(np.arange(len(n_groups)), n_groups)
    group_at = np.full((len(n_groups), int(phone.max()) + 1), -1)
    group_at[speaker, phone] = np.arange(len(first))
    # A speaker has A's where it has the phone, and B's where it has another one as well.
    compared = (group_at[:, phone].T >= 0) & (n_groups > 1)
    if labels.task.across:
        for name in labels.task.across:
            codes = labels.codes[name][items[first]]
            compared &= codes[:, None] != codes[speaker_groups[:-1]]
    else:
        compared &= (np.diff(group_starts) > 1)[:, None]
    if max_x_across is not None:
        _draw_x(compared, phone, max_x_across, random)
    if not compared.any():
        return None
    return Block(
        items, group_starts, speaker_groups, phone, speaker, group_at, compared,
        same_group=not labels.task.across,
    )  # fmt: skip


def _draw_x(
    compared: NDArray[np.bool_], phone: Integers, most: int, random: np.random.Generator
) -> None:
    """Of the groups that are X for one A, keep a few."""
    for value in np.unique(phone):
        groups = np.flatnonzero(phone == value)
        if len(groups) > most:
            keys = np.where(compared[groups], random.random((len(groups), compared.shape[1])), 2)
            compared[groups] &= keys.argsort(axis=0).argsort(axis=0) < most


def _parts(piece: Piece) -> Iterator[_Part]:
    block = piece.block
    sizes = np.diff(block.group_starts)
    firsts = block.tokens[block.group_starts[:-1]]
    for group, speaker, errors, pairs in piece.errors():
        b = slice(block.speaker_groups[speaker], block.speaker_groups[speaker + 1])
        a = block.tokens[block.group_starts[b.start]]
        yield _Part(int(firsts[group]), int(a), firsts[b], errors, pairs * sizes[b])


def _together(blocks: list[Block]) -> Iterator[list[Piece]]:
    """Pieces, small ones many at a time."""
    group: list[Piece] = []
    n_distances = 0
    for piece in chain.from_iterable(block.pieces() for block in blocks):
        group.append(piece)
        n_distances += piece.n_distances
        if n_distances >= _TOGETHER:
            yield group
            group, n_distances = [], 0
    if group:
        yield group


def _starts(*columns: Integers) -> Integers:
    """Where rows differ from the row before in some column; 0 first, the number of rows last."""
    changes = np.zeros(max(0, len(columns[0]) - 1), np.bool_)
    for column in columns:
        changes |= column[1:] != column[:-1]
    return np.r_[0, np.flatnonzero(changes) + 1, len(columns[0])]
