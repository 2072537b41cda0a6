"""The convolution block that every network of the vocoder is built from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm and a two-layer perceptron beside a residual path.

    ConvNeXt (Liu et al. 2022) in one dimension, as Vocos uses it.
    """

    def __init__(
        self, dim: int, inner: int, kernel_size: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen = nn.Linear(dim, inner)
        self.narrow = nn.Linear(inner, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, dim) to the same shape."""
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        y = self.narrow(F.gelu(self.widen(self.norm(y))))
        return x + F.dropout(self.scale * y, self.dropout, self.training)


class UnitNetwork(nn.Module):
    """Embedding and blocks: a vector for each unit of a sequence, with its neighbours in view."""

    def __init__(
        self, n_units: int, dim: int, n_blocks: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.padding = n_units
        self.embedding = nn.Embedding(n_units + 1, dim)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, 3 * dim, kernel_size, 1 / n_blocks, dropout) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = dropout

    def forward(self, units: Tensor) -> Tensor:
        """Units int64 (batch, n), `padding` beyond a sequence's end, to (batch, n, dim)."""
        # Padding is silenced before every block: a sequence must not feel its batch.
        inside = (units != self.padding)[..., None]
        x = F.dropout(self.embedding(units), self.dropout, self.training)
        for block in self.blocks:
            x = block(x * inside)
        return self.norm(x)
