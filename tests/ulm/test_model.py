"""The decoder against transformers' LLaMA with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gslm.errors import UserError
from gslm.ulm.model import PRESETS, Decoder, DecoderConfig, preset

SMALL = DecoderConfig(50, dim=64, n_layers=3, n_heads=4, n_kv_heads=4, hidden_dim=96, context=128)


def transformers_llama(config: DecoderConfig) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.n_tokens,
            hidden_size=config.dim,
            intermediate_size=config.hidden_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_epsilon,
            rope_theta=config.rope_base,
            tie_word_embeddings=config.tied_embeddings,
            initializer_range=0.2,
        )
    ).eval()


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers_llama(n_kv_heads: int, tied: bool) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, n_kv_heads=n_kv_heads, tied_embeddings=tied)
    theirs = transformers_llama(config)
    ours = Decoder(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    tokens = torch.randint(0, config.n_tokens, (3, 100))
    with torch.no_grad():
        expected = theirs(tokens).logits
        logits = ours(tokens)
    assert expected.abs().max() > 1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_weights_go_back_to_transformers_unchanged() -> None:
    ours = Decoder(SMALL)
    theirs = transformers_llama(SMALL)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randint(0, SMALL.n_tokens, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", (4, 6)), ("small", (18, 23)), ("base", (140, 165))]
)
def test_presets_have_the_named_size(size: str, millions: tuple[int, int]) -> None:
    with torch.device("meta"):
        n_parameters = Decoder(preset(size, 200)).n_parameters()
    assert millions[0] < n_parameters / 1e6 < millions[1]
    assert PRESETS[size].n_pieces == 1


def test_a_shape_that_cannot_be_is_refused_in_one_line() -> None:
    for bad in ({"n_heads": 3}, {"n_kv_heads": 3}, {"dropout": 1.0}, {"n_pieces": 0}):
        with pytest.raises(UserError) as error:
            replace(SMALL, **bad)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="huge"):
        preset("huge", 200)
