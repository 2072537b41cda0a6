"""`gslm ulm`: train, score and sample a unit language model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from gslm.errors import UserError

if TYPE_CHECKING:
    from gslm.corpus import Corpus
    from gslm.ulm import UnitLM
    from gslm.ulm.packing import TokenArray

app = App(name="ulm", help="Unit language model: train, score, sample.")


@app.command
def train(
    corpus: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    size: str = "mini",
    steps: int | None = None,
    dropout: float | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    half: bool = False,
) -> None:
    """Train on a corpus' units and print held-out nats a unit.

    Example: gslm ulm train corpus --output ulm --steps 700

    Args:
        corpus: folder written by `gslm units encode`.
        output: folder of the model; checkpoints and the log go into its `training` folder,
            and the same command goes on from there.
        size: mini (3 million parameters), tiny (5), small (21), medium (51) or base (154).
        steps: optimizer steps; the default suits half an hour of speech.
        dropout: share of activations dropped in training; less for more speech.
        learning_rate: peak learning rate.
        seed: of the weights, the shuffle and dropout.
        half: write the weights as float16.
    """
    from gslm.corpus import Corpus
    from gslm.ulm.train import UnitLMTraining, train_ulm

    opened = Corpus.open(corpus)
    sequences, held_out = _units(opened, "train"), _units(opened, "held_out")
    defaults = UnitLMTraining()
    training = replace(
        defaults.training, seed=seed, steps=defaults.training.steps if steps is None else steps
    )
    config = replace(
        defaults,
        size=size,
        training=training,
        dropout=defaults.dropout if dropout is None else dropout,
        learning_rate=defaults.learning_rate if learning_rate is None else learning_rate,
    )
    n_pieces = opened.fingerprint.vocabulary_size
    lm = train_ulm(sequences, held_out, n_pieces, opened.fingerprint, config, output / "training")
    lm.save(output, half=half)
    n_tokens = sum(len(sequence) + 1 for sequence in held_out)
    print(f"held-out nats a unit: {-sum(lm.score(held_out)) / n_tokens:.4f} ({n_tokens} tokens)")
    print(f"uLM of {lm.model.n_parameters() / 1e6:.1f} M parameters: {output}")


@app.command
def score(model: Path, corpus: Path, *, split: str = "held_out") -> None:
    """Print, as JSON lines, the log-likelihood in nats of each recording of a corpus.

    Example: gslm ulm score ulm corpus --split all > scores.jsonl

    Args:
        model: folder of a uLM.
        corpus: folder written by `gslm units encode` with the same units.
        split: held_out, train or all.
    """
    from gslm.corpus import Corpus
    from gslm.ulm import UnitLM

    lm, opened = UnitLM.load(model), Corpus.open(corpus)
    lm.fingerprint.require_same(opened.fingerprint, str(model), str(corpus))
    _require_units(lm, model)
    for ids, sequences in _batches(opened, split):
        for row_id, sequence, nats in zip(ids, sequences, lm.score(sequences), strict=True):
            n_tokens = len(sequence) + 1
            row = {"id": row_id, "log_likelihood": nats, "n_tokens": n_tokens}
            print(json.dumps(row | {"per_token": nats / n_tokens}, ensure_ascii=False))


@app.command
def sample(
    model: Path,
    *,
    prompt: str = "",
    n_samples: int = 1,
    max_tokens: int = 200,
    min_tokens: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> None:
    """Print continuations of a prompt of units, one a line.

    Example: gslm ulm sample ulm --prompt "17 4 133" --n-samples 3 --temperature 0.8

    Args:
        model: folder of a uLM.
        prompt: unit ids between spaces; empty to start freely.
        n_samples: how many continuations; number i is drawn with seed + i.
        max_tokens: most units of a continuation.
        min_tokens: units before which none ends.
        temperature: divides the logits; 0 takes the likeliest unit.
        top_k: choose among the k likeliest units; 0 for all.
        top_p: choose among the likeliest units that reach this probability; 1 for all.
        seed: of the draws.
    """
    import numpy as np

    from gslm.ulm import UnitLM

    try:
        units = np.array(prompt.split(), dtype=np.int32)
    except (ValueError, OverflowError):
        raise UserError(
            f"sample: prompt {prompt!r} is not unit ids between spaces, as in --prompt '17 4 133'"
        ) from None
    lm = UnitLM.load(model)
    _require_units(lm, model)
    continuations = lm.sample(
        [units] * n_samples,
        max_tokens,
        min_tokens=min_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        progress=True,
    )
    for continuation in continuations:
        print(" ".join(str(unit) for unit in continuation))


def _units(corpus: Corpus, split: str) -> list[TokenArray]:
    """De-duplicated unit sequences of a split; recordings without units are left out."""
    return [corpus.units(row).deduplicated().ids for row in corpus.rows(split) if len(row.units)]


def _batches(
    corpus: Corpus, split: str, size: int = 1024
) -> Iterator[tuple[list[str], list[TokenArray]]]:
    """Ids and de-duplicated units of `size` recordings at a time, so that memory is bounded."""
    rows = (row for row in corpus.rows(split) if len(row.units))
    ids: list[str] = []
    sequences: list[TokenArray] = []
    for row in rows:
        ids.append(row.id)
        sequences.append(corpus.units(row).deduplicated().ids)
        if len(ids) == size:
            yield ids, sequences
            ids, sequences = [], []
    if ids:
        yield ids, sequences


def _require_units(lm: UnitLM, folder: Path) -> None:
    """Refuse a uLM of BPE pieces, whose tokens are not units."""
    if lm.config.n_pieces != lm.fingerprint.vocabulary_size:
        raise UserError(
            f"{folder}: was trained on {lm.config.n_pieces} BPE pieces of "
            f"{lm.fingerprint.vocabulary_size} units, which only its bundle's tokenizer "
            "knows; in Python SpeechLM.load(bundle).score([...]) scores recordings, and "
            "`gslm continue -b bundle` samples"
        )
