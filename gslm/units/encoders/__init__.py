"""Speech encoders: what turns a waveform into the vectors that are quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from gslm.bundle import config_from_json
from gslm.errors import UserError
from gslm.units.encoders.base import (
    FRAME_RATE,
    HOP_LENGTH,
    Chunking,
    SpeechEncoder,
    n_frames,
)
from gslm.units.encoders.cepstral import LogMelEncoder, MFCCEncoder
from gslm.units.encoders.checkpoints import load_whisper, whisper_model
from gslm.units.encoders.whisper import NoSuchLayerError, WhisperConfig, WhisperEncoder

__all__ = [
    "FRAME_RATE",
    "HOP_LENGTH",
    "Chunking",
    "LogMelEncoder",
    "MFCCEncoder",
    "NoSuchLayerError",
    "SpeechEncoder",
    "WhisperConfig",
    "WhisperEncoder",
    "build_encoder",
    "load_encoder",
    "load_whisper",
    "n_frames",
]


def load_encoder(
    source: str | Path, layer: int = 3, chunking: Chunking | None = None
) -> SpeechEncoder:
    """Make an encoder by name.

    source: `log-mel`, `mfcc`, or a Whisper model: a transformers or CTranslate2 folder or a
    name on the Hugging Face Hub. layer: Whisper's layer, counted from 1; the others have none.
    """
    if source == LogMelEncoder.name:
        return LogMelEncoder(chunking)
    if source == MFCCEncoder.name:
        return MFCCEncoder(chunking)
    return load_whisper(source, layer, chunking)


def build_encoder(
    name: str,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    chunking: Chunking,
    where: str | Path,
) -> SpeechEncoder:
    """Make an encoder from what its `config` and `tensors` gave; `where` is for errors."""
    if name == LogMelEncoder.name:
        return LogMelEncoder(chunking)
    if name == MFCCEncoder.name:
        return MFCCEncoder(chunking)
    if name == WhisperEncoder.name:
        sizes = config_from_json(WhisperConfig, config, where)
        return WhisperEncoder(whisper_model(sizes, tensors, where), chunking)
    raise UserError(f"{where}: unknown encoder {name!r}; known are log-mel, mfcc, whisper")
