"""The pitch that unit frames call for: voicing and fundamental frequency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gslm.vocoder.blocks import UnitNetwork
from gslm.vocoder.pitch_tracker import F0_MAX, F0_MIN

_REFERENCE_HZ = 160.0


@dataclass(frozen=True)
class PitchConfig:
    """Size of the pitch predictor."""

    n_units: int
    """Distinct units."""
    dim: int = 160
    """Channels."""
    n_blocks: int = 5
    """ConvNeXt blocks."""
    kernel_size: int = 15
    """Frames that one block sees."""
    dropout: float = 0.2
    """Dropout in training."""


class PitchPredictor(nn.Module):
    """Unit frames at 50 Hz to pitch at 100 Hz."""

    def __init__(self, config: PitchConfig) -> None:
        super().__init__()
        self.config = config
        self.network = UnitNetwork(
            config.n_units, config.dim, config.n_blocks, config.kernel_size, config.dropout
        )
        self.leave = nn.Linear(config.dim, 4)

    def forward(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Unit frames int64 (batch, frames) to voicing logits and octaves over 160 Hz.

        Both are (batch, 2 * frames).
        """
        batch, n_frames = units.shape
        outputs = self.leave(self.network(units)).float().reshape(batch, 2 * n_frames, 2)
        return outputs[..., 0], outputs[..., 1]

    def losses(self, units: Tensor, f0: Tensor) -> tuple[Tensor, Tensor]:
        """Voicing loss (nats) and mean absolute pitch error (octaves) over f0 in Hz.

        units: (batch, frames); f0: (batch, 2 * frames), 0 where unvoiced.
        """
        voicing, octaves = self(units)
        inside = (units != self.config.n_units).repeat_interleave(2, dim=1)
        voiced = (f0 > 0) & inside
        voicing_loss = F.binary_cross_entropy_with_logits(
            voicing[inside], (f0[inside] > 0).to(voicing.dtype)
        )
        target = torch.log2(f0.clamp_min(1.0) / _REFERENCE_HZ)
        error = (octaves - target).abs() * voiced
        return voicing_loss, error.sum() / voiced.sum().clamp_min(1)

    def predict(self, units: Tensor) -> Tensor:
        """Pitch in Hz (batch, 2 * frames), 0 where unvoiced."""
        voicing, octaves = self(units)
        pitch = (_REFERENCE_HZ * torch.exp2(octaves)).clamp(F0_MIN, F0_MAX)
        return torch.where(voicing > 0, pitch, 0.0)
