"""What a judge hears in a bundle's continuations, and how much of them is copied.

    python benchmarks/continuations.py BUNDLE CORPUS AUDIO [--n 10]

Prompts are the first two seconds of held-out recordings, in the order of a hash of their ids: none
is picked. A run of 16 units that stands in the training set is copied; held-out speech beside it.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from gslm.corpus import Corpus
from gslm.eval.judge import load_judge, require_other_weights
from gslm.speech_lm import SpeechLM

RUN = 16


def runs(units: np.ndarray) -> list[bytes]:
    """Every run of 16 units."""
    units = np.ascontiguousarray(units, dtype=np.int32)
    return [units[i : i + RUN].tobytes() for i in range(len(units) - RUN + 1)]


def main() -> None:
    """Print the transcripts and both shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = SpeechLM.load(arguments.bundle)
    judge = load_judge()
    require_other_weights(judge, model.fingerprint)
    corpus = Corpus.open(arguments.corpus)
    known = {run for row in corpus.rows("train") for run in runs(row.units)}
    held_out = [
        row for row in corpus.rows("held_out") if row.n_samples >= 3 * 16_000 and len(row.units)
    ]
    held_out.sort(key=lambda row: hashlib.sha256(row.id.encode()).hexdigest())
    copied: list[bool] = []
    real: list[bool] = []
    for i, row in enumerate(held_out[: arguments.n]):
        made = model.continue_(
            arguments.audio / row.id,
            prompt_seconds=2.0,
            max_seconds=5.0,
            min_seconds=2.0,
            temperature=arguments.temperature,
            seed=arguments.seed + i,
        )[0]
        copied += [run in known for run in runs(made.units.ids[made.n_prompt_units :])]
        heard = judge.transcribe(made.waveform[made.prompt_samples :])
        print(f"{row.id}: … {heard}")
    for row in held_out:
        real += [run in known for run in runs(row.units)]
    print(f"runs of {RUN} units that stand in the training set:")
    print(f"  continuations {np.mean(copied):.1%} of {len(copied)}")
    print(f"  held-out speech {np.mean(real):.1%} of {len(real)}")


if __name__ == "__main__":
    main()
