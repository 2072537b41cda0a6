"""Slow, obvious versions that the fast ones must equal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def document_mask(lengths: list[int]) -> Tensor:
    """True where query (row) may see key (column): same document, not later; (tokens, tokens)."""
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    same = documents[:, None] == documents[None, :]
    return same & torch.ones_like(same).tril()


def masked_attention(queries: Tensor, keys: Tensor, values: Tensor, lengths: list[int]) -> Tensor:
    """One row (tokens, heads, head_dim) with the whole score matrix written out."""
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (t.repeat_interleave(repeats, dim=1) for t in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", queries, keys) / queries.shape[-1] ** 0.5
    scores = scores.masked_fill(~document_mask(lengths), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)


def log_likelihood(model: torch.nn.Module, tokens: list[int], bos: int = 1, eos: int = 2) -> float:
    """Sum of log-probabilities of tokens and eos after bos, one forward of one sequence."""
    sequence = torch.tensor([[bos, *tokens, eos]])
    logits = model(sequence[:, :-1])[0]
    return -float(F.cross_entropy(logits, sequence[0, 1:], reduction="sum"))
