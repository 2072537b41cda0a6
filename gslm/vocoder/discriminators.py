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

_SLOPE = 0.1


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
        wide = [
            ((7, 3), (2, 1)),
            ((7, 3), (2, 1)),
            ((7, 3), (2, 2)),
            ((5, 3), (2, 1)),
            ((3, 3), (1, 1)),
        ]
        self.layers = nn.ModuleList(
            _convolution(channels if i else 3, channels, kernel_size, stride)
            for i, (kernel_size, stride) in enumerate(wide)
        )
        self.leave = _convolution(channels, 1, (3, 3), (1, 1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Samples (batch, samples) to scores (batch, bins', frames') and each layer's output."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = stft(waveform.float(), self.n_fft, self.n_fft // 4) / self.n_fft**0.5
            # Compressed magnitudes keep quiet high frequencies in sight.
            magnitude = spectrum.abs().clamp_min(1e-5)
            compressed = magnitude.pow(-0.7)
            planes = [0.4 * torch.log(magnitude) + 2.0, spectrum.real * compressed]
            x = torch.stack([*planes, spectrum.imag * compressed], dim=1)
            x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return self.leave(x)[:, 0], features


def _convolution(
    n_in: int, n_out: int, kernel_size: tuple[int, int], stride: tuple[int, int]
) -> nn.Module:
    """A weight-normalised convolution that keeps the size of what passes.

    torch's own start shrinks it at every layer: after six, all scores are alike, and hundreds of
    steps go by before real and made are told apart.
    """
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    convolution = nn.Conv2d(n_in, n_out, kernel_size, stride, padding)
    nn.init.kaiming_normal_(convolution.weight, a=_SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return weight_norm(convolution)


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
