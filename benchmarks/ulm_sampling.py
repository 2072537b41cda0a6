"""Sampling speed against transformers' `generate`: same weights, 21 million parameters, one run.

    python benchmarks/ulm_sampling.py

Prints the machine's matmul rate, tokens a second of both at batch 1 and 8, their ratio, the
largest difference of their logits, and peak memory. Both draw from the whole distribution at
temperature 1 and may not end early.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import numpy as np
import torch
from machine import matmul_rate

from gslm.ulm.model import EOS, PAD, Decoder, preset
from gslm.ulm.sample import Sampler, Sampling


def main() -> None:
    """Measure both samplers in turns and print the best of each."""
    from transformers import LlamaConfig, LlamaForCausalLM

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=256, help="tokens to draw")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = preset(options.size, 200)
    ours = Decoder(config).eval()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.n_tokens,
            hidden_size=config.dim,
            intermediate_size=config.hidden_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_epsilon,
            tie_word_embeddings=config.tied_embeddings,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    sampler = Sampler(ours)
    print(
        f"{ours.n_parameters() / 1e6:.1f} M parameters, {options.threads} threads, "
        f"prompt {options.prompt}, {options.tokens} tokens, torch {torch.__version__}, "
        f"matmul {matmul_rate():.0f} GFLOP/s, load {os.getloadavg()[0]:.1f}"
    )
    print(f"batch | transformers tokens/s | gslm tokens/s | ratio (best of {options.repeats})")
    for batch in (1, 8):
        prompt = torch.randint(3, config.n_tokens, (batch, options.prompt))
        pieces = [row.numpy().astype(np.int32) - 3 for row in prompt]
        settings = Sampling(options.tokens, options.tokens)

        def run_theirs(prompt: torch.Tensor = prompt) -> None:
            with torch.inference_mode():
                theirs.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=options.tokens,
                    min_new_tokens=options.tokens,
                    do_sample=True,
                    top_k=0,
                )

        def run_ours(pieces: list = pieces, settings: Sampling = settings) -> None:
            sampler.sample(pieces, settings)

        times = np.array(
            [[_seconds(run) for run in (run_theirs, run_ours)] for _ in range(options.repeats + 1)]
        )[1:]
        # The best of each: what else the machine does only ever adds time.
        rates = batch * options.tokens / times.min(axis=0)
        print(f"{batch:5} | {rates[0]:21.0f} | {rates[1]:13.0f} | {rates[1] / rates[0]:.2f}")
    with torch.inference_mode():
        tokens = torch.randint(3, config.n_tokens, (2, 100))
        difference = (ours(tokens) - theirs(tokens).logits).abs().max()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest difference of logits {difference:.1e}; peak memory {peak:.0f} MB (both)")


def _seconds(run: object) -> float:
    started = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
