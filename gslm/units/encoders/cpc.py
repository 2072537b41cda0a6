"""Contrastive predictive coding: convolutions and a recurrent net, 100 frames a second.

The network of Rivière et al. (2020), as Libri-Light and GSLM use it: five convolutions, each
followed by a normalisation over the channels and by ReLU, then an LSTM (or GRU) of several
levels, of which `layer` says whose states are the features. It looks backwards only.

The original lets the states of the recurrent net run through the whole clip (GSLM's reader cuts
it into pieces of 4 seconds without context). Here clips up to a chunk go the first way; of a
longer recording each chunk begins with empty states and half an overlap of context, 2.5 seconds
unless another is chosen, by the end of which the states have mostly forgotten their beginning.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gslm.bundle import read_json_object, tensors_hash
from gslm.errors import UserError
from gslm.units.encoders.base import Chunking, require_sizes
from gslm.units.encoders.batching import MAX_PADDING, like_lengths, ten_second_chunks
from gslm.units.encoders.weight_files import fill_model, load_pickled
from gslm.units.encoders.whisper import NoSuchLayerError

_CONVOLUTIONS = ((10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1))
"""Width, stride and zeros at either end of each convolution."""
_EPSILON = 1e-5
_GSLM_LAYER = 2
_GATES = {"LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class CPCConfig:
    """Sizes of a CPC encoder."""

    n_channels: int
    """Channels of the convolutions."""
    dim: int
    """States of each level of the recurrent net."""
    recurrence: str
    """LSTM or GRU."""
    n_layers: int
    """Levels of the whole recurrent net, before it was cut."""
    layer: int
    """Level whose states are used, counted from 1; those above are not held."""

    def __post_init__(self) -> None:
        require_sizes("cpc", self, "n_channels", "dim")
        if self.recurrence not in _GATES:
            raise UserError(f"cpc: recurrence {self.recurrence!r} is not known; LSTM and GRU are")
        if not 1 <= self.layer <= self.n_layers:
            raise NoSuchLayerError(
                f"cpc: there is no layer {self.layer}; choose one from 1 to {self.n_layers}"
            )


class _ChannelNorm(nn.Module):
    """Each step over its channels, by their unbiased variance (which LayerNorm does not take)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (channels, steps)."""
        variance, mean = torch.var_mean(x, 0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + _EPSILON)
        return x * self.weight[:, None] + self.bias[:, None]


class CPCModel(nn.Module):
    """Convolutions and the recurrent net's first `config.layer` levels."""

    def __init__(self, config: CPCConfig) -> None:
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.n_channels if i else 1, config.n_channels, width, stride, padding)
            for i, (width, stride, padding) in enumerate(_CONVOLUTIONS)
        )
        self.norms = nn.ModuleList(_ChannelNorm(config.n_channels) for _ in _CONVOLUTIONS)
        net = nn.LSTM if config.recurrence == "LSTM" else nn.GRU
        self.recurrence = net(config.n_channels, config.dim, config.layer, batch_first=True)

    def forward(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,), each at least a hop long, to states (frames, dim).

        The convolutions, which put zeros around each clip, run clip by clip; the recurrent net
        looks back only, so that what fills a row up behind a clip cannot reach it.
        """
        encoded = [self._convolved(clip) for clip in clips]
        states: dict[int, Tensor] = {}
        for group in like_lengths([len(frames) for frames in encoded], MAX_PADDING):
            rows, _ = self.recurrence(pad_sequence([encoded[i] for i in group], batch_first=True))
            states |= {i: row[: len(encoded[i])] for i, row in zip(group, rows, strict=True)}
        return [states[i] for i in range(len(clips))]

    def _convolved(self, clip: Tensor) -> Tensor:
        x = clip[None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return x.T


class CPCEncoder:
    """CPC's recurrent states of one level; any clip up to a chunk."""

    name = "cpc"
    hop_length = 160
    learned_from = "speech alone"

    def __init__(self, model: CPCModel, chunking: Chunking | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        # cuDNN gives gradients in this mode only; there is no dropout that it would wake.
        self.model.recurrence.train()
        self.layer = model.config.layer
        self.dim = model.config.dim
        self.chunking = chunking or ten_second_chunks(self.hop_length)

    @cached_property
    def weights_hash(self) -> str:
        """Hash over the weights that are held, rounded to half precision."""
        return tensors_hash(self.tensors())

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,) to states (frames, dim), differentiable in the clips."""
        device = next(self.model.parameters()).device
        hop = self.hop_length
        return self.model([F.pad(c, (0, max(0, hop - len(c)))).to(device) for c in clips])

    def n_frames(self, n_samples: int) -> int:
        """Frames that the convolutions give; at least one, shorter clips are padded to a hop."""
        n = max(n_samples, self.hop_length)
        for width, stride, padding in _CONVOLUTIONS:
            n = (n + 2 * padding - width) // stride + 1
        return n

    def config(self) -> dict[str, Any]:
        """Sizes of the model."""
        return asdict(self.model.config)

    def tensors(self) -> dict[str, Tensor]:
        """Weights by name."""
        return dict(self.model.state_dict())


def is_cpc_checkpoint(checkpoint: Any) -> bool:
    """Whether what `load_pickled` gave has the parts of a CPC checkpoint."""
    return isinstance(checkpoint, dict) and (
        {"weights", "config"} <= set(checkpoint) or "gEncoder" in checkpoint
    )


def load_cpc(
    path: str | Path, layer: int | None = None, chunking: Chunking | None = None
) -> CPCEncoder:
    """Read the first `layer` levels of a CPC checkpoint; weights become float32.

    path: a file with `weights` and `config`, as Libri-Light and GSLM give them, or with
    `gEncoder`, as CPC_audio's training leaves it beside checkpoint_args.json. layer: the second
    where None, as in GSLM, or the only one. Raises `UserError` for another kind of file, keys
    that are missing or too many, and networks of CPC_audio that this one is not.
    """
    path = Path(path)
    checkpoint = load_pickled(path)
    if not is_cpc_checkpoint(checkpoint):
        raise UserError(f"{path}: no CPC checkpoint; expected `weights` and `config` in it")
    if "weights" in checkpoint:
        state, settings = checkpoint["weights"], checkpoint["config"]
    else:
        state, settings = checkpoint["gEncoder"], {}
        if (arguments := path.with_name("checkpoint_args.json")).is_file():
            settings = read_json_object(arguments)
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if not (isinstance(state, Mapping) and isinstance(settings, Mapping)):
        raise UserError(f"{path}: expected tensors and settings by name; copy it again")
    config = _sizes(state, layer, path)
    _check_settings(settings, config, path)
    return CPCEncoder(cpc_model(config, _renamed(state, config), path), chunking)


def cpc_model(config: CPCConfig, tensors: dict[str, Tensor], where: str | Path) -> CPCModel:
    """Build the model around tensors that were read at `where`; they must fit exactly."""
    with torch.device("meta"):
        model = CPCModel(config)
    fill_model(model, tensors, where)
    return model


def _sizes(state: Mapping[str, Any], layer: int | None, path: Path) -> CPCConfig:
    """Sizes by the shapes of the weights, which cannot be wrong as settings can."""
    levels = [re.fullmatch(r"gAR\.baseNet\.weight_hh_l(\d+)", str(name)) for name in state]
    try:
        n_channels = len(state["gEncoder.conv0.bias"])
        n_states, dim = state["gAR.baseNet.weight_hh_l0"].shape
        n_gates = n_states // dim
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise UserError(
            f"{path}: holds no CPC encoder with a recurrent net (gEncoder.conv0, gAR.baseNet)"
        ) from None
    known = {gates: name for name, gates in _GATES.items()}
    n_layers = 1 + max(int(level[1]) for level in levels if level)
    return CPCConfig(
        n_channels=n_channels,
        dim=dim,
        recurrence=known.get(n_gates, f"of {n_gates} gates"),
        n_layers=n_layers,
        layer=min(_GSLM_LAYER, n_layers) if layer is None else layer,
    )


def _check_settings(settings: Mapping[str, Any], config: CPCConfig, path: Path) -> None:
    """Refuse what the file says of itself and this network does not do."""
    expected: dict[str, tuple[Any, ...]] = {
        "hiddenEncoder": (config.n_channels,),
        "hiddenGar": (config.dim,),
        "arMode": (config.recurrence,),
        "normMode": ("layerNorm",),
        "encoder_type": ("cpc",),
        "cpc_mode": (None, "none"),
    }
    for name, allowed in expected.items():
        if name in settings and settings[name] not in allowed:
            raise UserError(
                f"{path}: its setting {name} is {settings[name]!r}, where its weights and this "
                f"reader take {allowed[0]!r}"
            )


def _renamed(state: Mapping[str, Any], config: CPCConfig) -> dict[str, Tensor]:
    """Our names for the original's; levels above the cut and heads for training are left out."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part not in ("gEncoder", "gAR") or not torch.is_tensor(value):
            continue
        if level := re.fullmatch(r"baseNet\.(weight|bias)_[ih]h_l(\d+)", rest):
            if int(level[2]) < config.layer:
                renamed[f"recurrence.{rest.removeprefix('baseNet.')}"] = value
        elif convolution := re.fullmatch(r"conv(\d)\.(weight|bias)", rest):
            renamed[f"convolutions.{convolution[1]}.{convolution[2]}"] = value
        elif norm := re.fullmatch(r"batchNorm(\d)\.(weight|bias)", rest):
            renamed[f"norms.{norm[1]}.{norm[2]}"] = value.flatten()
        else:
            renamed[name] = value  # refused by name when the model takes the weights
    return {name: value.clone() for name, value in renamed.items()}
