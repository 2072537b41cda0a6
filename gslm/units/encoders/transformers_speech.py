"""HuBERT, wav2vec 2.0, WavLM, data2vec, w2v-BERT and their kin through transformers' classes.

The model is built up to the layer that is asked for, from a folder or a Hub name; the layers
above are neither built, nor read, nor run. What layer i gives is transformers' `hidden_states[i]`
of one clip by itself, in any batch:

- Models whose first convolution is normalised over time (`feat_extract_norm: group`, all base
  sizes) give other numbers for a padded clip, in transformers too: the silence counts for mean
  and variance, and the attention mask, which these models' cards tell to leave out, comes only
  after it. So the convolutions run clip by clip here.
- Above them clips of like length share a batch, under 5 % of it padding that the attention mask
  hides. Where padding would still leak (`_PADDED` below) only clips of one length do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gslm.bundle import config_from_json, read_json_object, tensors_hash
from gslm.errors import UserError
from gslm.hub import folder_from_hub
from gslm.units.encoders import log_mel_pairs
from gslm.units.encoders.base import Chunking
from gslm.units.encoders.batching import MAX_PADDING, half_minute_chunks, like_lengths
from gslm.units.encoders.convolutional import Convolutions, n_outputs
from gslm.units.encoders.precision import autocast
from gslm.units.encoders.transformers_settings import learned_from_of, normalizes
from gslm.units.encoders.weight_files import (
    HUB_PICKLED,
    HUB_SAFETENSORS,
    fill_model,
    has_safetensors,
    join_weight_norm,
    read_wanted,
)
from gslm.units.encoders.whisper import NoSuchLayerError

MODELS = {
    "hubert": "HubertModel",
    "wav2vec2": "Wav2Vec2Model",
    "wavlm": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
    "wav2vec2-bert": "Wav2Vec2BertModel",
    "unispeech": "UniSpeechModel",
    "unispeech-sat": "UniSpeechSatModel",
}
"""transformers' class by the `model_type` of a config.json."""

_PADDED = {"hubert", "wav2vec2", "wav2vec2-bert", "unispeech", "unispeech-sat"}
"""Models that give a padded row, masked, what they give the clip alone. Not WavLM, whose mask
torch is about to refuse beside its position bias, and not data2vec, whose stacked position
convolutions see what the one before made of the padding."""

_NORMALIZE_EPS = 1e-7
"""What transformers adds to the variance of a clip."""

CONFIG_FILES = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class TransformersSpeechConfig:
    """What rebuilds an encoder beside its weights."""

    model: dict[str, Any]
    """transformers' config.json, of the whole model."""
    layer: int
    """Layer whose output is used, counted from 1; those above are not held."""
    normalize: bool
    """Whether each clip is brought to mean 0 and variance 1 before the convolutions."""
    learned_from: str
    """In one phrase, what the model was learned from."""

    def __post_init__(self) -> None:
        kind = self.model.get("model_type")
        if kind not in MODELS:
            raise UserError(
                f"config.json names a {kind!r} model; gslm reads whisper and {', '.join(MODELS)}"
            )
        if not 1 <= self.layer <= self.n_layers:
            raise NoSuchLayerError(
                f"{kind}: there is no layer {self.layer}; choose one from 1 to {self.n_layers}"
            )

    @property
    def n_layers(self) -> int:
        """Layers of the whole model."""
        n_layers = self.model.get("num_hidden_layers", 12)
        if not isinstance(n_layers, int):
            raise UserError(f"config.json: num_hidden_layers should be a number, not {n_layers!r}")
        return n_layers


def load_transformers_speech(
    source: str | Path,
    layer: int,
    chunking: Chunking | None = None,
    learned_from: str | None = None,
) -> TransformersSpeechEncoder:
    """Read the first `layer` layers of a speech encoder in transformers' format.

    source: a folder with config.json and model.safetensors or pytorch_model.bin, or the name of
    such a model on the Hugging Face Hub. learned_from: what the model was learned from; by its
    config.json where None. Weights become float32. Raises `UserError` where the folder holds
    another kind of model, or one for another sample rate, where weights are missing, or more
    than the model has, and where transformers is not installed.
    """
    folder = Path(source)
    if not folder.is_dir():
        patterns = (*CONFIG_FILES, *HUB_SAFETENSORS)
        folder = folder_from_hub(str(source), patterns, "model", "a speech encoder")
        if not has_safetensors(folder):
            patterns = (*CONFIG_FILES, *HUB_PICKLED)
            folder = folder_from_hub(str(source), patterns, "model", "a speech encoder")
    model = read_json_object(folder / "config.json")
    # Where the folder was made says nothing here, and may name a person's home.
    model = {name: value for name, value in model.items() if not name.startswith("_")}
    config = TransformersSpeechConfig(
        model=model,
        layer=layer,
        normalize=normalizes(folder, model),
        learned_from=learned_from or learned_from_of(model),
    )
    built = truncated_model(config)
    wanted = _Wanted(config, built)
    tensors = read_wanted(folder, wanted.name)
    if not tensors:
        raise UserError(
            f"{folder}: the weights hold nothing of a {model['model_type']} encoder; "
            "config.json is another model's"
        )
    fill(built, tensors, source)
    return TransformersSpeechEncoder(built, config, chunking)


