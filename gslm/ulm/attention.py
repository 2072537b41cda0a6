"""Attention over packed documents: one row holds many, and none sees another."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch of packed rows begin and end."""

    lengths: tuple[int, ...]
    """Lengths in tokens, row after row; they add up to rows times row length."""
    positions: Tensor
    """Position of each token in its document, (rows, row_length) int64."""

    @classmethod
    def pack(cls, lengths: Sequence[Sequence[int]]) -> Documents:
        """Lay out rows of documents.

        lengths: for each row, the lengths in tokens of its documents; every row has the same sum.
        """
        flat = torch.tensor([length for row in lengths for length in row], dtype=torch.int64)
        starts = torch.repeat_interleave(flat.cumsum(0) - flat, flat)
        positions = torch.arange(len(starts)) - starts
        return cls(tuple(flat.tolist()), positions.view(len(lengths), -1))

    def to(self, device: torch.device | str) -> Documents:
        """The same packing on a device."""
        return Documents(self.lengths, self.positions.to(device))


def attend(queries: Tensor, keys: Tensor, values: Tensor, documents: Documents | None) -> Tensor:
    """Causal attention inside each document.

    queries: (rows, tokens, heads, head_dim); keys, values: (rows, tokens, kv_heads, head_dim);
    documents: the packing, or None where each row is one document. Returns the queries' shape.
    xformers' block-diagonal kernel does it on a CUDA device if installed; elsewhere torch's
    attention takes one document after another, on a CPU the fastest exact form for documents of
    8 to 150 tokens (benchmarks/ulm_packing.py). Both are exact.
    """
    if documents is None:
        return _causal(queries, keys, values)
    if queries.is_cuda and _has_xformers():
        return _attend_xformers(queries, keys, values, documents.lengths)
    # A document never crosses a row's end, so all rows are one long row of documents.
    parts = (
        tensor.flatten(0, 1)[None].split(documents.lengths, 1) for tensor in (queries, keys, values)
    )
    outputs = [_causal(*document) for document in zip(*parts, strict=True)]
    return torch.cat(outputs, 1).view(queries.shape)


def _causal(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of whole rows, shapes as in `attend`."""
    n_heads = queries.shape[2]
    output = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        repeat_heads(keys, n_heads).transpose(1, 2),
        repeat_heads(values, n_heads).transpose(1, 2),
        is_causal=True,
    )
    return output.transpose(1, 2)


def repeat_heads(tensor: Tensor, n_heads: int) -> Tensor:
    """Repeat key or value heads for their query heads: (…, kv_heads, dim) → (…, heads, dim)."""
    repeats = n_heads // tensor.shape[-2]
    return tensor if repeats == 1 else tensor.repeat_interleave(repeats, dim=-2)


@lru_cache(maxsize=1)
def _has_xformers() -> bool:
    return importlib.util.find_spec("xformers") is not None


def block_diagonal_mask(lengths: Sequence[int]) -> Any:
    """xformers' causal block-diagonal mask for documents of these lengths in tokens."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask

    return BlockDiagonalCausalMask.from_seqlens(list(lengths))


def _attend_xformers(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]
) -> Tensor:
    """`attend` by xformers: all rows as one long sequence under a block-diagonal mask."""
    from xformers.ops import memory_efficient_attention

    n_heads = queries.shape[2]
    flat = [repeat_heads(t, n_heads).flatten(0, 1).unsqueeze(0) for t in (queries, keys, values)]
    output = memory_efficient_attention(*flat, attn_bias=block_diagonal_mask(lengths))
    return output.view(queries.shape)
