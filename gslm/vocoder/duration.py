"""How long each unit lasts: a distribution over frames for each de-duplicated unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gslm.vocoder.blocks import UnitNetwork


@dataclass(frozen=True)
class DurationConfig:
    """Size of the duration predictor."""

    n_units: int
    """Distinct units."""
    dim: int = 160
    """Channels."""
    n_blocks: int = 4
    """ConvNeXt blocks."""
    kernel_size: int = 7
    """Units that one block sees."""
    longest: int = 50
    """Longest duration in frames; longer ones count as this."""
    dropout: float = 0.2
    """Dropout in training."""


class DurationPredictor(nn.Module):
    """Unit sequences to a distribution over durations of 1 to `longest` frames."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        self.config = config
        self.network = UnitNetwork(
            config.n_units, config.dim, config.n_blocks, config.kernel_size, config.dropout
        )
        self.leave = nn.Linear(config.dim, config.longest)

    def forward(self, units: Tensor) -> Tensor:
        """De-duplicated units int64 (batch, n) to logits (batch, n, longest)."""
        return self.leave(self.network(units)).float()

    def loss(self, units: Tensor, durations: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats of durations in frames (batch, n), padding out."""
        logits = self(units)
        target = durations.clamp(1, self.config.longest) - 1
        target = target.masked_fill(units == self.config.n_units, -100)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)

    def expected(self, units: Tensor) -> Tensor:
        """Mean duration in frames of each unit (batch, n)."""
        frames = torch.arange(1, self.config.longest + 1, device=units.device)
        return (self(units).softmax(-1) * frames).sum(-1)


def rounded_durations(expected: Tensor) -> Tensor:
    """Whole frames, at least 1, whose running total stays true to the expected ones.

    expected: frames (n,); returns int64 (n,). Rounding each alone would stretch or shrink a
    sequence, so the running sum is rounded.
    """
    ends = torch.floor(torch.cumsum(expected.double(), dim=0) + 0.5)
    return torch.diff(ends, prepend=ends.new_zeros(1)).clamp_min(1).long()
