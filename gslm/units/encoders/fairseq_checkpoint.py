"""Reading HuBERT and wav2vec 2.0: fairseq's checkpoints and torchaudio's state dicts.

A fairseq `.pt` holds more than weights: settings, the optimizer's history, dictionaries. What is
no tensor, number, text, list or dictionary becomes an inert stand-in here, by a list of names; a
file that asks for anything else is refused, and nothing of it is run.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gslm.audio import SAMPLE_RATE
from gslm.errors import UserError
from gslm.units.encoders.base import Chunking
from gslm.units.encoders.wav2vec2 import Wav2Vec2Config, Wav2Vec2Encoder, wav2vec2_model
from gslm.units.encoders.weight_files import join_weight_norm, load_pickled, read_safetensors

_EXPECTED = "expected fairseq's HuBERT or wav2vec 2.0, or torchaudio's state dict of one"
_HEAD_DIM = 64  # of every HuBERT and wav2vec 2.0 that was published
_STRIDES = {(10, 3, 3, 3, 3, 2, 2): (5, 2, 2, 2, 2, 2, 2)}  # by widths, of every one as well

_STAND_INS = (
    "fairseq.data.dictionary.Dictionary",
    "fairseq.dataclass.configs.FairseqConfig",
    "fairseq.dataclass.constants.StrEnum",
    "fairseq.logging.meters.AverageMeter",
    "fairseq.logging.meters.StopwatchMeter",
    "fairseq.logging.meters.TimeMeter",
    "fairseq.meters.AverageMeter",
    "fairseq.meters.StopwatchMeter",
    "fairseq.meters.TimeMeter",
    "fairseq.models.hubert.hubert.HubertConfig",
    "fairseq.models.hubert.hubert_asr.HubertCtcConfig",
    "fairseq.models.wav2vec.wav2vec2.Wav2Vec2Config",
    "fairseq.models.wav2vec.wav2vec2_asr.Wav2Vec2CtcConfig",
    "fairseq.tasks.audio_pretraining.AudioPretrainingConfig",
    "fairseq.tasks.hubert_pretraining.HubertPretrainingConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.EnumNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "collections.defaultdict",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "typing.Any",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
)
"""What fairseq is known to pickle beside the weights."""

_FAIRSEQ_NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.0\.2\.(?=\w+$)", "feature_extractor.layers.0.group_norm."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.layers.\1.layer_norm."),
    (r"layer_norm\.", "post_extract_layer_norm."),
    (r"post_extract_proj\.", "model_dim_proj."),
    (r"encoder\.pos_conv\.0\.", "pos_encoder.conv."),
    (r"encoder\.layer_norm\.", "layer_norm."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"layers.\1.self_attn.output_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"layers.\1.self_attn.\2_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"layers.\1.self_attn_layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"layers.\1.ffn.inner_proj."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"layers.\1.ffn.output_proj."),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"layers.\1.ffn_layer_norm."),
)
_TORCHAUDIO_NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.layers.\1.conv."),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.",
        r"feature_extractor.layers.\1.layer_norm.",
    ),
    (r"encoder\.feature_projection\.layer_norm\.", "post_extract_layer_norm."),
    (r"encoder\.feature_projection\.projection\.", "model_dim_proj."),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.", "pos_encoder.conv."),
    (r"encoder\.transformer\.layer_norm\.", "layer_norm."),
    (
        r"encoder\.transformer\.layers\.(\d+)\.attention\.out_proj\.",
        r"layers.\1.self_attn.output_proj.",
    ),
    (
        r"encoder\.transformer\.layers\.(\d+)\.attention\.([qkv])_proj\.",
        r"layers.\1.self_attn.\2_proj.",
    ),
    (r"encoder\.transformer\.layers\.(\d+)\.layer_norm\.", r"layers.\1.self_attn_layer_norm."),
    (
        r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.intermediate_dense\.",
        r"layers.\1.ffn.inner_proj.",
    ),
    (
        r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.output_dense\.",
        r"layers.\1.ffn.output_proj.",
    ),
    (r"encoder\.transformer\.layers\.(\d+)\.final_layer_norm\.", r"layers.\1.ffn_layer_norm."),
)
_PREFIX = re.compile(r"^(w2v_encoder\.w2v_model|wav2vec2)\.")  # fine-tuned; in pre-training
_NOT_THE_ENCODER = re.compile(
    r"^(mask_emb|label_embs_concat|final_proj\.|quantizer\.|project_q\.|target_glu\."
    r"|w2v_encoder\.proj\.|aux\.|mask_generator\.|logit_generator\.)"
)
"""Weights for pre-training or for transcripts."""


class _StandIn:
    """Takes the place of a pickled object: keeps what it is given, and does nothing."""

    content: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.content = arguments[0] if arguments else None

    def __setstate__(self, state: Any) -> None:
        self.content = state

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(self.content, dict):
            self.content = {}
        self.content[key] = value


def load_wav2vec2(
    source: str | Path,
    layer: int,
    chunking: Chunking | None = None,
) -> Wav2Vec2Encoder:
    """Read the first `layer` layers of a HuBERT or wav2vec 2.0 from one file.

    source: fairseq's `.pt` (pre-trained, or fine-tuned with CTC), or a state dict of torchaudio's
    Wav2Vec2Model (`.pt`, `.pth` or `.safetensors`). Weights become float32.

    Sizes come from the weights; strides, heads and normalisations from fairseq's settings, or,
    without any, they are those of the published models. Raises `UserError` for a file that holds
    no such model, weights that are missing or too many, a model made for another sample rate, and
    anything pickled that is not known; `NoSuchLayerError` where the model has fewer layers.
    """
    path = Path(source)
    n_read = max(layer, 1)  # a layer that there is not is refused by its number, once all is read
    checkpoint = (
        {"model": read_safetensors(path, lambda name: _layer_number(name) < n_read)}
        if path.suffix == ".safetensors"
        else load_fairseq(path)
    )
    try:
        state, settings = _split(checkpoint, path)
        below = {name: part for name, part in state.items() if _layer_number(name) < n_read}
        tensors = _renamed(below, path)
        config = _config(tensors, list(state), settings, layer, path)
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing; {_EXPECTED}") from None
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: a weight or a setting of another shape or kind ({reason}); {_EXPECTED}"
        ) from None
    if config.pre_norm:  # of the last layer, where fairseq leaves it out: see wav2vec2.py
        for part in ("weight", "bias"):
            tensors.pop(f"encoder_frontend.layer_norm.{part}", None)
    return Wav2Vec2Encoder(wav2vec2_model(config, tensors, path), config, chunking)


def load_fairseq(path: str | Path) -> Any:
    """Read a fairseq checkpoint, or any file of tensors, with stand-ins for its objects."""
    with torch.serialization.safe_globals([(_StandIn, name) for name in _STAND_INS]):
        return load_pickled(Path(path))


def _split(checkpoint: Any, path: Path) -> tuple[Mapping[str, Any], dict[str, dict[str, Any]]]:
    """Tensors by name, and the settings beside them."""
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds no tensors by name; {_EXPECTED}")
    state = {str(name): tensor for name, tensor in state.items()}
    settings = _sections(checkpoint.get("cfg") or checkpoint.get("args"))
    if (pretraining := settings["model"].get("w2v_args")) is not None:
        # Of a fine-tuned model: the encoder's own settings lie in those of its pre-training.
        settings["model"] = settings["model"] | _sections(pretraining)["model"]
    return state, settings


def _sections(settings: Any) -> dict[str, dict[str, Any]]:
    """fairseq's settings, `model` and `task`; in old checkpoints one Namespace holds both."""
    plain = _plain(settings)
    if not isinstance(plain, dict):
        plain = {}
    parts = {name: _plain(plain.get(name)) for name in ("model", "task")}
    return {name: part if isinstance(part, dict) else plain for name, part in parts.items()}


