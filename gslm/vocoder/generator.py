"""Units and pitch to a waveform: ConvNeXt blocks and an inverse-STFT head.

The blocks and the head follow Vocos (Siuzdak 2023). Instead of free phases the head shapes the
spectrogram of an excitation, as the neural homomorphic vocoder does (Liu et al. 2020): harmonics
stay harmonic from the first step of training, which a small corpus and a CPU can afford.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gslm.spectral import istft, stft
from gslm.vocoder.blocks import ConvNeXtBlock
from gslm.vocoder.excitation import fill_unvoiced, harmonic_pulses, phase_turns

UNIT_HOP = 320
"""Samples of one unit frame (50 a second)."""
FINE_HOP = 160
"""Samples of one frame of pitch and of the head (100 a second)."""
ENVELOPE_STEPS = 8
"""Steps of the noise's loudness in a fine frame."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Size of the generator."""

    n_units: int
    """Distinct units; index n_units stands for padding."""
    dim: int = 320
    """Channels of the ConvNeXt blocks."""
    expansion: int = 3
    """Width of a block's inner layer as a multiple of dim."""
    unit_blocks: int = 6
    """Blocks at 50 frames a second."""
    fine_blocks: int = 5
    """Blocks at 100 frames a second."""
    kernel_size: int = 7
    """Frames that a block's depthwise convolution sees."""
    dropout: float = 0.1
    """Dropout of the blocks at 50 frames a second, in training."""
    n_fft: int = 512
    """Samples of the head's analysis and synthesis window."""


class Generator(nn.Module):
    """Unit frames and pitch to samples at 16 kHz."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        dim, n_blocks = config.dim, config.unit_blocks + config.fine_blocks
        self.unit_embedding = nn.Embedding(config.n_units + 1, dim)
        self.unit_pitch = nn.Linear(4, dim)
        self.enter = nn.Conv1d(dim, dim, 3, padding=1)
        self.enter_norm = nn.LayerNorm(dim, eps=1e-6)
        blocks = [
            ConvNeXtBlock(
                dim,
                config.expansion * dim,
                config.kernel_size,
                1 / n_blocks,
                config.dropout if i < config.unit_blocks else 0.0,
            )
            for i in range(n_blocks)
        ]
        self.unit_blocks = nn.ModuleList(blocks[: config.unit_blocks])
        self.upsample = nn.Linear(dim, 2 * dim)
        self.fine_pitch = nn.Linear(2, dim)
        self.fine_blocks = nn.ModuleList(blocks[config.unit_blocks :])
        self.leave_norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 3 * (config.n_fft // 2 + 1) + ENVELOPE_STEPS)
        nn.init.normal_(self.unit_embedding.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, units: Tensor, f0: Tensor, noise: Tensor | None = None) -> Tensor:
        """Synthesise a batch.

        units: int64 (batch, frames) at 50 Hz, n_units for padding; f0: Hz (batch, 2 * frames) at
        100 Hz, 0 where unvoiced; noise: Gaussian (batch, 320 * frames), drawn where not given.
        Returns samples (batch, 320 * frames).
        """
        shape = self.spectral_shape(units, f0)
        with torch.autocast(units.device.type, enabled=False):
            filled = fill_unvoiced(f0)
            turns = phase_turns(filled, FINE_HOP)
            pulses = harmonic_pulses(turns, filled, (f0 > 0).to(f0.dtype), FINE_HOP)
            noise = torch.randn_like(pulses) if noise is None else noise
            return self.synthesize(shape.float(), pulses, noise)

    def spectral_shape(self, units: Tensor, f0: Tensor) -> Tensor:
        """What the head asks for: (batch, 2 * frames, channels), see `synthesize`."""
        pitch = pitch_features(f0)
        batch, n_frames = units.shape
        x = self.unit_embedding(units) + self.unit_pitch(pitch.reshape(batch, n_frames, 4))
        x = self.enter_norm(self.enter(x.transpose(1, 2)).transpose(1, 2))
        for block in self.unit_blocks:
            x = block(x)
        x = self.upsample(x).reshape(batch, 2 * n_frames, self.config.dim)
        x = x + self.fine_pitch(pitch)
        for block in self.fine_blocks:
            x = block(x)
        return self.head(self.leave_norm(x))

    def synthesize(self, shape: Tensor, pulses: Tensor, noise: Tensor) -> Tensor:
        """Shape harmonics and noise by log-magnitudes and phases, and return to samples.

        shape: (batch, fine frames, 3 * bins + envelope steps): natural-log magnitude and phase in
        radians for the harmonics, log magnitude for the noise, and the noise's log loudness every
        1.25 ms, since a window of the spectrogram is too long for the burst of a plosive; pulses,
        noise: (batch, 160 * fine frames). Returns (batch, 160 * fine frames).
        """
        n_fft = self.config.n_fft
        bins = n_fft // 2 + 1
        spectra, loudness = shape.split([3 * bins, ENVELOPE_STEPS], dim=-1)
        harmonic_log, phase, noise_log = spectra.transpose(1, 2).chunk(3, dim=1)
        harmonic = stft(pulses, n_fft, FINE_HOP) * torch.polar(_magnitude(harmonic_log), phase)
        aperiodic = stft(noise * _envelope(loudness), n_fft, FINE_HOP) * _magnitude(noise_log)
        return istft(harmonic + aperiodic, n_fft, FINE_HOP)


def _envelope(loudness: Tensor) -> Tensor:
    """Log loudness (batch, fine frames, steps) to factors (batch, 160 * fine frames)."""
    factors = torch.exp(loudness.clamp(-6.0, 3.0)).flatten(1)
    hop_length = FINE_HOP // ENVELOPE_STEPS
    return F.interpolate(factors[:, None], scale_factor=hop_length, mode="linear")[:, 0]


def _magnitude(log_magnitude: Tensor) -> Tensor:
    """Natural-log magnitudes, offset so that an untrained head is quiet, never over e^2."""
    return torch.exp((log_magnitude - 4.0).clamp(-14.0, 2.0))


def pitch_features(f0: Tensor) -> Tensor:
    """Voicing and normalised log pitch of f0 in Hz (batch, frames): (batch, frames, 2)."""
    voiced = f0 > 0
    level = torch.where(voiced, torch.log(f0.clamp_min(1.0) / 160.0) * 2.0, 0.0)
    return torch.stack([voiced.to(level.dtype), level], dim=-1)
