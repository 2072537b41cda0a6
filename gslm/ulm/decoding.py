"""The decoder arranged for sampling: static key-value cache, few and large operations a step.

One-token steps on a CPU are bound by reading the weights and by the number of calls. So query,
key and value are one matrix, gate and up another; the norms' weights and the attention's scale
are multiplied into the matrix that follows; and matrices are packed for products of few rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gslm.ulm.linear import PackedLinear
from gslm.ulm.model import Block, Decoder


@dataclass
class Cache:
    """Keys and values of a batch of sequences that all begin at position 0."""

    keys: list[Tensor]
    """For each layer: (rows, kv_heads, capacity, head_dim)."""
    values: list[Tensor]
    """For each layer: (rows, kv_heads, capacity, head_dim)."""
    lengths: Tensor
    """Positions filled in each row, (rows,) int64."""
    longest: int
    """The largest of `lengths`."""
    even: bool
    """Whether all rows have one length, so that no mask is needed."""


@dataclass(frozen=True)
class _Layer:
    """One block's matrices."""

    query_key_value: PackedLinear
    output: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear


class CachedDecoder:
    """A decoder's forward for prompts and for one token after another."""

    def __init__(self, model: Decoder) -> None:
        """Copy the model's weights, fused; later changes of the model are not seen."""
        config = model.config
        self.config = config
        self.device = model.lm_head.weight.device
        with torch.no_grad():
            self.embedding = model.model.embed_tokens.weight.detach().clone()
            self.layers = [_fused(block, config.head_dim) for block in model.model.blocks()]
            self.head = PackedLinear(model.lm_head.weight * model.model.norm.weight)
        self.cosines, self.sines = model.model.cosines, model.model.sines

    def new_cache(self, lengths: Tensor, n_steps: int) -> Cache:
        """Room for prompts of `lengths` tokens (rows,) and `n_steps` more."""
        config, longest = self.config, int(lengths.max())
        capacity = min(longest + n_steps, config.context)
        shape = (len(lengths), config.n_kv_heads, capacity, config.head_dim)
        keys, values = (
            [
                torch.zeros(shape, device=self.device, dtype=self.embedding.dtype)
                for _ in self.layers
            ]
            for _ in range(2)
        )
        even = bool((lengths == longest).all())
        return Cache(keys, values, lengths.to(self.device), longest, even)

    def prefill(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Read prompts, (rows, longest) int64 padded at the end; logits (rows, n_tokens) after.

        What padding leaves in the cache is overwritten or masked before it is ever read.
        """
        rows, longest = tokens.shape
        hidden = self.embedding[tokens.to(self.device)]
        cosines, sines = self.cosines[:longest], self.sines[:longest]
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            query, key, value = self._heads(hidden, layer)
            query, key = _rotate(query, cosines, sines), _rotate(key, cosines, sines)
            keys[:, :, :longest], values[:, :, :longest] = key, value
            n_repeats = self.config.n_heads // self.config.n_kv_heads
            attended = F.scaled_dot_product_attention(
                query,
                key.repeat_interleave(n_repeats, 1),
                value.repeat_interleave(n_repeats, 1),
                is_causal=True,
                scale=1.0,
            )
            hidden = self._finish(hidden, attended.transpose(1, 2).flatten(2), layer)
        last = hidden[torch.arange(rows, device=self.device), cache.lengths - 1]
        return self.head(self._normalize(last))

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Append one token a row, (rows,) int64; logits (rows, n_tokens) of the next."""
        config, positions = self.config, cache.lengths
        hidden = self.embedding[tokens.to(self.device)]
        if cache.even:
            at = (slice(None), slice(None), cache.longest)
            cosines, sines = self.cosines[cache.longest], self.sines[cache.longest]
        else:
            at = (torch.arange(len(tokens), device=self.device), slice(None), positions)  # type: ignore[assignment]
            cosines, sines = self.cosines[positions, None], self.sines[positions, None]
        cache.longest += 1
        mask = None if cache.even else self._future(positions, cache.longest)
        n_query, n_kv = config.n_heads, config.n_kv_heads
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            fused = layer.query_key_value(self._normalize(hidden)).view(
                len(tokens), n_query + 2 * n_kv, config.head_dim
            )
            turned = _rotate(fused[:, : n_query + n_kv], cosines, sines)
            keys[at], values[at] = turned[:, n_query:], fused[:, n_query + n_kv :]
            query = turned[:, :n_query].unflatten(1, (n_kv, -1))
            scores = query @ keys[:, :, : cache.longest].transpose(-1, -2)
            if mask is not None:
                scores.add_(mask)
            attended = scores.softmax(-1) @ values[:, :, : cache.longest]
            hidden = self._finish(hidden, attended.flatten(1), layer)
        cache.lengths = positions + 1
        return self.head(self._normalize(hidden))

    def _future(self, positions: Tensor, longest: int) -> Tensor:
        """-inf where a key lies after its row's position, else 0; (rows, 1, 1, longest)."""
        later = torch.arange(longest, device=self.device) > positions[:, None]
        mask = torch.zeros(later.shape, device=self.device, dtype=self.embedding.dtype)
        return mask.masked_fill_(later, -torch.inf)[:, None, None]

    def _heads(self, hidden: Tensor, layer: _Layer) -> tuple[Tensor, ...]:
        """Queries, keys, values (rows, heads, tokens, head_dim) of hidden (rows, tokens, dim)."""
        config = self.config
        fused = layer.query_key_value(self._normalize(hidden)).unflatten(-1, (-1, config.head_dim))
        return fused.transpose(1, 2).split(
            (config.n_heads, config.n_kv_heads, config.n_kv_heads), 1
        )

    def _finish(self, hidden: Tensor, attended: Tensor, layer: _Layer) -> Tensor:
        """The rest of a block after attention; both (…, dim)."""
        hidden = hidden + layer.output(attended)
        gate, up = layer.gate_up(self._normalize(hidden)).chunk(2, -1)
        return hidden + layer.down(F.silu(gate) * up)

    def _normalize(self, hidden: Tensor) -> Tensor:
        """RMSNorm without weights, which the following matrix carries."""
        return F.rms_norm(hidden, hidden.shape[-1:], None, self.config.norm_epsilon)


def _rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions, as `gslm.ulm.model.rotate`, with one copy instead of a roll."""
    left, right = heads.chunk(2, -1)
    return heads * cosines + torch.cat((right, left), -1) * sines


def _fused(block: Block, head_dim: int) -> _Layer:
    """One block's matrices with the norms' weights and the attention's scale inside."""
    attention, network = block.self_attn, block.mlp
    query = attention.q_proj.weight / head_dim**0.5
    together = torch.cat([query, attention.k_proj.weight, attention.v_proj.weight])
    gate_up = torch.cat([network.gate_proj.weight, network.up_proj.weight])
    return _Layer(
        PackedLinear(together * block.input_layernorm.weight),
        PackedLinear(attention.o_proj.weight),
        PackedLinear(gate_up * block.post_attention_layernorm.weight),
        PackedLinear(network.down_proj.weight),
    )
