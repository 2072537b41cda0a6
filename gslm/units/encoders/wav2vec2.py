"""HuBERT and wav2vec 2.0 on fairseq2's parts, cut off above one layer.

Hsu et al., 2021; Baevski et al., 2020. The layers above the one asked for are neither built, nor
read, nor run. What layer i gives is what fairseq's `dump_hubert_feature.py` gives for it, and
`hidden_states[i]` of transformers: for one clip by itself, in any batch. One exception, which is
fairseq's: models that normalise before each layer (the large ones) end in one more normalisation,
which fairseq leaves out wherever a layer is asked for, the last as well; transformers applies it
to the last.

Nothing is padded. The convolutions and the position convolution run clip by clip, since the
first normalises over time and the second sees zeros beyond the clip's ends; the layers run on all
clips packed one below the other, and attention stays inside each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gslm.bundle import config_from_json, tensors_hash
from gslm.errors import UserError
from gslm.units.encoders.base import Chunking, require_sizes
from gslm.units.encoders.batching import half_minute_chunks
from gslm.units.encoders.convolutional import Convolutions
from gslm.units.encoders.precision import autocast
from gslm.units.encoders.weight_files import fill_model
from gslm.units.encoders.whisper import NoSuchLayerError

KINDS = ("hubert", "wav2vec2")
"""Names that these encoders have."""
_NORMALIZE_EPS = 1e-5
"""What fairseq adds to the variance of a clip."""


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes of a HuBERT or wav2vec 2.0 encoder, and how it is used."""

    kind: str
    """`hubert` or `wav2vec2`."""
    model_dim: int
    """Width of the residual stream."""
    n_heads: int
    """Attention heads."""
    ffn_dim: int
    """Width of the feed-forward layers."""
    convolutions: tuple[tuple[int, int, int], ...]
    """(channels, width, stride) of each convolution."""
    conv_bias: bool
    """Whether the convolutions have a bias."""
    conv_layer_norm: bool
    """Whether each convolution is normalised over its channels; else the first is over time."""
    position_width: int
    """Width of the position convolution, in frames."""
    position_groups: int
    """Groups of the position convolution."""
    pre_norm: bool
    """Whether layers normalise what they read; else what they give."""
    normalize: bool
    """Whether each clip is brought to mean 0 and variance 1 first (fairseq's task.normalize)."""
    n_layers: int
    """Layers of the whole encoder, before it was cut."""
    layer: int
    """Layer whose output is used, counted from 1; those above are not held."""
    learned_from: str
    """In one phrase, what the model was learned from."""

    def __post_init__(self) -> None:
        # JSON has no tuples.
        layers = tuple(tuple(layer) for layer in self.convolutions)
        object.__setattr__(self, "convolutions", layers)
        if self.kind not in KINDS:
            raise UserError(f"wav2vec2: kind {self.kind!r}; choose from {', '.join(KINDS)}")
        sizes = ("model_dim", "n_heads", "ffn_dim", "position_width", "position_groups")
        require_sizes(self.kind, self, *sizes)
        if not layers or min(map(min, layers)) < 1:
            raise UserError(
                f"{self.kind}: convolutions {layers} must have channels, width and stride of at "
                "least 1"
            )
        if not 1 <= self.layer <= self.n_layers:
            raise NoSuchLayerError(
                f"{self.kind}: there is no layer {self.layer}; choose one from 1 to {self.n_layers}"
            )


class Wav2Vec2Model(nn.Module):
    """fairseq2's front end and its first `config.layer` layers, under fairseq2's names."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        """Build the modules; raises `UserError` where fairseq2 is missing."""
        super().__init__()
        parts = _fairseq2_parts(config)
        self.encoder_frontend: Any = parts[0]
        self.encoder: Any = parts[1]
        # fairseq gives a layer as it is; see this file's beginning.
        self.encoder.layer_norm = None
        for layer in self.encoder.layers:
            layer.self_attn.sdpa = _SeparateAttention()
        # A length and a direction are for training; one weight, not one made anew for each clip.
        nn.utils.remove_weight_norm(self.encoder_frontend.pos_encoder.conv)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features of the convolutions (frames, channels) each to (frames, model_dim) each."""
        from fairseq2.nn import BatchLayout

        front, lengths = self.encoder_frontend, [len(part) for part in features]
        x = front.post_extract_layer_norm(torch.cat(list(features)))
        if front.model_dim_proj is not None:
            x = front.model_dim_proj(x)
        x = torch.cat(
            [
                front.pos_encoder(rows, BatchLayout.of(rows)).flatten(0, 1)
                for rows in _equal_lengths(x, lengths)
            ]
        )
        if front.layer_norm is not None:
            x = front.layer_norm(x)
        x = self.encoder(x, BatchLayout.of(x, lengths, packed=True))
        return list(x.split(lengths))


class _SeparateAttention(nn.Module):
    """fairseq2's attention over packed clips without a mask: each clip by itself."""

    def forward(
        self, q: Tensor, q_layout: Any, k: Tensor, _k_layout: Any, v: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        """q, k, v: packed (frames, heads, dim of a head)."""
        parts = [_equal_lengths(rows, q_layout.seq_lens) for rows in (q, k, v)]
        heads = [
            F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in clips))
            for clips in zip(*parts, strict=True)
        ]
        return torch.cat([rows.transpose(1, 2).flatten(0, 1) for rows in heads]), None


