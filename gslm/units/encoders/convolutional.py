"""The convolutions with which HuBERT, wav2vec 2.0 and their kin look at a waveform.

For every such encoder, whichever library holds its weights:

    layers = [ConvolutionalLayer(conv.weight, conv.bias, conv.stride[0], ...), ...]
    frames = convolve(waveform, layers)              # (samples,) -> (frames, channels)

`Convolutions` does so with a library's modules, as an encoder wants it.

Three things make it fast on a processor. Rows are frames (channels last), so that nothing is
transposed and oneDNN reads windows where they lie. The waveform is cut into blocks short enough
for the cache, and each goes through all layers. And the normalisation over the clip that follows
the first layer, one mean and variance a channel, is found from the waveform beforehand: what
the first layer gives is linear in windows of ten samples, whose mean and covariance say all.

The same two numbers, gathered over a long recording (`moments_of`), let each of its chunks give
what it would give inside the whole.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gslm.units.encoders.precision import PRECISIONS

_BLOCK_FRAMES = 100  # two seconds: what lies between two layers stays in the cache
_BLOCK_FRAMES_ELSEWHERE = 3000  # a GPU wants few and large products


@dataclass(frozen=True)
class ConvolutionalLayer:
    """A convolution without padding, a normalisation or none, and GELU."""

    weight: Tensor
    """(channels out, channels in, width); the first layer has one channel in."""
    bias: Tensor | None
    """(channels out,)"""
    stride: int
    """Steps of the input from one output to the next."""
    norm: Literal["none", "clip", "channels"] = "none"
    """`clip`: each channel by its mean and variance over the clip (GroupNorm with as many groups
    as channels), in the first layer alone; `channels`: each output over its channels (LayerNorm).
    """
    norm_weight: Tensor | None = None
    """(channels out,)"""
    norm_bias: Tensor | None = None
    """(channels out,)"""
    eps: float = 1e-5
    """What is added to the variance."""

    @property
    def width(self) -> int:
        """Steps of the input that an output sees."""
        return self.weight.shape[2]


def layer_of(module: Any) -> ConvolutionalLayer:
    """A library's module: `conv`, and `group_norm` or `layer_norm` where it has one of them."""
    conv, norm = module.conv, getattr(module, "group_norm", None)
    if norm is None:
        norm = getattr(module, "layer_norm", None)
    kind: Literal["none", "clip", "channels"] = "none"
    if norm is not None:  # transformers has a GroupNorm that is called layer_norm
        kind = "clip" if isinstance(norm, nn.GroupNorm) else "channels"
    return ConvolutionalLayer(
        weight=conv.weight,
        bias=conv.bias,
        stride=conv.stride[0],
        norm=kind,
        norm_weight=getattr(norm, "weight", None),
        norm_bias=getattr(norm, "bias", None),
        eps=getattr(norm, "eps", 1e-5),
    )


@dataclass(frozen=True)
class Moments:
    """What normalisations over a clip or a whole recording need to know of it; float64."""

    mean: Tensor
    """Of the samples."""
    variance: Tensor
    """Of the samples, without Bessel's correction."""
    window_mean: Tensor
    """(width,), of the first layer's windows."""
    window_covariance: Tensor
    """(width, width)"""
    n_samples: int
    """What they were found in."""

    def normalized(self, waveform: Tensor, eps: float) -> tuple[Tensor, Moments]:
        """The waveform, or a part of it, brought to mean 0 and variance 1; and its moments."""
        scale = (self.variance + eps).rsqrt()
        moments = replace(
            self,
            mean=torch.zeros_like(self.mean),
            variance=self.variance * scale**2,
            window_mean=(self.window_mean - self.mean) * scale,
            window_covariance=self.window_covariance * scale**2,
        )
        return ((waveform - self.mean) * scale).to(waveform.dtype), moments


