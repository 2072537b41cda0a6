"""What the vocoder is trained to lower: spectral distances and adversarial losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gslm.audio import SAMPLE_RATE
from gslm.spectral import mel_filterbank, stft

_MEL_SCALES = ((64, 10), (128, 20), (256, 40), (512, 80), (1024, 120), (2048, 160))
"""Window length in samples and mel bands of each scale."""


def mel_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of log-mel spectra over six scales (Kumar et al. 2023).

    made, real: samples (batch, samples). Returns a scalar in natural-log units.
    """
    total = made.new_zeros(())
    for n_fft, n_mels in _MEL_SCALES:
        filters = mel_filterbank(n_mels, n_fft, SAMPLE_RATE).to(made.device)
        made_mel, real_mel = (_log_mel(x, n_fft, filters) for x in (made, real))
        total = total + F.l1_loss(made_mel, real_mel)
    return total / len(_MEL_SCALES)


def _log_mel(waveform: Tensor, n_fft: int, filters: Tensor) -> Tensor:
    spectrum = stft(waveform, n_fft, max(16, n_fft // 4)).abs()
    return torch.log((filters @ spectrum).clamp_min(1e-4))


def spectral_distance(made: Tensor, real: Tensor) -> Tensor:
    """Log-magnitude and relative linear differences at three resolutions (Yamamoto et al. 2020)."""
    total = made.new_zeros(())
    n_ffts = (256, 512, 1024)
    for n_fft in n_ffts:
        made_magnitude, real_magnitude = (
            stft(x, n_fft, n_fft // 4).abs().clamp_min(1e-4) for x in (made, real)
        )
        difference = (real_magnitude - made_magnitude).norm() / real_magnitude.norm()
        logarithmic = F.l1_loss(made_magnitude.log(), real_magnitude.log())
        total = total + difference + logarithmic
    return total / len(n_ffts)


def discriminator_loss(
    real: list[tuple[Tensor, list[Tensor]]], made: list[tuple[Tensor, list[Tensor]]]
) -> Tensor:
    """Hinge loss of the discriminators: real over 1, made under -1."""
    losses = [
        F.relu(1 - real_score.float()).mean() + F.relu(1 + made_score.float()).mean()
        for (real_score, _), (made_score, _) in zip(real, made, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(made: list[tuple[Tensor, list[Tensor]]]) -> Tensor:
    """Hinge loss of the generator: the scores of what it made should be high."""
    return torch.stack([F.relu(1 - score.float()).mean() for score, _ in made]).mean()


def feature_distance(
    real: list[tuple[Tensor, list[Tensor]]], made: list[tuple[Tensor, list[Tensor]]]
) -> Tensor:
    """Mean absolute difference of the discriminators' layers, relative to the real ones' size."""
    losses = []
    for (_, real_features), (_, made_features) in zip(real, made, strict=True):
        for real_layer, made_layer in zip(real_features, made_features, strict=True):
            target = real_layer.detach()
            # Sums of magnitudes as norms: half the time of float32 copies of bfloat16 layers.
            difference = (made_layer - target).norm(1, dtype=torch.float32)
            size = target.norm(1, dtype=torch.float32).clamp_min(1e-4 * target.numel())
            losses.append(difference / size)
    return torch.stack(losses).mean()
