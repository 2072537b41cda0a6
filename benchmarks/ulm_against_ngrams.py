"""Held-out loss of a bundle's unit language model beside Kneser-Ney n-grams of the same tokens.

    python benchmarks/ulm_against_ngrams.py BUNDLE CORPUS [--shuffled]

CORPUS is the folder that `gslm train` leaves in `BUNDLE.work`. --shuffled also trains a model
with the bundle's settings on the same documents with their tokens in random order.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np

from gslm.bundle import check_bundle
from gslm.corpus import Corpus
from gslm.eval.ngram import NGramModel
from gslm.pipeline import BundleSettings
from gslm.settings import from_dictionary
from gslm.ulm import UnitLM
from gslm.ulm.train import train_ulm
from gslm.units.tokenizer import UnitTokenizer


def main() -> None:
    """Print one line a model: nats a token and bits a second of held-out speech."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--shuffled", action="store_true")
    arguments = parser.parse_args()
    manifest = check_bundle(arguments.bundle)
    corpus = Corpus.open(arguments.corpus)
    tokenizer = UnitTokenizer.load(arguments.bundle / "tokenizer")
    lm = UnitLM.load(arguments.bundle / "ulm")
    lm.fingerprint.require_same(corpus.fingerprint, "the bundle", "the corpus")
    train, held_out = (
        [tokenizer.encode(row.units) for row in corpus.rows(split) if len(row.units)]
        for split in ("train", "held_out")
    )
    n_tokens = sum(len(tokens) + 1 for tokens in held_out)
    seconds = sum(row.n_samples for row in corpus.rows("held_out")) / 16_000
    print(f"{tokenizer.vocabulary_size} tokens; {len(train)} documents to train on")
    print(f"held out: {len(held_out)} documents, {n_tokens} tokens with ends, {seconds:.0f} s")

    def report(name: str, nats: float) -> None:
        print(
            f"{name:28} {nats / n_tokens:.4f} nats/token  {nats / np.log(2) / seconds:.2f} bits/s"
        )

    for order in (2, 3, 5):
        model = NGramModel(train, order, tokenizer.vocabulary_size)
        report(f"Kneser-Ney {order}-gram", -sum(model.score(t) for t in held_out))
    report("uLM", -sum(lm.score(held_out)))
    if arguments.shuffled:
        settings = from_dictionary(BundleSettings, tomllib.loads(manifest["settings"]), "bundle")
        rng = np.random.default_rng(0)
        shuffled = [rng.permutation(tokens) for tokens in train]
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            other = train_ulm(
                shuffled,
                [rng.permutation(tokens) for tokens in held_out],
                tokenizer.vocabulary_size,
                corpus.fingerprint,
                settings.ulm,
                folder,
            )
        report("uLM of shuffled tokens", -sum(other.score(held_out)))
        print(f"(trained in {(time.monotonic() - started) / 60:.1f} minutes)")


if __name__ == "__main__":
    main()
