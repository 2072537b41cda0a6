"""Scores against one full forward a sequence."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.ulm.score import score
from tests.ulm.reference import log_likelihood
from tests.ulm.test_sample import unit_lm

random = np.random.default_rng(0)
SEQUENCES = [random.integers(0, 50, n).astype(np.int32) for n in (1, 60, 7, 126, 7, 30, 2)]


@pytest.mark.parametrize("batch_tokens", [1, 200, 8192])
def test_batched_scores_equal_one_by_one(
    batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[score.__module__], "BATCH_TOKENS", batch_tokens)
    lm = unit_lm()
    results = score(lm.model, lm.config, SEQUENCES)
    for sequence, result in zip(SEQUENCES, results, strict=True):
        with torch.no_grad():
            expected = log_likelihood(lm.model, (sequence + 3).tolist())
        assert result.log_likelihood == pytest.approx(expected, rel=1e-5, abs=1e-3)
        assert result.n_tokens == len(sequence) + 1
        assert result.per_token == pytest.approx(result.log_likelihood / result.n_tokens)


def test_a_sequence_over_the_context_is_scored_with_at_least_half_of_it() -> None:
    lm = unit_lm()
    long = random.integers(0, 50, 300).astype(np.int32)
    tokens = torch.tensor([1, *(long + 3), 2])
    expected = 0.0
    begins = {0: 0, 128: 64, 192: 128, 256: 192}
    for n_scored, begin in begins.items():
        end = min(begin + 128, 301)
        with torch.no_grad():
            logits = lm.model(tokens[None, begin:end])[0].log_softmax(-1)
        chosen = logits[torch.arange(end - begin), tokens[begin + 1 : end + 1]]
        expected += float(chosen[n_scored - begin :].sum())
    assert lm.score([long])[0] == pytest.approx(expected, rel=1e-5)


def test_units_outside_the_vocabulary_are_one_line() -> None:
    with pytest.raises(UserError, match="50"):
        unit_lm().score([np.array([3, 50])])