def _plain(settings: Any) -> Any:
    """Settings as a dictionary, whether plain, a Namespace or pickled by omegaconf."""
    settings = _without_node(settings)
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if isinstance(settings, Mapping):
        return {str(name): _without_node(value) for name, value in settings.items()}
    return settings


def _without_node(value: Any) -> Any:
    """A value or a dictionary out of the node that omegaconf keeps it in, if any."""
    if isinstance(value, _StandIn):
        content = value.content if isinstance(value.content, dict) else {}
        return _without_node(content.get("_content", content.get("_val")))
    return value


def _renamed(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Tensors under fairseq2's names; of what is no part of the encoder, nothing."""
    plain = {
        _PREFIX.sub("", name): tensor
        for name, tensor in state.items()
        if not _NOT_THE_ENCODER.match(_PREFIX.sub("", name))
    }
    is_torchaudio = any(name.startswith("encoder.transformer.") for name in plain)
    if not is_torchaudio and "encoder.pos_conv.0.bias" not in plain:
        if any(name.startswith("feature_projection.") for name in plain):
            raise UserError(f"{path}: transformers' weights; give the folder with config.json")
        raise UserError(f"{path}: another model or architecture; {_EXPECTED}")
    table = _TORCHAUDIO_NAMES if is_torchaudio else _FAIRSEQ_NAMES
    tensors: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        for theirs, ours in table:
            renamed, n_found = re.subn(f"^{theirs}", ours, name)
            if n_found:
                break
        else:
            raise UserError(f"{path}: {name} is no weight of a HuBERT or wav2vec 2.0; {_EXPECTED}")
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {name} is no tensor; copy the file again")
        part = "encoder" if renamed.startswith("layers.") else "encoder_frontend"
        tensors[f"{part}.{renamed}"] = tensor
    if (
        is_torchaudio
        and "encoder_frontend.feature_extractor.layers.1.layer_norm.bias" not in tensors
    ):
        _rename(tensors, "encoder_frontend.feature_extractor.layers.0.", "layer_norm", "group_norm")
    join_weight_norm(tensors, "encoder_frontend.pos_encoder.conv")
    return tensors


def _rename(tensors: dict[str, Tensor], prefix: str, before: str, after: str) -> None:
    for part in ("weight", "bias"):
        if (tensor := tensors.pop(f"{prefix}{before}.{part}", None)) is not None:
            tensors[f"{prefix}{after}.{part}"] = tensor


def _layer_number(name: str) -> int:
    """Number of the layer that a tensor belongs to, from 0; -1 for one below the layers."""
    found = re.search(r"(?:^|\.)(?:encoder|transformer)\.layers\.(\d{1,3})\.", name)
    return int(found[1]) if found else -1


def _n_layers(names: Sequence[str], path: Path) -> int:
    """Layers of the whole model, by the names of its tensors; none may be left out."""
    numbers = {_layer_number(name) for name in names} - {-1}
    if numbers != set(range(len(numbers))):
        missing = min(set(range(len(numbers))) - numbers)
        raise UserError(f"{path}: holds layers above one that is missing, {missing}; copy it again")
    return len(numbers)


def _config(
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    layer: int,
    path: Path,
) -> Wav2Vec2Config:
    """Sizes of the encoder; names: of all tensors of the file, as they are there."""
    model, task = settings["model"], settings["task"]
    front = "encoder_frontend"
    dim, group_dim, width = tensors[f"{front}.pos_encoder.conv.weight"].shape
    has_layer_norm = f"{front}.feature_extractor.layers.1.layer_norm.bias" in tensors
    n_heads = model.get("encoder_attention_heads")
    _check_settings(model, task, path)
    is_fine_tuned = any(name.startswith(("w2v_encoder.", "aux.")) for name in names)
    called = f"{model.get('_name')} {model.get('arch')} {task.get('_name')}"
    is_hubert = "hubert" in called or any("label_embs_concat" in name for name in names)
    return Wav2Vec2Config(
        kind="hubert" if is_hubert else "wav2vec2",
        model_dim=dim,
        n_heads=dim // _HEAD_DIM if n_heads is None else int(n_heads),
        ffn_dim=len(tensors["encoder.layers.0.ffn.inner_proj.bias"]),
        convolutions=_convolutions(tensors, model, path),
        conv_bias=f"{front}.feature_extractor.layers.0.conv.bias" in tensors,
        conv_layer_norm=has_layer_norm,
        position_width=width,
        position_groups=dim // group_dim,
        # The published models that normalise each convolution are those with both of these.
        pre_norm=bool(model.get("layer_norm_first", has_layer_norm)),
        normalize=bool(task.get("normalize", has_layer_norm)),
        n_layers=_n_layers(names, path),
        layer=layer,
        learned_from="speech, then transcripts" if is_fine_tuned else "speech alone",
    )


def _check_settings(model: Mapping[str, Any], task: Mapping[str, Any], path: Path) -> None:
    """Raise for what the weights do not show and this encoder does not do."""
    rate = task.get("sample_rate") or SAMPLE_RATE
    if rate != SAMPLE_RATE:
        raise UserError(
            f"{path}: the encoder was made for {rate} Hz; gslm gives {SAMPLE_RATE:,} Hz, choose "
            "an encoder made for it"
        )
    for name, known in (("activation_fn", "gelu"), ("layer_type", "transformer")):
        if (found := model.get(name) or known) != known:
            raise UserError(f"{path}: made with {name} {found!r}; only {known!r} is known here")


def _convolutions(
    tensors: Mapping[str, Tensor], model: Mapping[str, Any], path: Path
) -> tuple[tuple[int, int, int], ...]:
    """(channels, width, stride) of each; strides are settings, or those of published models."""
    shapes: list[tuple[int, int]] = []
    while (name := _CONV.format(len(shapes))) in tensors:
        channels, _, width = tensors[name].shape
        shapes.append((channels, width))
    widths = tuple(width for _, width in shapes)
    if text := model.get("conv_feature_layers"):
        layers = _parsed_layers(str(text), path)
        if [layer[:2] for layer in layers] != shapes:
            raise UserError(f"{path}: convolutions of {shapes}, but its settings say {text}")
        return layers
    if widths not in _STRIDES:
        raise UserError(
            f"{path}: convolutions of widths {widths}, whose strides are not told; give the "
            "checkpoint with its settings"
        )
    return tuple((*shape, n) for shape, n in zip(shapes, _STRIDES[widths], strict=True))


_CONV = "encoder_frontend.feature_extractor.layers.{}.conv.weight"
_MAX_CONVOLUTIONS = 100  # far above any model, far below what fills the memory


def _parsed_layers(text: str, path: Path) -> tuple[tuple[int, int, int], ...]:
    """fairseq's `[(512,10,5)] + [(512,3,2)] * 4`: lists, sums and repetitions, and nothing else."""

    def value(node: ast.expr) -> list[tuple[int, ...]]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return few(value(node.left) + value(node.right))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            layers, n_times = value(node.left), ast.literal_eval(node.right)
            if not isinstance(n_times, int) or n_times > _MAX_CONVOLUTIONS:
                raise ValueError("a number of repetitions that is none")
            return few(layers * n_times)
        return few([tuple(map(int, layer)) for layer in ast.literal_eval(node)])

    def few(layers: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        if len(layers) > _MAX_CONVOLUTIONS:
            raise ValueError(f"more than {_MAX_CONVOLUTIONS} of them")
        return layers

    try:
        layers = value(ast.parse(text, mode="eval").body)
        return tuple((channels, width, stride) for channels, width, stride in layers)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{path}: convolutions {text[:80]!r} are not understood ({error})"
        ) from None
