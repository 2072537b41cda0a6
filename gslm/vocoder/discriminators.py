"""Discriminators that judge log spectrograms at several resolutions.

After the multi-resolution discriminators of UnivNet (Jang et al. 2021) and Vocos, thinner, so
that a step of training fits a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gslm.spectral import stft


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Size of the discriminators."""

    n_ffts: tuple[int, ...] = (1024, 512, 256)
    """One discriminator for each window length, in samples; hops are a quarter of it."""
    channels: int = 32
    """Channels of every layer."""


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over one complex spectrogram, halving the frequencies."""

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.layers = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(3, channels, (7, 3), (2, 1), padding=(3, 1))),
                weight_norm(nn.Conv2d(channels, channels, (7, 3), (2, 1), padding=(3, 1))),
                weight_norm(nn.Conv2d(channels, channels, (7, 3), (2, 2), padding=(3, 1))),
                weight_norm(nn.Conv2d(channels, channels, (5, 3), (2, 1), padding=(2, 1))),
                weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))),
            ]
        )
        self.leave = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Samples (batch, samples) to scores (batch, bins', frames') and each layer's output."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = stft(waveform.float(), self.n_fft, self.n_fft // 4) / self.n_fft**0.5
            # Compressed magnitudes keep quiet high frequencies in sight.
            magnitude = spectrum.abs().clamp_min(1e-5)
            compressed = magnitude.pow(-0.7)
            planes = [torch.log(magnitude) * 0.3, spectrum.real * compressed]
            x = torch.stack([*planes, spectrum.imag * compressed], dim=1)
            x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.leave(x)[:, 0], features


class Discriminators(nn.Module):
    """One `SpectrogramDiscriminator` for each resolution."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            SpectrogramDiscriminator(n_fft, config.channels) for n_fft in config.n_ffts
        )

    def forward(self, waveform: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Samples (batch, samples) to each member's scores and features."""
        return [member(waveform) for member in self.members]