def build_transformers_speech(
    config: dict[str, Any], tensors: dict[str, Tensor], chunking: Chunking, where: str | Path
) -> TransformersSpeechEncoder:
    """Rebuild an encoder from what its `config` and `tensors` gave, read at `where`."""
    read = config_from_json(TransformersSpeechConfig, config, where)
    model = truncated_model(read)
    fill(model, tensors, where)
    return TransformersSpeechEncoder(model, read, chunking)


def truncated_model(config: TransformersSpeechConfig) -> Any:
    """transformers' model up to the layer, on the meta device: its weights have shapes only."""
    kind = config.model["model_type"]
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{kind} models need transformers; run `pip install 'gslm[transformers]'`"
        ) from None
    model_class = getattr(transformers, MODELS[kind])
    try:
        sizes = model_class.config_class.from_dict(dict(config.model))
        sizes.num_hidden_layers = config.layer
        sizes.add_adapter = False  # what comes after the layers
        sizes.use_intermediate_ffn_before_adapter = False
        _check_numbers(sizes)
        with torch.device("meta"):
            model = model_class(sizes)
    except Exception as error:  # settings of others make its classes fail in any way
        what = f"{error} is not known" if isinstance(error, KeyError) else str(error)
        reason = " ".join(what.split())[:200]
        raise UserError(f"config.json: sizes that make no {kind} model ({reason})") from None
    if getattr(sizes, "feat_extract_activation", "gelu") != "gelu":
        raise UserError(f"config.json: convolutions of a {kind} model without GELU are not known")
    if hasattr(model, "masked_spec_embed"):
        del model.masked_spec_embed  # a vector for training alone
    if getattr(sizes, "do_stable_layer_norm", False) and config.layer < config.n_layers:
        # transformers normalises the last layer's output only.
        model.encoder.layer_norm = nn.Identity()
    if (conv := _weight_normed(model)) is not None:
        nn.utils.parametrize.remove_parametrizations(conv, "weight")
        conv._load_state_dict_pre_hooks.clear()  # of weight norm; it could not be pickled
    if (positions := getattr(model.encoder, "embed_positions", None)) is not None:
        model.encoder.embed_positions = type(positions)(sizes)  # a table, of no weights
    return model.eval().requires_grad_(False)


def _check_numbers(sizes: Any) -> None:
    """Raise ValueError for numbers that make a model which fails only where it is used."""
    counts = [sizes.num_attention_heads, *getattr(sizes, "conv_stride", ())]
    counts += getattr(sizes, "conv_kernel", ())
    if min(counts) < 1:
        raise ValueError("heads, strides and widths must be at least 1")
    for name in ("layer_norm_eps", "max_bucket_distance"):
        if not isinstance(value := getattr(sizes, name, 0), float | int):
            raise ValueError(f"{name} {value!r} is no number")


def fill(model: Any, tensors: dict[str, Tensor], where: str | Path) -> None:
    """Give a model of the meta device its weights, read at `where`; they must fit exactly."""
    tensors = dict(tensors)
    if (conv := _weight_normed(model)) is not None:
        join_weight_norm(tensors, next(n for n, m in model.named_modules() if m is conv))
    fill_model(model, tensors, where)
    model.requires_grad_(False)