def _equal_lengths(packed: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Packed (frames, ...) as (clips, frames of each, ...) of neighbours of equal length."""
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    parts = packed.split([length * n_clips for length, n_clips in runs])
    return [
        part.unflatten(0, (n_clips, length))
        for part, (length, n_clips) in zip(parts, runs, strict=True)
    ]


def wav2vec2_model(
    config: Wav2Vec2Config, tensors: dict[str, Tensor], where: str | Path
) -> Wav2Vec2Model:
    """Build the model around tensors that were read at `where`; they must fit exactly."""
    with torch.device("meta"):
        model = Wav2Vec2Model(config)
    fill_model(model, tensors, where)
    return model


def build_wav2vec2(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    chunking: Chunking,
    where: str | Path,
    precision: str = "float32",
) -> Wav2Vec2Encoder:
    """Make an encoder from what its `config` and `tensors` gave; `where` is for errors."""
    sizes = config_from_json(Wav2Vec2Config, config, where)
    return Wav2Vec2Encoder(wav2vec2_model(sizes, tensors, where), sizes, chunking, precision)


class Wav2Vec2Encoder:
    """HuBERT or wav2vec 2.0 up to one layer; any clip up to a chunk.

    Clips shorter than a window (400 samples) are padded with zeros.
    """

    def __init__(
        self,
        model: Wav2Vec2Model,
        config: Wav2Vec2Config,
        chunking: Chunking | None = None,
        precision: str = "float32",
        convolutions: Convolutions | None = None,
    ) -> None:
        """Join a filled model and what it was built from.

        precision: see `with_precision`. convolutions: the model's, of this precision, where they
        are bound to a recording.
        """
        self.model = model.eval().requires_grad_(False)
        self._convolutions = convolutions or Convolutions(
            model.encoder_frontend.feature_extractor.layers,
            precision,
            _NORMALIZE_EPS if config.normalize else None,
        )
        self.hop_length = self._convolutions.hop_length
        self.name = config.kind
        self.layer = config.layer
        self.dim = config.model_dim
        self.learned_from = config.learned_from
        self.chunking = chunking or half_minute_chunks(self.hop_length)
        if self.chunking.overlap_frames < 2:
            raise UserError(
                f"{self.name}: chunks must share at least 2 frames, since each frame sees 80 "
                "samples of the next"
            )
        self.precision = precision
        self._config = config

    @cached_property
    def weights_hash(self) -> str:
        """Hash over the weights that are held, rounded to half precision."""
        return tensors_hash(self.tensors())

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,) to hidden states (frames, dim), differentiable in the clips."""
        if not clips:
            return []
        device = self._convolutions.device
        features = [self._convolutions(clip.to(device)) for clip in clips]
        with autocast(device, self.precision):
            return [frames.float() for frames in self.model(features)]

    def n_frames(self, n_samples: int) -> int:
        """Frames of whole windows, at least one: shorter clips are padded with zeros."""
        return self._convolutions.n_frames(n_samples)

    def for_recording(self, blocks: Iterable[NDArray[np.float32]]) -> Wav2Vec2Encoder:
        """The encoder for the chunks of one recording, see `Convolutions.for_recording`."""
        bound = self._convolutions.for_recording(blocks)
        return Wav2Vec2Encoder(self.model, self._config, self.chunking, self.precision, bound)

    def with_precision(self, precision: str) -> Wav2Vec2Encoder:
        """The encoder that computes in `float32` or `bfloat16`; the weights are shared."""
        return Wav2Vec2Encoder(self.model, self._config, self.chunking, precision)

    def config(self) -> dict[str, Any]:
        """Sizes of the model and how it is used."""
        return asdict(self._config)

    def tensors(self) -> dict[str, Tensor]:
        """Weights under fairseq2's names, the position convolution's weight norm multiplied out."""
        return dict(self.model.state_dict())

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker must find libsndfile before it imports fairseq2: built there, not unpickled.
        parts = self.config(), self.tensors(), self.chunking, self.name, self.precision
        return build_wav2vec2, parts


def _fairseq2_parts(config: Wav2Vec2Config) -> tuple[Any, Any]:
    """fairseq2's front end and layers, made by its factory from its configuration."""
    _preload_libsndfile()
    try:
        from fairseq2.models.transformer import TransformerNormOrder
        from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{config.kind}: fairseq2 is missing or does not load ({reason}); pip install "
            "'gslm[fairseq2]', or give the model's transformers folder, which needs none"
        ) from None
    order = TransformerNormOrder.PRE if config.pre_norm else TransformerNormOrder.POST
    sizes = Wav2Vec2EncoderConfig(
        model_dim=config.model_dim,
        feature_dim=config.convolutions[-1][0],
        layer_norm_features=not config.pre_norm,
        feature_extractor_layer_descs=list(config.convolutions),
        feature_extractor_bias=config.conv_bias,
        feature_extractor_layer_norm_convs=config.conv_layer_norm,
        pos_conv_kernel_size=config.position_width,
        num_pos_conv_groups=config.position_groups,
        num_encoder_layers=config.layer,
        num_encoder_attn_heads=config.n_heads,
        ffn_inner_dim=config.ffn_dim,
        norm_order=order,
    )
    factory = Wav2Vec2EncoderFactory(sizes)
    return factory.create_encoder_frontend(), factory.create_encoder()


def _preload_libsndfile() -> None:
    """Load the libsndfile of soundfile's wheel, for which fairseq2's native part asks by name."""
    import soundfile

    folder = Path(soundfile.__file__).with_name("_soundfile_data")
    for library in folder.glob("libsndfile*"):
        # One of another processor or system than this is passed over; fairseq2 then says so.
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
