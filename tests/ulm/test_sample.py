"""Sampling with the cache against full forwards, and the random choice against its distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.types import Fingerprint
from gslm.ulm import UnitLM
from gslm.ulm.decoding import CachedDecoder
from gslm.ulm.model import BOS, EOS, PAD, Decoder
from gslm.ulm.sample import Sampling, choose, uniform_draws
from tests.ulm.test_model import SMALL

FINGERPRINT = Fingerprint("mfcc", "", 0, 50.0, "none", "0" * 16, 50)


def unit_lm(n_kv_heads: int = 4, seed: int = 0) -> UnitLM:
    torch.manual_seed(seed)
    config = replace(SMALL, n_kv_heads=n_kv_heads)
    model = Decoder(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() == 2 else 1.0)
    return UnitLM(config, model, FINGERPRINT)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", [[9, 9], [1, 20, 7]])
def test_cached_logits_equal_full_forwards(n_kv_heads: int, lengths: list[int]) -> None:
    lm = unit_lm(n_kv_heads)
    tokens = [torch.randint(3, 53, (length + 10,)) for length in lengths]
    padded = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        padded[row, :length] = tokens[row][:length]
    with torch.no_grad():
        decoder = CachedDecoder(lm.model)
        cache = decoder.new_cache(torch.tensor(lengths), 10)
        logits = [decoder.prefill(padded, cache)]
        for step in range(9):
            following = torch.stack([t[n + step] for t, n in zip(tokens, lengths, strict=True)])
            logits.append(decoder.step(following, cache))
        for row, length in enumerate(lengths):
            expected = lm.model(tokens[row][None, :-1])[0, length - 1 :]
            ours = torch.stack([step[row] for step in logits])
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_greedy_is_the_argmax_of_full_forwards() -> None:
    lm = unit_lm()
    prompt = np.array([4, 9, 1], dtype=np.int32)
    ours = lm.sample([prompt], 20, temperature=0, min_tokens=20)[0]
    tokens = [BOS, *(prompt + 3)]
    for unit in ours:
        with torch.no_grad():
            logits = lm.model(torch.tensor([tokens]))[0, -1]
        logits[[PAD, BOS, EOS]] = -torch.inf
        assert int(logits.argmax()) == unit + 3
        tokens.append(int(unit) + 3)


def test_one_seed_gives_one_result_whatever_the_batch() -> None:
    lm = unit_lm()
    prompts = [np.arange(n, dtype=np.int32) for n in (5, 0, 17)]
    together = lm.sample(prompts, 30, seed=7, min_tokens=30)
    for row, prompt in enumerate(prompts):
        alone = lm.sample([prompt], 30, seed=7 + row, min_tokens=30)[0]
        np.testing.assert_array_equal(alone, together[row])
    chosen = lm.sample(prompts[::-1], 30, seed=[9, 8, 7], min_tokens=30)
    for ours, expected in zip(chosen, together[::-1], strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not np.array_equal(together[0], lm.sample(prompts[:1], 30, seed=8, min_tokens=30)[0])


def test_choice_follows_the_distribution() -> None:
    logits = torch.tensor([5.0, 5.0, 0.0, 1.0, 2.0, -1.0])
    n_draws = 40_000
    draws = uniform_draws(0, 1, n_draws)[0]
    chosen = choose(logits.repeat(n_draws, 1), draws, Sampling(1), 0)
    expected = logits.clone()
    expected[:2] = -torch.inf
    counts = torch.bincount(chosen, minlength=6) / n_draws
    torch.testing.assert_close(counts, expected.softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("settings", "step", "allowed"),
    [
        (Sampling(9, top_k=2), 0, {3, 4}),
        (Sampling(9, top_p=0.6), 0, {4}),
        (Sampling(9, top_p=0.9), 0, {2, 3, 4}),
        (Sampling(9, min_tokens=3), 2, {3, 4, 5}),
        (Sampling(9, min_tokens=3), 3, {2, 3, 4, 5}),
        (Sampling(9, temperature=0), 0, {4}),
    ],
)
def test_choice_stays_in_the_allowed_set(settings: Sampling, step: int, allowed: set[int]) -> None:
    logits = torch.tensor([5.0, 5.0, 0.0, 1.0, 2.0, -2.0]).repeat(5000, 1)
    chosen = choose(logits, uniform_draws(1, 1, 5000)[0], settings, step)
    assert set(chosen.tolist()) == allowed


def test_continuations_stop_at_the_end_token() -> None:
    lm = unit_lm()
    lm.model.lm_head.weight.data[EOS] += 0.05
    samples = lm.sample([np.zeros(0, dtype=np.int32)] * 16, 60, temperature=2.0)
    assert any(len(sample) < 60 for sample in samples)
    for sample in samples:
        assert sample.dtype == np.int32
        assert ((sample >= 0) & (sample < 50)).all()


def test_what_cannot_be_continued_is_one_line() -> None:
    lm = unit_lm()
    ok = np.array([1, 2], dtype=np.int32)
    for prompts, settings in (
        ([np.array([50])], {}),
        ([np.array([-1])], {}),
        ([np.arange(120) % 50], {"max_tokens": 9}),
        ([], {}),
        ([ok], {"temperature": -1.0}),
        ([ok], {"top_p": 0.0}),
        ([ok], {"max_tokens": 0}),
        ([ok], {"seed": [1, 2]}),
    ):
        with pytest.raises(UserError) as error:
            lm.sample(prompts, **{"max_tokens": 5, **settings})
        assert "\n" not in str(error.value)