class TransformersSpeechEncoder:
    """A speech encoder of transformers up to one layer; any clip up to a chunk.

    Clips are prepared as the model's preprocessor_config.json asks: brought to mean 0 and
    variance 1, or turned into log-mel pairs.
    """

    prefix = "transformers/"
    """What all names begin with; the rest is transformers' `model_type`."""

    def __init__(
        self,
        model: Any,
        config: TransformersSpeechConfig,
        chunking: Chunking | None = None,
        precision: str = "float32",
        convolutions: Convolutions | None = None,
    ) -> None:
        """Join a filled model (of `truncated_model`) and what it was built from.

        precision: see `with_precision`. convolutions: the model's, of this precision, where they
        are bound to a recording.
        """
        self.model = model
        self.name = self.prefix + config.model["model_type"]
        self.layer = config.layer
        self.learned_from = config.learned_from
        self.dim: int = model.config.hidden_size
        self._config = config
        if convolutions is None and hasattr(model, "feature_extractor"):
            eps = _NORMALIZE_EPS if config.normalize else None
            convolutions = Convolutions(model.feature_extractor.conv_layers, precision, eps)
        self._convolutions = convolutions
        self.hop_length = convolutions.hop_length if convolutions else log_mel_pairs.HOP_LENGTH
        self.chunking = chunking or half_minute_chunks(self.hop_length)
        self.precision = precision

    @cached_property
    def weights_hash(self) -> str:
        """Hash over the weights that are held, rounded to half precision."""
        return tensors_hash(self.tensors())

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,) to hidden states (frames, dim), differentiable in the clips."""
        device = self.model.feature_projection.projection.weight.device
        features = [self._front_end(clip.to(device)) for clip in clips]
        projected: list[Tensor] = []
        hidden: dict[int, Tensor] = {}
        with autocast(device, self.precision):
            for frames in features:
                out = self.model.feature_projection(frames[None])
                projected.append((out[0] if isinstance(out, tuple) else out)[0])
            for group in self._groups([len(frames) for frames in projected]):
                rows = self._transformed([projected[i] for i in group])
                hidden |= dict(zip(group, rows, strict=True))
        return [hidden[i].float() for i in range(len(clips))]

    def n_frames(self, n_samples: int) -> int:
        """Frames of whole windows, at least one: shorter clips are padded with zeros."""
        if self._convolutions is None:
            return n_outputs(n_samples, log_mel_pairs.HOP_LENGTH, log_mel_pairs.WINDOW)
        return self._convolutions.n_frames(n_samples)

    def for_recording(self, blocks: Iterable[NDArray[np.float32]]) -> TransformersSpeechEncoder:
        """The encoder for the chunks of one recording, see `Convolutions.for_recording`.

        w2v-BERT has no convolutions: its spectra are normalised in each chunk.
        """
        if self._convolutions is None:
            return self
        bound = self._convolutions.for_recording(blocks)
        return TransformersSpeechEncoder(
            self.model, self._config, self.chunking, self.precision, bound
        )

    def with_precision(self, precision: str) -> TransformersSpeechEncoder:
        """The encoder that computes in `float32` or `bfloat16`; the weights are shared."""
        return TransformersSpeechEncoder(self.model, self._config, self.chunking, precision)

    def config(self) -> dict[str, Any]:
        """transformers' configuration, the layer, and how clips are prepared."""
        return asdict(self._config)

    def tensors(self) -> dict[str, Tensor]:
        """Weights under transformers' names, without a prefix, weight norm multiplied out."""
        return dict(self.model.state_dict())

    def _front_end(self, clip: Tensor) -> Tensor:
        """What the projection takes: (samples,) to (frames, channels)."""
        if self._convolutions is not None:
            return self._convolutions(clip)
        clip = nn.functional.pad(clip, (0, max(0, log_mel_pairs.WINDOW - len(clip))))
        n_mels = self.model.config.feature_projection_input_dim // 2
        frames = log_mel_pairs.log_mel_pairs(clip, n_mels)
        return frames.to(self.model.feature_projection.projection.weight.dtype)

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Clips that share a batch, by their frames."""
        is_padded = self._config.model["model_type"] in _PADDED
        # A batch normalisation turns the zeros of the padding into something else.
        is_padded &= not getattr(self.model.config, "conv_pos_batch_norm", False)
        return like_lengths(lengths, MAX_PADDING if is_padded else 0.0)

    def _transformed(self, clips: list[Tensor]) -> list[Tensor]:
        """Layers over clips (frames, dim) of like length."""
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        rows = pad_sequence(clips, batch_first=True)
        mask = None
        if lengths.min() < rows.shape[1]:
            mask = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
        hidden = self.model.encoder(rows, attention_mask=mask).last_hidden_state
        return [row[: len(clip)] for row, clip in zip(hidden, clips, strict=True)]


class _Wanted:
    """Which tensors of a file are read, and under which name."""

    def __init__(self, config: TransformersSpeechConfig, model: Any) -> None:
        self._layer = config.layer
        self._n_layers = config.n_layers
        self._prefix = f"{model.base_model_prefix}."
        self._has_norm = not isinstance(getattr(model.encoder, "layer_norm", None), nn.Identity)

    def name(self, full_name: str) -> str | None:
        """The model's name for a tensor of a file, or None where it is not read.

        Heads for training or transcripts lie outside the three parts and are passed over. What
        lies inside and does not belong to the model, such as a layer too many, is read, and then
        refused.
        """
        name = full_name.removeprefix(self._prefix)
        part, _, rest = name.partition(".")
        if part not in ("feature_extractor", "feature_projection", "encoder"):
            return None
        kind, _, index = rest.partition(".")
        if part == "encoder" and kind == "layers" and index.split(".")[0].isdigit():
            number = int(index.split(".")[0])
            return None if self._layer <= number < self._n_layers else name
        if part == "encoder" and kind == "layer_norm" and not self._has_norm:
            return None
        return name


def _weight_normed(model: Any) -> Any:
    """The position convolution whose weight is stored as a length and a direction, if any."""
    conv = getattr(getattr(model.encoder, "pos_conv_embed", None), "conv", None)
    has_norm = not getattr(model.config, "conv_pos_batch_norm", False)
    return conv if has_norm else None
