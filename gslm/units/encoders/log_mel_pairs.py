"""The input of w2v-BERT 2.0: Kaldi's log-mel bands, normalised over the clip, stacked in pairs.

As transformers' SeamlessM4TFeatureExtractor computes it, in torch: the same numbers to float32's
precision, on any device, and differentiable in the samples.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

HOP_LENGTH = 320
"""Samples from one pair of spectra to the next, 20 ms."""
WINDOW = 560
"""Samples that the two spectra of a pair see."""

_SPECTRUM_HOP = 160
_SPECTRUM_WINDOW = 400
_N_FFT = 512
_PREEMPHASIS = 0.97
_FULL_SCALE = 2.0**15  # Kaldi counts in 16-bit steps
_FLOOR = 1.192092955078125e-07  # float32's epsilon, as in Kaldi
_LOWEST_HZ = 20.0
_NYQUIST_HZ = 8000.0


def log_mel_pairs(clip: Tensor, n_mels: int) -> Tensor:
    """Normalised log-mel spectra of a clip, two and two: float32 (frames, 2 * n_mels).

    clip: float32 (samples,) at 16 kHz, at least `WINDOW` samples. Each band has mean 0 and
    variance 1 over the clip's spectra. A last spectrum without a partner counts for the mean and
    is then left out, where transformers fills its pair and masks it.
    """
    # In float64: a band that is the same all over the clip must have a variance of zero.
    windows = clip.double().unfold(0, _SPECTRUM_WINDOW, _SPECTRUM_HOP) * _FULL_SCALE
    windows = windows - windows.mean(1, keepdim=True)
    before = torch.cat([windows[:, :1], windows[:, :-1]], dim=1)
    taper, filters = _taper_and_filters(n_mels, clip.device)
    spectrum = torch.fft.rfft((windows - _PREEMPHASIS * before) * taper, _N_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    log_mel = torch.log((power @ filters).clamp(min=_FLOOR))
    log_mel = (log_mel - log_mel.mean(0)) / (log_mel.var(0) + 1e-7).sqrt()
    n_pairs = len(log_mel) // 2
    return log_mel[: 2 * n_pairs].reshape(n_pairs, 2 * n_mels).float()


@cache
def _taper_and_filters(n_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kaldi's window (400,) and its triangles in mel (257, n_mels), float64."""
    taper = torch.hann_window(_SPECTRUM_WINDOW, periodic=False, dtype=torch.float64) ** 0.85
    ends = _mel(torch.tensor([_LOWEST_HZ, _NYQUIST_HZ], dtype=torch.float64))
    edges = torch.linspace(float(ends[0]), float(ends[1]), n_mels + 2, dtype=torch.float64)
    bins = _mel(torch.linspace(0, _NYQUIST_HZ, _N_FFT // 2 + 1, dtype=torch.float64))
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    return taper.to(device), filters.to(device)


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)
