"""Log-likelihood of unit sequences under a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from gslm.ulm.model import BOS, EOS, N_SPECIAL, DecoderConfig
from gslm.ulm.packing import TokenArray

BATCH_TOKENS = 8192
"""Positions scored at once: bounds the memory of activations and logits."""


@dataclass(frozen=True)
class Score:
    """What a decoder thinks of one sequence."""

    log_likelihood: float
    """Natural logarithm of the probability of all pieces and of the end, in nats."""
    n_tokens: int
    """Pieces and the end."""

    @property
    def per_token(self) -> float:
        """Mean log-likelihood of a token, in nats."""
        return self.log_likelihood / self.n_tokens


@dataclass(frozen=True)
class _Window:
    """A stretch of one document that fits the context."""

    document: int
    tokens: TokenArray
    """Inputs and the last target."""
    n_known: int
    """Targets at the start that an earlier window has scored already."""


def score(
    model: nn.Module,
    config: DecoderConfig,
    sequences: Sequence[TokenArray],
    progress: bool = False,
) -> list[Score]:
    """Score each sequence of pieces, (n,) int32 counted from 0, from its beginning to its end.

    A sequence longer than the context is scored in windows that overlap by half, so that each
    token is seen with at least half a context before it. Batches hold sequences of similar length
    and at most 8,192 positions, so memory is bounded by the model and the longest row.
    """
    totals = np.zeros(len(sequences))
    windows = [w for i, sequence in enumerate(sequences) for w in _windows(i, sequence, config)]
    windows.sort(key=lambda window: len(window.tokens))
    device = next(model.parameters()).device
    with (
        torch.inference_mode(),
        tqdm(total=len(windows), desc="score", unit=" sequences", disable=not progress) as bar,
    ):
        for batch in _batches(windows):
            for window, nats in zip(batch, _log_likelihoods(model, batch, device), strict=True):
                totals[window.document] += nats
            bar.update(len(batch))
    return [
        Score(float(total), len(sequence) + 1)
        for total, sequence in zip(totals, sequences, strict=True)
    ]


def _windows(document: int, pieces: TokenArray, config: DecoderConfig) -> Iterator[_Window]:
    """Cut bos, pieces, eos into windows of at most `context` inputs."""
    tokens = np.concatenate([[BOS], np.asarray(pieces, dtype=np.int64) + N_SPECIAL, [EOS]])
    n_targets = len(tokens) - 1
    begin = n_scored = 0
    while n_scored < n_targets:
        end = min(begin + config.context, n_targets)
        yield _Window(document, tokens[begin : end + 1], n_scored - begin)
        n_scored = end
        begin = end - config.context // 2


def _batches(windows: Sequence[_Window]) -> Iterator[Sequence[_Window]]:
    """Split windows, sorted by length, where their padded size passes `BATCH_TOKENS`."""
    begin = 0
    for index, window in enumerate(windows):
        if index > begin and (index + 1 - begin) * len(window.tokens) > BATCH_TOKENS:
            yield windows[begin:index]
            begin = index
    if begin < len(windows):
        yield windows[begin:]


def _log_likelihoods(
    model: nn.Module, batch: Sequence[_Window], device: torch.device
) -> list[float]:
    """Sum over each window's new targets. Padding stands at the end, where causality hides it."""
    tokens = torch.zeros(len(batch), max(len(w.tokens) for w in batch), dtype=torch.int64)
    wanted = torch.zeros(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
    for row, window in enumerate(batch):
        tokens[row, : len(window.tokens)] = torch.from_numpy(window.tokens)
        wanted[row, window.n_known : len(window.tokens) - 1] = True
    tokens, wanted = tokens.to(device), wanted.to(device)
    logits: Tensor = model(tokens[:, :-1]).float()
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    sums = -(losses.double() * wanted).sum(1)
    return [float(value) for value in sums]
