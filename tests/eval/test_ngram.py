"""Kneser-Ney against a written-out recursion over the raw sequences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.eval.ngram import BOS, EOS, NGramModel

rng = np.random.default_rng(0)
TRAIN = [rng.zipf(1.5, size=rng.integers(1, 12)) % 5 for _ in range(60)]
VOCABULARY_SIZE = 6


def ngrams(n: int, order: int) -> list[tuple[int, ...]]:
    """All n-grams that end in a real token, one entry an occurrence."""
    found = []
    for sequence in TRAIN:
        padded = [BOS] * (order - 1) + sequence.tolist() + [EOS]
        found += [tuple(padded[i - n + 1 : i + 1]) for i in range(order - 1, len(padded))]
    return found


def brute_counts(n: int, order: int) -> dict[tuple[int, ...], int]:
    grams = ngrams(n, order) if n == order else [gram[1:] for gram in set(ngrams(n + 1, order))]
    return {gram: grams.count(gram) for gram in set(grams)}


def brute_probability(context: tuple[int, ...], token: int, order: int) -> float:
    n = len(context) + 1
    lower = brute_probability(context[1:], token, order) if context else 1 / (VOCABULARY_SIZE + 1)
    counts = brute_counts(n, order)
    followers = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
    if not followers:
        return lower
    n1, n2, n3, n4 = (list(counts.values()).count(k) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 + n2 else 0
    if n1 and n2 and n3 and n4:
        d = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        d = [min(max(value, 0), k) for k, value in enumerate(d, 1)]
    else:
        d = [0.5, 0.5, 0.5]
    total = sum(followers.values())
    own = followers.get(token, 0)
    first = max(own - d[min(own, 3) - 1], 0) / total if own else 0.0
    share = sum(d[min(count, 3) - 1] for count in followers.values()) / total
    return first + share * lower


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_equal_the_written_out_recursion(order: int) -> None:
    model = NGramModel(TRAIN, order, VOCABULARY_SIZE)
    for context in itertools.product(range(3), repeat=order - 1):
        for token in (*range(VOCABULARY_SIZE), EOS):
            expected = brute_probability(context, token, order)
            assert model.probability(context, token) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_any_context(order: int) -> None:
    model = NGramModel(TRAIN, order, VOCABULARY_SIZE)
    contexts = [(BOS,) * (order - 1), (0, 1, 2, 3), (5, 5, 5, 5), (1, 1, 0, 0), ()]
    for context in contexts:
        tokens = (*range(VOCABULARY_SIZE), EOS)
        total = sum(model.probability(context, token) for token in tokens)
        assert total == pytest.approx(1.0, abs=1e-12)


def test_every_unit_and_the_end_are_scored_from_the_beginning() -> None:
    model = NGramModel(TRAIN, 3, VOCABULARY_SIZE)
    expected = (
        math.log(model.probability((BOS, BOS), 2))
        + math.log(model.probability((BOS, 2), 0))
        + math.log(model.probability((2, 0), EOS))
    )
    assert model.score([2, 0]) == pytest.approx(expected)


def test_nothing_to_count_is_one_line() -> None:
    with pytest.raises(UserError):
        NGramModel([], 3, VOCABULARY_SIZE)
    with pytest.raises(UserError):
        NGramModel(TRAIN, 0, VOCABULARY_SIZE)
