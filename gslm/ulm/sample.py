"""Sampling continuations: settings, random draws and the loop over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from gslm.errors import UserError
from gslm.ulm.decoding import CachedDecoder
from gslm.ulm.model import BOS, EOS, N_SPECIAL, PAD, Decoder
from gslm.ulm.packing import TokenArray, check_pieces


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_tokens: int
    """Most pieces of a continuation."""
    min_tokens: int = 0
    """Pieces before which a continuation cannot end."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Choose among the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Choose among the likeliest tokens whose probabilities reach this sum; 1 for all."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.min_tokens < 0 or self.min_tokens > self.max_tokens:
            raise UserError(
                f"sample: max_tokens must be at least 1 and min_tokens from 0 to it; "
                f"got {self.max_tokens} and {self.min_tokens}"
            )
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                "sample: temperature and top_k must be at least 0 and top_p in (0, 1]; "
                f"got {self.temperature}, {self.top_k}, {self.top_p}"
            )


class Sampler:
    """Continues prompts with a decoder whose weights are arranged for one-token steps."""

    def __init__(self, model: Decoder) -> None:
        self.config = model.config
        self.decoder = CachedDecoder(model)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[TokenArray],
        settings: Sampling,
        seed: int | Sequence[int] = 0,
        progress: bool = False,
    ) -> list[TokenArray]:
        """Continue prompts of pieces, (n,) int32 each; see `UnitLM.sample`."""
        self._check(prompts, settings)
        lengths = torch.tensor([len(prompt) + 1 for prompt in prompts])
        tokens = torch.full((len(prompts), int(lengths.max())), PAD)
        tokens[:, 0] = BOS
        for row, prompt in enumerate(prompts):
            pieces = torch.as_tensor(np.asarray(prompt, dtype=np.int64))
            tokens[row, 1 : 1 + len(prompt)] = pieces + N_SPECIAL
        draws = uniform_draws(seed, len(prompts), settings.max_tokens)
        cache = self.decoder.new_cache(lengths, settings.max_tokens)
        logits = self.decoder.prefill(tokens, cache)
        drawn = torch.full((len(prompts), settings.max_tokens), EOS)
        alive = torch.ones(len(prompts), dtype=torch.bool)
        for step in trange(settings.max_tokens, desc="sample", disable=not progress):
            chosen = choose(logits.cpu(), draws[:, step], settings, step)
            alive &= chosen != EOS
            drawn[:, step].masked_fill_(alive, 0).add_(chosen * alive)
            if step + 1 == settings.max_tokens or not alive.any():
                break
            logits = self.decoder.step(chosen, cache)
        return [_pieces(row) for row in drawn]

    def _check(self, prompts: Sequence[TokenArray], settings: Sampling) -> None:
        """Refuse what cannot be continued, before any work."""
        if len(prompts) == 0:
            raise UserError("sample: there are no prompts; give one, empty for a free start")
        for index, prompt in enumerate(prompts):
            if len(prompt) + settings.max_tokens > self.config.context:
                raise UserError(
                    f"sample: prompt {index} has {len(prompt)} tokens and {settings.max_tokens} "
                    f"more are asked for, but the context is {self.config.context}; shorten one"
                )
        filled = [prompt for prompt in prompts if len(prompt)]
        if filled:
            check_pieces(filled, self.config.n_pieces, "sample")


def uniform_draws(seed: int | Sequence[int], n_rows: int, n_steps: int) -> Tensor:
    """Random numbers in [0, 1), (n_rows, n_steps) float64, each row from a generator of its own.

    seed: row i uses seed + i, or seed[i].
    """
    if isinstance(seed, int | np.integer):
        seeds = [int(seed) + row for row in range(n_rows)]
    else:
        seeds = list(seed)
    if len(seeds) != n_rows:
        raise UserError(f"sample: {len(seeds)} seeds for {n_rows} prompts; give one for each")
    rows = [np.random.default_rng(abs(int(value))).random(n_steps) for value in seeds]
    return torch.from_numpy(np.stack(rows))


def choose(logits: Tensor, draws: Tensor, settings: Sampling, step: int) -> Tensor:
    """Next tokens (rows,) int64 from logits (rows, n_tokens) and uniform draws (rows,).

    The inverse of the cumulative distribution at the draw, in float64; pad and bos are never
    chosen, eos not before `min_tokens`.
    """
    logits = logits.double()
    logits[:, [PAD, BOS]] = -torch.inf
    if step < settings.min_tokens:
        logits[:, EOS] = -torch.inf
    if settings.temperature == 0:
        return logits.argmax(-1)
    logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[1]:
        least = logits.topk(settings.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if settings.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered[ordered.cumsum(-1) - ordered >= settings.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    # A draw next to 1 may round up to the total, which lies after the last token.
    target = torch.minimum(draws[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def _pieces(drawn: Tensor) -> TokenArray:
    """Pieces before the first eos, int32 counted from 0."""
    tokens = drawn.numpy()
    ends = np.flatnonzero(tokens == EOS)
    return (tokens[: ends[0]] if len(ends) else tokens).astype(np.int32) - N_SPECIAL
