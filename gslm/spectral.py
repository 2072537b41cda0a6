"""Short-time Fourier transforms and mel filters that several stages use."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LINEAR_HZ = 200.0 / 3
"""Slaney's mel scale: linear below 1 kHz with this width, logarithmic above."""
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Frequency in Hz to Slaney's mel scale (Auditory Toolbox, 1998)."""
    hz = np.asarray(hz, dtype=np.float64)
    above = _BREAK_HZ / _LINEAR_HZ + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale to frequency in Hz."""
    mel = np.asarray(mel, dtype=np.float64)
    break_mel = _BREAK_HZ / _LINEAR_HZ
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, break_mel) - break_mel))
    return np.where(mel < break_mel, mel * _LINEAR_HZ, above)


# What is kept must be an ordinary tensor even where the first caller is in inference mode:
# training in the same process could not use it otherwise.
@cache
@torch.inference_mode(False)
def mel_filterbank(
    n_mels: int, n_fft: int, sample_rate: int, f_min: float = 0.0, f_max: float | None = None
) -> Tensor:
    """Triangular mel filters of equal area, shape (n_mels, n_fft // 2 + 1), float32."""
    f_max = sample_rate / 2 if f_max is None else f_max
    corners = mel_to_hz(np.linspace(hz_to_mel(f_min), hz_to_mel(f_max), n_mels + 2))
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    triangles *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    return torch.from_numpy(triangles.astype(np.float32))


@cache
@torch.inference_mode(False)
def hann_window(length: int) -> Tensor:
    """Periodic Hann window, shape (length,)."""
    return torch.hann_window(length)


def stft(waveform: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Complex spectrogram of waveforms (batch, samples): (batch, n_fft // 2 + 1, frames).

    There are samples // hop_length frames, frame i centred on sample (i + 1/2) hop_length;
    beyond the ends the signal is taken as silent.
    """
    padding = (n_fft - hop_length) // 2
    padded = F.pad(waveform, (padding, n_fft - hop_length - padding))
    window = hann_window(n_fft).to(waveform.device)
    return torch.stft(padded, n_fft, hop_length, window=window, center=False, return_complex=True)


def istft(spectrogram: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Inverse of `stft`: (batch, n_fft // 2 + 1, frames) to (batch, frames * hop_length)."""
    n_frames = spectrogram.shape[-1]
    window = hann_window(n_fft).to(spectrogram.device)
    frames = torch.fft.irfft(spectrogram, n=n_fft, dim=1) * window[None, :, None]
    n_padded = (n_frames - 1) * hop_length + n_fft
    summed = _overlap_add(frames, n_padded, n_fft, hop_length)
    squares = (window**2)[None, :, None].expand(1, -1, n_frames)
    envelope = _overlap_add(squares, n_padded, n_fft, hop_length)
    padding = (n_fft - hop_length) // 2
    inside = slice(padding, padding + n_frames * hop_length)
    return summed[:, inside] / envelope[:, inside].clamp_min(1e-8)


def _overlap_add(frames: Tensor, n_samples: int, n_fft: int, hop_length: int) -> Tensor:
    return F.fold(frames, (1, n_samples), (1, n_fft), stride=(1, hop_length))[:, 0, 0]