def hop_and_window(shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Samples between two outputs of a stack of (width, stride), and samples that one sees."""
    hop, window = 1, 1
    for width, stride in shapes:
        window += (width - 1) * hop
        hop *= stride
    return hop, window


def n_outputs(n_samples: int, hop: int, window: int) -> int:
    """Frames of a clip: of whole windows only, at least one (shorter clips are padded)."""
    return max(0, n_samples - window) // hop + 1


def moments_of(blocks: Iterable[Tensor], width: int, stride: int) -> Moments:
    """Moments of a recording, given as blocks of samples (n,) in order; in bounded memory.

    width, stride: of the first layer. Where there is no whole window, those of windows are 0.
    """
    sums: list[Tensor | float] = [0.0, 0.0, 0.0, 0.0]
    n_samples, n_windows = 0, 0
    rest = torch.zeros(0)
    for block in blocks:
        samples = block.double()
        sums[0] = sums[0] + samples.sum()
        sums[1] = sums[1] + samples.square().sum()
        n_samples += len(samples)
        rest = torch.cat([rest.to(samples), samples])
        if len(rest) >= width:
            windows = rest.unfold(0, width, stride)
            sums[2] = sums[2] + windows.sum(0)
            sums[3] = sums[3] + windows.T @ windows
            n_windows += len(windows)
            rest = rest[len(windows) * stride :]
    if n_windows == 0:
        sums[2:] = rest.new_zeros(width), rest.new_zeros(width, width)
    mean, square, window_mean, window_square = (
        torch.as_tensor(total) / n
        for total, n in zip(sums, (n_samples, n_samples, *[max(1, n_windows)] * 2), strict=True)
    )
    return Moments(
        mean=mean,
        variance=(square - mean**2).clamp(min=0),
        window_mean=window_mean,
        window_covariance=window_square - window_mean[:, None] * window_mean,
        n_samples=n_samples,
    )


def convolve(
    waveform: Tensor,
    layers: Sequence[ConvolutionalLayer],
    dtype: torch.dtype = torch.float32,
    moments: Moments | None = None,
) -> Tensor:
    """Frames of one clip.

    waveform: float32 (samples,), padded with zeros where it is shorter than a window. dtype:
    of the layers above the first, float32 or bfloat16. moments: of the recording that the
    waveform is a part of; its own where None. Returns `dtype` (frames, channels), whose number
    is `n_outputs`.
    """
    hop, window = hop_and_window([(layer.width, layer.stride) for layer in layers])
    waveform = F.pad(waveform, (0, max(0, window - len(waveform))))
    first, *rest = layers
    if first.norm == "clip":
        moments = moments or moments_of([waveform], first.width, first.stride)
        first = _clip_norm_folded(first, moments)
        waveform = waveform - moments.mean.to(waveform.dtype)
    rest = prepared(rest, dtype)
    n_frames = n_outputs(len(waveform), hop, window)
    length = _BLOCK_FRAMES if waveform.device.type == "cpu" else _BLOCK_FRAMES_ELSEWHERE
    blocks = []
    for start in range(0, n_frames, length):
        end = min(start + length, n_frames)
        rows = _first_layer(waveform[start * hop : (end - 1) * hop + window], first).to(dtype)
        for layer in rest:
            rows = _layer(rows, layer)
        blocks.append(rows)
    return torch.cat(blocks)


def prepared(layers: Sequence[ConvolutionalLayer], dtype: torch.dtype) -> list[ConvolutionalLayer]:
    """The layers above the first, with weights of `dtype` laid out as the product reads them.

    Worth keeping where many short clips are convolved; prepared again, nothing is copied.
    """
    return [
        replace(
            layer,
            weight=layer.weight.to(dtype).transpose(1, 2).contiguous().transpose(1, 2),
            bias=None if layer.bias is None else layer.bias.to(dtype),
            norm_weight=None if layer.norm_weight is None else layer.norm_weight.to(dtype),
            norm_bias=None if layer.norm_bias is None else layer.norm_bias.to(dtype),
        )
        for layer in layers
    ]


class Convolutions:
    """A library's convolutions over clips (samples,), each by itself.

    Clips shorter than a window are padded with zeros. What the normalisations over time need is
    found in each clip, or, for the chunks of a long recording, once in the whole: `for_recording`.
    """

    def __init__(self, modules: Sequence[Any], precision: str, normalize_eps: float | None) -> None:
        """Take the modules as `layer_of` does, in their order.

        precision: `float32` or `bfloat16`. normalize_eps: what is added to the variance of a clip
        that is brought to mean 0 and variance 1 first; None where clips are taken as they are.
        """
        shapes = [(module.conv.kernel_size[0], module.conv.stride[0]) for module in modules]
        self.hop_length, self._window = hop_and_window(shapes)
        self._modules = modules
        self._dtype = PRECISIONS[precision]
        self._normalize_eps = normalize_eps
        self._recording: Moments | None = None
        self._prepared: list[ConvolutionalLayer] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._modules[0].conv.weight.device

    def __call__(self, clip: Tensor) -> Tensor:
        """(samples,) float32 to (frames, channels)."""
        moments = self._recording
        if self._normalize_eps is not None:
            whole = moments or self._moments([clip])
            clip, normalized = whole.normalized(clip, self._normalize_eps)
            moments = normalized if moments else None
        return convolve(clip, self._layers, self._dtype, moments)

    def n_frames(self, n_samples: int) -> int:
        """Frames of whole windows, at least one."""
        return n_outputs(n_samples, self.hop_length, self._window)

    def for_recording(self, blocks: Iterable[NDArray[np.float32]]) -> Convolutions:
        """The same for the chunks of one recording, given as blocks of samples (n,).

        Chunks get the means and variances over time that they have inside the whole recording.
        Bounded memory; the weights are shared.
        """
        moments = self._moments(torch.from_numpy(block) for block in blocks)
        bound = copy.copy(self)
        # A recording shorter than a window is padded, and has other moments then.
        bound._recording = moments if moments.n_samples >= self._window else None
        return bound

    def _moments(self, blocks: Iterable[Tensor]) -> Moments:
        first = self._layers[0]
        return moments_of((block.to(self.device) for block in blocks), first.width, first.stride)

    @property
    def _layers(self) -> list[ConvolutionalLayer]:
        """Prepared when they are first used, and again where the weights have moved."""
        if self._prepared is None or self._prepared[-1].weight.device != self.device:
            first, *rest = map(layer_of, self._modules)
            self._prepared = [first, *prepared(rest, self._dtype)]
        return self._prepared


def _clip_norm_folded(layer: ConvolutionalLayer, moments: Moments) -> ConvolutionalLayer:
    """The layer with its normalisation over the clip moved into weight and bias.

    It takes samples less their mean, since an offset far above the signal would cost digits.
    """
    assert layer.norm_weight is not None and layer.norm_bias is not None
    weight = layer.weight[:, 0].double()
    variance = ((weight @ moments.window_covariance) * weight).sum(1).clamp(min=0)
    scale = layer.norm_weight * (variance + layer.eps).rsqrt()
    # The convolution's own bias, if it has one, is taken off again with the mean.
    bias = layer.norm_bias - scale * (weight @ (moments.window_mean - moments.mean.float()))
    return replace(
        layer,
        weight=(weight * scale[:, None]).to(layer.weight.dtype)[:, None],
        bias=bias.to(layer.weight.dtype),
        norm="none",
    )


def _first_layer(samples: Tensor, layer: ConvolutionalLayer) -> Tensor:
    windows = samples.unfold(0, layer.width, layer.stride)
    return _activated(F.linear(windows, layer.weight[:, 0], layer.bias), layer)


def _layer(rows: Tensor, layer: ConvolutionalLayer) -> Tensor:
    """(steps, channels in) to (steps out, channels out)."""
    image = rows.T[None, :, None]  # one pixel high, channels last
    image = F.conv2d(image, layer.weight[:, :, None], layer.bias, stride=(1, layer.stride))
    return _activated(image[0, :, 0].T, layer)


def _activated(rows: Tensor, layer: ConvolutionalLayer) -> Tensor:
    if layer.norm == "channels":
        rows = F.layer_norm(rows, rows.shape[1:], layer.norm_weight, layer.norm_bias, layer.eps)
    return F.gelu(rows)
