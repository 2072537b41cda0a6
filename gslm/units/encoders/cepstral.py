"""Encoders that learn nothing: log-mel spectra and MFCCs, one vector every 20 ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gslm.units.encoders.base import HOP_LENGTH, Chunking, begun_frames
from gslm.units.encoders.spectral import cosine_transform, mel_filterbank, power_spectra

_N_FFT = 400
_PADDING = (_N_FFT - HOP_LENGTH) // 2  # centres the 25 ms window on its 20 ms frame
_FLOOR = 1e-8  # power; well below the noise of 16-bit recordings


class LogMelEncoder:
    """Natural logarithm of 80 mel bands of 25 ms windows, centred on each 20 ms frame."""

    name = "log-mel"
    layer = 0
    dim = 80
    hop_length = HOP_LENGTH
    learned_from = "nothing (a fixed spectrum)"
    weights_hash = ""

    def __init__(self, chunking: Chunking | None = None) -> None:
        self.chunking = chunking or Chunking()
        self._filters = mel_filterbank(self.dim, _N_FFT)

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,) to log-mel frames (frames, 80)."""
        return _log_mel(clips, self._filters)

    def n_frames(self, n_samples: int) -> int:
        """Frames of 320 samples, the last of which may be partly empty."""
        return begun_frames(n_samples)

    def config(self) -> dict[str, Any]:
        """Nothing beside the name: the spectrum is fixed."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """No weights."""
        return {}


class MFCCEncoder:
    """13 cepstral coefficients of 40 mel bands with their first and second differences."""

    name = "mfcc"
    layer = 0
    dim = 39
    hop_length = HOP_LENGTH
    learned_from = "nothing (a fixed spectrum)"
    weights_hash = ""

    def __init__(self, chunking: Chunking | None = None) -> None:
        self.chunking = chunking or Chunking()
        self._filters = mel_filterbank(40, _N_FFT)
        self._cosines = cosine_transform(13, 40)

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,) to frames (frames, 39): 13 coefficients, 13 deltas, 13 delta-deltas."""
        frames = []
        for log_mel in _log_mel(clips, self._filters):
            static = log_mel @ self._cosines.to(log_mel.device)
            first = deltas(static)
            frames.append(torch.cat([static, first, deltas(first)], dim=1))
        return frames

    def n_frames(self, n_samples: int) -> int:
        """Frames of 320 samples, the last of which may be partly empty."""
        return begun_frames(n_samples)

    def config(self) -> dict[str, Any]:
        """Nothing beside the name: the spectrum is fixed."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """No weights."""
        return {}


def deltas(frames: Tensor) -> Tensor:
    """Slope of a straight line through five neighbouring frames; the edge frames are repeated.

    frames: (frames, dim); returns the same shape (Furui, 1986).
    """
    padded = F.pad(frames.T[None], (2, 2), mode="replicate")[0].T
    n = len(frames)
    near = padded[3 : 3 + n] - padded[1 : 1 + n]
    far = padded[4 : 4 + n] - padded[:n]
    return (near + 2 * far) / 10


def _log_mel(clips: Sequence[Tensor], filters: Tensor) -> list[Tensor]:
    power, counts = power_spectra(clips, _N_FFT, HOP_LENGTH, _PADDING)
    mel = torch.log((power @ filters.to(power.device)).clamp(min=_FLOOR))
    return list(mel.split(counts))
