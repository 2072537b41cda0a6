"""The unit language model's decoder: LLaMA's architecture (Touvron et al. 2023) in plain torch.

Parameters are named and laid out as in transformers' `LlamaForCausalLM`, so that a state
dictionary goes both ways unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gslm.errors import UserError
from gslm.ulm.attention import Documents, attend

PAD, BOS, EOS = 0, 1, 2
N_SPECIAL = 3
"""Tokens before the pieces: pad, bos, eos."""


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the decoder."""

    n_pieces: int
    """Number of distinct units or BPE pieces; the model has three more tokens: pad, bos, eos."""
    dim: int = 256
    """Width of the residual stream."""
    n_layers: int = 6
    """Number of blocks of attention and feed-forward network."""
    n_heads: int = 4
    """Query heads; each is dim / n_heads wide."""
    n_kv_heads: int = 4
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    hidden_dim: int = 704
    """Width of the feed-forward network."""
    context: int = 2048
    """Longest sequence in tokens, bos included."""
    rope_base: float = 10_000.0
    """Base of the rotary positions' wavelengths."""
    norm_epsilon: float = 1e-5
    """Added to the mean square inside RMSNorm."""
    tied_embeddings: bool = True
    """Whether the output layer is the embedding's own matrix."""
    dropout: float = 0.0
    """Share of the embeddings' and of each sublayer's outputs that training drops."""

    def __post_init__(self) -> None:
        if self.n_pieces < 1 or self.context < 2 or self.n_layers < 1:
            raise UserError(
                f"uLM: n_pieces, n_layers must be at least 1 and context at least 2; got {self}"
            )
        if self.dim % (2 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise UserError(
                f"uLM: dim {self.dim} must be an even multiple of n_heads {self.n_heads}, and "
                f"n_heads a multiple of n_kv_heads {self.n_kv_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"uLM: dropout must be in [0, 1); got {self.dropout}")

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary with pad, bos and eos."""
        return self.n_pieces + N_SPECIAL

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.n_heads


PRESETS: dict[str, DecoderConfig] = {
    "mini": DecoderConfig(1, dim=256, n_layers=4, n_heads=4, n_kv_heads=4, hidden_dim=704),
    "tiny": DecoderConfig(1, dim=256, n_layers=6, n_heads=4, n_kv_heads=4, hidden_dim=704),
    "small": DecoderConfig(1, dim=512, n_layers=6, n_heads=8, n_kv_heads=8, hidden_dim=1536),
    "medium": DecoderConfig(1, dim=640, n_layers=10, n_heads=10, n_kv_heads=10, hidden_dim=1792),
    "base": DecoderConfig(1, dim=1024, n_layers=12, n_heads=16, n_kv_heads=16, hidden_dim=2816),
}
"""Decoders of about 3, 5, 21, 51 and 154 million parameters; `n_pieces` is set by `preset`."""


def preset(size: str, n_pieces: int, **changes: Any) -> DecoderConfig:
    """The decoder of a named size for `n_pieces` units or pieces, with fields changed by name."""
    if size not in PRESETS:
        raise UserError(f"uLM size {size!r} is unknown; choose one of {', '.join(PRESETS)}")
    return replace(PRESETS[size], n_pieces=n_pieces, **changes)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last dimension of hidden (…, dim)."""
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


def rotary_table(config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions (Su et al. 2021), each (context, head_dim).

    The sines' first half is negative: rotating by halves is then one roll of the vector.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.context).float(), 1.0 / config.rope_base**half)
    return torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn heads (…, n, head_dim) by their positions' cosines and sines (…, 1, head_dim)."""
    return heads * cosines + heads.roll(heads.shape[-1] // 2, -1) * sines


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped queries (Ainslie et al. 2023)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        kv_dim = config.n_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, hidden: Tensor, cosines: Tensor, sines: Tensor, documents: Documents | None
    ) -> Tensor:
        """hidden: (rows, tokens, dim); cosines, sines: (rows or 1, tokens, 1, head_dim)."""
        queries, keys, values = (
            projection(hidden).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # Under autocast the float32 tables would leave queries wider than values.
        queries = rotate(queries, cosines, sines).to(values.dtype)
        keys = rotate(keys, cosines, sines).to(values.dtype)
        return self.o_proj(attend(queries, keys, values, documents).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU feed-forward network (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.up_proj = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.down_proj = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (…, dim) → (…, dim)."""
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Block(nn.Module):
    """One layer: attention, then the feed-forward network, each on a normalised residual."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_epsilon)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_epsilon)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, hidden: Tensor, cosines: Tensor, sines: Tensor, documents: Documents | None
    ) -> Tensor:
        """hidden: (rows, tokens, dim) → the same shape."""
        attended = self.self_attn(self.input_layernorm(hidden), cosines, sines, documents)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden)))


class Trunk(nn.Module):
    """Embedding, blocks and last normalisation."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.n_tokens, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        cosines, sines = rotary_table(config)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def blocks(self) -> list[Block]:
        """The layers, from the input to the output."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def forward(self, tokens: Tensor, documents: Documents | None) -> Tensor:
        """tokens: (rows, tokens) → hidden (rows, tokens, dim)."""
        if documents is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        else:
            positions = documents.positions
        cosines, sines = self.cosines[positions, None], self.sines[positions, None]
        hidden = self.dropout(self.embed_tokens(tokens))
        for layer in self.layers:
            hidden = layer(hidden, cosines, sines, documents)
        return self.norm(hidden)


class Decoder(nn.Module):
    """The language model: tokens in, logits of the next token out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.dim, config.n_tokens, bias=False)
        if config.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._initialize()

    def _initialize(self) -> None:
        """Normal weights; the outputs into the residual shrink with depth, as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = (2 * self.config.n_layers) ** 0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=0.02 / depth)

    def forward(self, tokens: Tensor, documents: Documents | None = None) -> Tensor:
        """Logits of the next token.

        tokens: (rows, tokens) int64, at most `context` long; documents: the packing of the rows,
        or None where each row is one document. Returns (rows, tokens, n_tokens).
        """
        return self.lm_head(self.model(tokens, documents))

    def n_parameters(self) -> int:
        """Number of weights; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())
