"""What every speech encoder offers: clips in, feature vectors at an even rate out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gslm.errors import UserError

HOP_LENGTH = 320
"""Samples from one frame to the next at 16 kHz, of most encoders: 50 frames a second."""


@dataclass(frozen=True)
class Chunking:
    """How a long recording is cut; of each chunk the middle is kept.

    By default chunks of 10 seconds begin every 5 seconds: cuts that lie a multiple of 5 seconds
    apart give the same chunks, at the price of encoding long recordings twice over.
    """

    chunk_frames: int = 500
    """Length of a chunk in frames; clips up to this length are encoded whole."""
    overlap_frames: int = 250
    """Frames that neighbouring chunks share; half of them are context on either side."""
    offset_frames: int = 0
    """Moves the grid: the first chunk is this many frames shorter."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_frames < self.chunk_frames or self.overlap_frames % 2:
            raise UserError(
                f"chunking: an overlap of {self.overlap_frames} frames does not suit chunks of "
                f"{self.chunk_frames}; choose an even number below the chunk's length"
            )
        if not 0 <= self.offset_frames < self.chunk_frames - self.overlap_frames:
            raise UserError(
                f"chunking: offset of {self.offset_frames} frames must lie between 0 and "
                f"{self.chunk_frames - self.overlap_frames - 1}"
            )


@runtime_checkable
class SpeechEncoder(Protocol):
    """A function from 16 kHz clips to frames, with what a fingerprint and a folder need."""

    name: str
    """`log-mel`, `mfcc`, `whisper`."""
    layer: int
    """Layer whose output is given, counted from 1; 0 for encoders without layers."""
    dim: int
    """Size of a feature vector."""
    hop_length: int
    """Samples at 16 kHz from one frame to the next."""
    learned_from: str
    """In one phrase, what the encoder was learned from; for plans and model cards."""
    chunking: Chunking
    """How recordings longer than a chunk are cut."""

    @property
    def weights_hash(self) -> str:
        """16 hex digits that stand for the weights; empty where there are none."""

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Encode clips of at most a chunk's length.

        clips: float32 (samples,) in [-1, 1] at 16 kHz, of any lengths. Returns float32
        (n_frames(samples), dim) for each; the result for a clip does not depend on its
        neighbours in the batch beyond rounding.
        """

    def n_frames(self, n_samples: int) -> int:
        """Number of frames of a recording of `n_samples` samples, at least one."""

    def config(self) -> dict[str, Any]:
        """What `gslm.units.encoders.build_encoder` needs beside the tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights by name; empty where there are none."""


@runtime_checkable
class NormalizesOverTime(Protocol):
    """An encoder whose first normalisation spans the recording: HuBERT's kin."""

    def for_recording(self, blocks: Iterable[NDArray[np.float32]]) -> SpeechEncoder:
        """The encoder for the chunks of one recording, its weights shared.

        blocks: float32 (samples,) of the whole recording in order, read once in bounded memory.
        Chunks get the means and variances over time that they have inside the whole recording.
        """


def require_sizes(name: str, config: Any, *fields: str) -> None:
    """Raise `UserError` where one of these fields of an encoder's configuration is below 1."""
    for field in fields:
        if getattr(config, field) < 1:
            raise UserError(f"{name}: {field} {getattr(config, field)} must be at least 1")


def begun_frames(n_samples: int) -> int:
    """Frames of 320 samples that `n_samples` begin, at least one; the last may be partly empty."""
    return max(1, -(-n_samples // HOP_LENGTH))
