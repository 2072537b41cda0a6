"""Whisper's speech encoder, cut off above one layer (Radford et al., 2022).

Plain torch with the parameter names of transformers. Clips are packed one below the other, so
that nothing is padded: linear layers see all frames at once, attention stays inside each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gslm.bundle import tensors_hash
from gslm.errors import UserError
from gslm.units.encoders.base import HOP_LENGTH, Chunking, begun_frames, require_sizes
from gslm.units.encoders.spectral import mel_filterbank, power_spectra

_N_FFT = 400
_MEL_HOP = 160


class NoSuchLayerError(UserError):
    """The model has fewer layers than the one that was asked for."""


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes of a Whisper encoder."""

    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Attention heads."""
    ffn_dim: int
    """Width of the feed-forward layers."""
    n_mels: int
    """Mel bands of the input."""
    max_frames: int
    """Frames that have a position; no chunk can be longer."""
    n_layers: int
    """Layers of the whole encoder, before it was cut."""
    layer: int
    """Layer whose output is used, counted from 1; those above are not held."""

    def __post_init__(self) -> None:
        require_sizes("whisper", self, "d_model", "n_heads", "ffn_dim", "n_mels", "max_frames")
        if self.d_model % self.n_heads:
            raise UserError(
                f"whisper: d_model {self.d_model} is no multiple of n_heads {self.n_heads}"
            )
        if not 1 <= self.layer <= self.n_layers:
            raise NoSuchLayerError(
                f"whisper: there is no layer {self.layer}; choose one from 1 to {self.n_layers}"
            )


class _Attention(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, runs: list[tuple[int, int]]) -> Tensor:
        """x: packed (frames, d_model); runs: (clips, frames of each) of clips of equal length."""
        parts = [proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        mixed = torch.empty_like(x)
        start = 0
        for n_clips, length in runs:
            rows = slice(start, start + n_clips * length)
            start = rows.stop
            q, k, v = (
                part[rows].view(n_clips, length, self.n_heads, -1).transpose(1, 2) for part in parts
            )
            heads = F.scaled_dot_product_attention(q, k, v)
            mixed[rows] = heads.transpose(1, 2).reshape(n_clips * length, -1)
        return self.out_proj(mixed)


class _Layer(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, runs: list[tuple[int, int]]) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), runs)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class WhisperModel(nn.Module):
    """The encoder's first `config.layer` layers; log-mel spectra in, hidden states out."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_frames, config.d_model)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layer))
        # transformers normalises only the last layer's output.
        is_last = config.layer == config.n_layers
        self.layer_norm = nn.LayerNorm(config.d_model) if is_last else nn.Identity()

    def forward(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Encode spectra of clips.

        mels: (mel frames, n_mels) each, 100 a second, an even number of at most
        2 * max_frames. Returns (mel frames / 2, d_model) each. Clips of equal length should
        be neighbours: their attention is computed together.
        """
        lengths = [len(mel) // 2 for mel in mels]
        x = self._convolved(mels)
        positions = torch.cat([torch.arange(length, device=x.device) for length in lengths])
        x = x + self.embed_positions(positions)
        runs = _runs(lengths)
        for layer in self.layers:
            x = layer(x, runs)
        return list(self.layer_norm(x).split(lengths))

    def _convolved(self, mels: Sequence[Tensor]) -> Tensor:
        """Both convolutions on packed clips; (mel frames, n_mels) each to (frames, d_model).

        Each clip stands between two rows of zeros, which are its convolutions' padding; the
        windows that straddle two clips are computed and dropped.
        """
        packed = torch.cat([F.pad(mel, (0, 0, 1, 1)) for mel in mels])
        ends = torch.tensor([len(mel) + 2 for mel in mels], device=packed.device).cumsum(0)
        hidden = packed.new_zeros(len(packed), self.config.d_model)
        hidden[1:-1] = F.gelu(_convolve(packed, self.conv1))
        hidden[ends - 1] = 0
        hidden[ends[:-1]] = 0
        straddles = torch.zeros(len(packed) // 2, dtype=torch.bool, device=packed.device)
        straddles[ends // 2 - 1] = True
        return F.gelu(_convolve(hidden, self.conv2))[~straddles[:-1]]


def _convolve(rows: Tensor, conv: nn.Conv1d) -> Tensor:
    """A convolution of width 3 without padding over rows (n, channels), as one product."""
    windows = rows.unfold(0, 3, conv.stride[0]).reshape(-1, 3 * rows.shape[1])
    return F.linear(windows, conv.weight.flatten(1), conv.bias)


def _runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for length in lengths:
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        else:
            runs.append((1, length))
    return runs


class WhisperEncoder:
    """Whisper's encoder up to one layer, with its log-mel front end; any clip up to a chunk.

    The dynamic range of the spectrum is cut at 80 dB below the maximum of each chunk, as Whisper
    does for its 30 seconds: in a long recording the cut follows the loudness of the chunk.
    """

    name = "whisper"
    hop_length = HOP_LENGTH
    learned_from = "speech with its transcripts (Whisper was trained with text)"

    def __init__(self, model: WhisperModel, chunking: Chunking | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.layer = model.config.layer
        self.dim = model.config.d_model
        self.chunking = chunking or Chunking()
        if self.chunking.chunk_frames > model.config.max_frames:
            raise UserError(
                f"whisper: chunks of {self.chunking.chunk_frames} frames are longer than the "
                f"encoder's {model.config.max_frames} positions; choose shorter chunks"
            )
        self._filters = mel_filterbank(model.config.n_mels, _N_FFT)

    @cached_property
    def weights_hash(self) -> str:
        """Hash over the weights that are held, rounded to half precision."""
        return tensors_hash(self.tensors())

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips (samples,) to hidden states (frames, d_model), differentiable in the clips."""
        return self.model(self.log_mel(clips))

    def n_frames(self, n_samples: int) -> int:
        """Frames of 320 samples, the last of which may be partly empty."""
        return begun_frames(n_samples)

    def log_mel(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Whisper's input spectra of clips (samples,): (2 * frames, n_mels) each."""
        device = self.model.conv1.weight.device
        clips = [clip.to(device) for clip in clips]
        power, counts = power_spectra(clips, _N_FFT, _MEL_HOP, _N_FFT // 2)
        mel = torch.log10((power @ self._filters.to(device)).clamp(min=1e-10))
        return [(torch.maximum(part, part.max() - 8) + 4) / 4 for part in mel.split(counts)]

    def config(self) -> dict[str, Any]:
        """Sizes of the model."""
        return asdict(self.model.config)

    def tensors(self) -> dict[str, Tensor]:
        """Weights under transformers' names, without a prefix."""
        return dict(self.model.state_dict())
