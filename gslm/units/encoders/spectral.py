"""Short-time spectra shared by the encoders: framing, mel filters, cosine transform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gslm import spectral
from gslm.units.encoders.base import HOP_LENGTH, begun_frames


def whole_frames(clip: Tensor) -> Tensor:
    """Append silence until a clip (samples,) fills its last frame of 320 samples."""
    return F.pad(clip, (0, begun_frames(len(clip)) * HOP_LENGTH - len(clip)))


def power_spectra(
    clips: Sequence[Tensor], n_fft: int, hop_length: int, padding: int
) -> tuple[Tensor, list[int]]:
    """Power spectra of Hann-windowed frames of all clips, one below the other.

    clips: (samples,) each. Every clip is filled to whole frames of 320 samples, then mirrored
    by `padding` samples at both ends, so window i starts at sample i * hop_length - padding.
    Returns (windows, n_fft // 2 + 1) and the number of windows of each clip.
    """
    windows = []
    counts = []
    for clip in clips:
        whole = whole_frames(clip)
        n_windows = len(whole) // hop_length
        mirrored = F.pad(whole[None, None], (padding, padding), mode="reflect")[0, 0]
        windows.append(mirrored.unfold(0, n_fft, hop_length)[:n_windows])
        counts.append(n_windows)
    hann = torch.hann_window(n_fft, device=clips[0].device)
    spectrum = torch.fft.rfft(torch.cat(windows) * hann)
    return spectrum.real.square() + spectrum.imag.square(), counts


def mel_filterbank(n_mels: int, n_fft: int, sample_rate: int = 16_000) -> Tensor:
    """`gslm.spectral.mel_filterbank` turned to multiply rows: float32 (n_fft // 2 + 1, n_mels)."""
    return spectral.mel_filterbank(n_mels, n_fft, sample_rate).T.contiguous()


def cosine_transform(n_coefficients: int, n_inputs: int) -> Tensor:
    """Orthonormal DCT-II as a float32 matrix (n_inputs, n_coefficients)."""
    positions = torch.arange(n_inputs, dtype=torch.float64)[:, None] + 0.5
    orders = torch.arange(n_coefficients, dtype=torch.float64)
    matrix = torch.cos(math.pi / n_inputs * positions * orders) * math.sqrt(2 / n_inputs)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.float()
