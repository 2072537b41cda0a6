"""Speech encoders: what turns a waveform into the vectors that are quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from gslm.bundle import config_from_json, read_json_object
from gslm.errors import UserError
from gslm.hub import folder_from_hub
from gslm.units.encoders.base import HOP_LENGTH, Chunking, SpeechEncoder, begun_frames
from gslm.units.encoders.cepstral import LogMelEncoder, MFCCEncoder
from gslm.units.encoders.checkpoints import load_whisper, whisper_model
from gslm.units.encoders.cpc import (
    CPCConfig,
    CPCEncoder,
    cpc_model,
    is_cpc_checkpoint,
    load_cpc,
)
from gslm.units.encoders.fairseq_checkpoint import load_fairseq, load_wav2vec2
from gslm.units.encoders.precision import in_precision
from gslm.units.encoders.presets import preset
from gslm.units.encoders.transformers_speech import (
    CONFIG_FILES,
    MODELS,
    TransformersSpeechEncoder,
    build_transformers_speech,
    load_transformers_speech,
)
from gslm.units.encoders.wav2vec2 import KINDS, Wav2Vec2Encoder, build_wav2vec2
from gslm.units.encoders.whisper import NoSuchLayerError, WhisperConfig, WhisperEncoder

__all__ = [
    "HOP_LENGTH",
    "WHISPER_LAYER",
    "CPCEncoder",
    "Chunking",
    "LogMelEncoder",
    "MFCCEncoder",
    "NoSuchLayerError",
    "SpeechEncoder",
    "TransformersSpeechEncoder",
    "Wav2Vec2Encoder",
    "WhisperConfig",
    "WhisperEncoder",
    "begun_frames",
    "build_encoder",
    "load_cpc",
    "load_encoder",
    "load_transformers_speech",
    "load_wav2vec2",
    "load_whisper",
]


WHISPER_LAYER = 3
"""Layer of a Whisper that is used where none is named, as in the embedded bundle."""


def load_encoder(
    source: str | Path,
    layer: int | None = None,
    chunking: Chunking | None = None,
    precision: str = "float32",
) -> SpeechEncoder:
    """Make an encoder by name.

    source: `log-mel`, `mfcc`, the short name of a preset (see presets.py), a file (CPC's
    checkpoint, HuBERT's or wav2vec 2.0's of fairseq, or torchaudio's state dict of one), or a
    model in transformers' format (Whisper, also in CTranslate2's, HuBERT, wav2vec 2.0, WavLM,
    data2vec, w2v-BERT): its folder or its name on the Hugging Face Hub. layer: counted from 1;
    where None, the preset's, Whisper's third, CPC's second; log-mel and mfcc have none.
    precision: `float32`, or for HuBERT's kin `bfloat16` or `auto`, see precision.py. Raises
    `UserError` for what is none of these, for a layer of an encoder without layers, and for a
    model without a layer of its own where None is given.
    """
    return in_precision(_load(source, layer, chunking), precision)


def _load(source: str | Path, layer: int | None, chunking: Chunking | None) -> SpeechEncoder:
    if not str(source):
        raise UserError("the encoder's name is empty; name one that `gslm units encoders` lists")
    if source in (LogMelEncoder.name, MFCCEncoder.name):
        if layer is not None:
            raise UserError(f"{source} has no layers; leave out --layer")
        return LogMelEncoder(chunking) if source == LogMelEncoder.name else MFCCEncoder(chunking)
    if (known := preset(str(source))) is not None:
        layer = known.layer if layer is None else layer
        return load_transformers_speech(known.source, layer, chunking, known.learned_from)
    if Path(source).is_file():
        return _load_file(Path(source), layer, chunking)
    model_type = _model_type(source)
    if model_type in (None, "whisper"):
        return load_whisper(source, WHISPER_LAYER if layer is None else layer, chunking)
    if model_type not in MODELS:
        raise UserError(
            f"{source}: holds a {model_type!r} model, which is no speech encoder that gslm reads; "
            f"those are whisper, {', '.join(MODELS)}"
        )
    if layer is None:
        raise UserError(
            f"{source}: name a layer of this {model_type} model with --layer (as 6 of the 12 of a "
            "base model); only presets have one of their own, see `gslm units encoders`"
        )
    return load_transformers_speech(source, layer, chunking)


def _load_file(path: Path, layer: int | None, chunking: Chunking | None) -> SpeechEncoder:
    """CPC, HuBERT or wav2vec 2.0, by what the file holds."""
    if path.suffix != ".safetensors" and is_cpc_checkpoint(load_fairseq(path)):
        return load_cpc(path, layer, chunking)
    if layer is None:
        raise UserError(f"{path}: name a layer with --layer (as 6 of the 12 of a base model)")
    return load_wav2vec2(path, layer, chunking)


def _model_type(source: str | Path) -> str | None:
    """What a transformers folder or Hub name says that it holds; None where it does not say."""
    folder = Path(source)
    if not folder.is_dir():
        instead = "a speech encoder, or one that `gslm units encoders` lists"
        folder = folder_from_hub(str(source), CONFIG_FILES, "model", instead)
    path = folder / "config.json"
    if not path.is_file() or (folder / "model.bin").is_file():
        return None  # CTranslate2's Whisper, or nothing
    model_type = read_json_object(path).get("model_type")
    return None if model_type is None else str(model_type)


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
    if name == CPCEncoder.name:
        cpc = config_from_json(CPCConfig, config, where)
        return CPCEncoder(cpc_model(cpc, tensors, where), chunking)
    if name in KINDS:
        return build_wav2vec2(config, tensors, chunking, where)
    if name.startswith(TransformersSpeechEncoder.prefix):
        return build_transformers_speech(config, tensors, chunking, where)
    raise UserError(
        f"{where}: unknown encoder {name!r}; known are log-mel, mfcc, whisper, cpc, "
        f"{', '.join(KINDS)} and those of transformers; install the gslm that made it"
    )
