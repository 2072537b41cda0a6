"""Documents into rows of the context's length, without padding.

The shuffled documents of an epoch, then those of the next, form one endless stream of
(input, target) pairs; row r is its r-th stretch of `row_length` pairs. A document of n tokens
takes n + 1 positions: inputs bos, t1 … tn, and targets t1 … tn, eos. One that crosses a row's end
goes on in the next row as a document of its own. So no position is padding, and a batch is a pure
function of the seed and its number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.errors import UserError
from gslm.ulm.attention import Documents
from gslm.ulm.model import BOS, EOS, N_SPECIAL

TokenArray = NDArray[np.int32]


@dataclass(frozen=True)
class PackedBatch:
    """Rows of packed documents."""

    inputs: Tensor
    """Tokens, (rows, row_length) int64."""
    targets: Tensor
    """The token that follows each input, (rows, row_length) int64."""
    documents: Documents
    """Where the documents lie in the rows."""

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on a device."""
        return PackedBatch(
            self.inputs.to(device), self.targets.to(device), self.documents.to(device)
        )


def check_pieces(sequences: Sequence[TokenArray], n_pieces: int, name: str) -> None:
    """Raise a `UserError` for a sequence that is empty or has pieces outside the vocabulary."""
    if len(sequences) == 0:
        raise UserError(f"{name}: there are no sequences; give a corpus that has some")
    for index, sequence in enumerate(sequences):
        if len(sequence) == 0:
            raise UserError(f"{name}: sequence {index} is empty; leave it out")
        low, high = int(np.min(sequence)), int(np.max(sequence))
        if low < 0 or high >= n_pieces:
            raise UserError(
                f"{name}: sequence {index} has unit {low if low < 0 else high}, but the "
                f"vocabulary is 0 to {n_pieces - 1}; use the units that the model is made for"
            )


class Packer:
    """An endless, shuffled, packed stream over a set of documents.

    sequences: arrays of pieces counted from 0, each (n,) int32; row_length: positions a row;
    rows: rows a batch; seed: of the shuffle. Memory: the stream of the last epochs in use, about
    four bytes a token.
    """

    def __init__(
        self, sequences: Sequence[TokenArray], row_length: int, rows: int, seed: int
    ) -> None:
        self.row_length, self.rows, self.seed = row_length, rows, seed
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        self.sizes = lengths + 1
        self.starts = np.cumsum(self.sizes + 1) - (self.sizes + 1)
        self.tokens = np.empty(int((self.sizes + 1).sum()), dtype=np.int32)
        for start, sequence in zip(self.starts, sequences, strict=True):
            self.tokens[start] = BOS
            self.tokens[start + 1 : start + 1 + len(sequence)] = np.asarray(sequence) + N_SPECIAL
            self.tokens[start + 1 + len(sequence)] = EOS
        self.positions_per_epoch = int(self.sizes.sum())
        self._orders: OrderedDict[int, tuple[NDArray, NDArray]] = OrderedDict()

    def batch(self, index: int) -> PackedBatch:
        """Batch number `index`, counted from 0: a pure function of the seed and the index."""
        first = index * self.rows * self.row_length
        rows = [self._row(first + row * self.row_length) for row in range(self.rows)]
        inputs, targets, lengths = zip(*rows, strict=True)
        return PackedBatch(
            torch.from_numpy(np.stack(inputs)),
            torch.from_numpy(np.stack(targets)),
            Documents.pack(lengths),
        )

    def _row(self, position: int) -> tuple[NDArray, NDArray, list[int]]:
        """Inputs, targets (row_length,) int64 and document lengths from a place in the stream."""
        inputs = np.empty(self.row_length, dtype=np.int64)
        targets = np.empty(self.row_length, dtype=np.int64)
        lengths: list[int] = []
        filled = 0
        epoch, offset = divmod(position, self.positions_per_epoch)
        while filled < self.row_length:
            order, ends = self._order(epoch)
            place = int(np.searchsorted(ends, offset, side="right"))
            while filled < self.row_length and place < len(order):
                document = order[place]
                skipped = offset - (ends[place] - self.sizes[document])
                taken = int(min(ends[place] - offset, self.row_length - filled))
                start = self.starts[document] + skipped
                inputs[filled : filled + taken] = self.tokens[start : start + taken]
                targets[filled : filled + taken] = self.tokens[start + 1 : start + taken + 1]
                lengths.append(taken)
                filled, offset, place = filled + taken, offset + taken, place + 1
            epoch, offset = epoch + 1, 0
        return inputs, targets, lengths

    def _order(self, epoch: int) -> tuple[NDArray, NDArray]:
        """The shuffle of an epoch and the stream positions at which its documents end."""
        if epoch not in self._orders:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.sizes))
            self._orders[epoch] = order, np.cumsum(self.sizes[order])
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[epoch]
