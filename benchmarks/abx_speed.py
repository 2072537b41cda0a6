"""ABX over exact cells: gslm beside zerospeech-libriabx2 and fastabx, each in its own Python.

    python benchmarks/abx_speed.py ABX_SETS/combined/triphone.item
        --libriabx2 PYTHON --fastabx PYTHON [--dim 384] [--minutes 5] [--rounds 3] [--threads 2]

`gslm eval make abx` makes the item file. The features, 50 a second, are made: a random vector for
each triphone's middle phone, blurred in time, and noise. All three get the same ones and the same
items, slice them as Libri-Light does, and compare the angles of frames of every triplet, within
and across speakers, in the same context. Timed is scoring alone, from frames in memory to the
error rate: neither reading features nor slicing them, nor starting up. Each figure is the best of
`--rounds`, zerospeech-libriabx2's of one. Peak memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FRAME_RATE = 50
SPEAKERS = ("within", "across")
ALL = 10**9
"""More than any group holds."""


def main() -> None:
    """Make the features and let each tool score them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("item", type=Path)
    parser.add_argument("--libriabx2", help="Python that has zerospeech-libriabx2")
    parser.add_argument("--fastabx", help="Python that has fastabx")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--minutes", type=float, help="only so much audio, for a try")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tools = {"gslm": sys.executable, "fastabx": arguments.fastabx}
    tools["zerospeech-libriabx2"] = arguments.libriabx2
    import torch
    from machine import matmul_rate

    torch.set_num_threads(arguments.threads)
    print(f"matmul, {arguments.threads} threads: {matmul_rate():.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        make_features(arguments.item, Path(folder), arguments.dim, arguments.minutes)
        found = {}
        for tool, python in tools.items():
            if python:
                rounds = 1 if tool == "zerospeech-libriabx2" else arguments.rounds
                found[tool] = run(tool, python, Path(folder), rounds, arguments.threads)
    report(found)


def run(tool: str, python: str, folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Let one tool score the features in a process of its own; what it measured."""
    threads_of = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    environment = {name: str(threads) for name in threads_of}
    environment |= {"FASTABX_WITH_LIBRILIGHT_BUG": "1", "TQDM_DISABLE": "1"}
    command = [python, __file__, f"--worker={tool}", str(folder), str(rounds), str(threads)]
    finished = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    for speaker in SPEAKERS:
        print(
            f"{tool:22}{speaker:8}{found['seconds'][speaker]:9.2f} s   ABX error "
            f"{found['error'][speaker]:.8f}   peak memory {found['memory']:.2f} GB",
            flush=True,
        )
    return found


def report(found: dict[str, Any]) -> None:
    """Print how many times longer the others take, and how far the scores are apart."""
    ours = found.pop("gslm")
    for tool, theirs in found.items():
        for speaker in SPEAKERS:
            ratio = theirs["seconds"][speaker] / ours["seconds"][speaker]
            apart = theirs["error"][speaker] - ours["error"][speaker]
            print(f"{tool} / gslm, {speaker}: {ratio:.2f} x the time, score apart {apart:+.1e}")
        ratio = sum(theirs["seconds"].values()) / sum(ours["seconds"].values())
        print(f"{tool} / gslm, both: {ratio:.2f} x the time")


def make_features(item: Path, folder: Path, dim: int, minutes: float | None) -> None:
    """Write `all.item` and one `.npy` of features a file, under names that all tools take.

    Items without a frame are left out, since fastabx refuses them.
    """
    from gslm.eval.abx_items import frame_spans, read_items

    items = read_items(item)
    random = np.random.default_rng(0)
    firsts, ends = frame_spans(items.onsets, items.offsets, FRAME_RATE, "librilight")
    phones, phone = np.unique(items.columns["phone"], return_inverse=True)
    means = random.standard_normal((len(phones) + 1, dim)).astype(np.float32)
    lines, seconds = ["#file onset offset #phone prev-phone next-phone speaker"], 0.0
    for number, name in enumerate(random.permutation(np.unique(items.files)).tolist()):
        if minutes and seconds > 60 * minutes:
            break
        of_file = np.flatnonzero((items.files == name) & (ends > firsts))
        n_frames = int(ends[items.files == name].max()) + 2
        spoken = np.full(n_frames, len(phones))
        for i in of_file:
            third = (ends[i] - firsts[i]) // 3
            spoken[firsts[i] + third : ends[i] - third] = phone[i]
            labels = [items.columns[c][i] for c in ("phone", "prev-phone", "next-phone", "speaker")]
            # Amid a frame, lest binary and decimal arithmetic cut differently at its centre.
            times = f"{(firsts[i] + 0.25) / FRAME_RATE:.4f} {(ends[i] + 0.75) / FRAME_RATE:.4f}"
            lines.append(f"f{number:05} {times} {' '.join(labels)}")
        features = means[spoken] + 3 * random.standard_normal((n_frames, dim), dtype=np.float32)
        features[1:-1] = (features[:-2] + features[1:-1] + features[2:]) / 3
        np.save(folder / f"f{number:05}.npy", features)
        seconds += n_frames / FRAME_RATE
    (folder / "all.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(
        f"{seconds / 60:.1f} minutes in {len(list(folder.glob('*.npy')))} files, "
        f"{len(lines) - 1} items, {dim} dimensions at {FRAME_RATE} Hz",
        flush=True,
    )


def worker(tool: str, folder: Path, rounds: int, threads: int) -> None:
    """Score with one tool and print the times, errors and peak memory as JSON."""
    import torch

    torch.set_num_threads(threads)
    score = {"gslm": ours, "fastabx": fastabx, "zerospeech-libriabx2": libriabx2}[tool](folder)
    seconds = dict.fromkeys(SPEAKERS, float("inf"))
    error = {}
    for _ in range(rounds):
        for speaker in SPEAKERS:
            start = time.perf_counter()
            error[speaker] = score(speaker)
            seconds[speaker] = min(seconds[speaker], time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": seconds, "error": error, "memory": memory}))


Score = Callable[[str], float]
"""Error rate of a speaker condition."""


def ours(folder: Path) -> Score:
    """Score with gslm; the scorer is made anew each time."""
    from gslm.eval.abx import AbxScorer, phone_task
    from gslm.eval.abx_items import read_items, slice_features

    items = read_items(folder / "all.item")
    tokens = slice_features(
        items,
        lambda name: np.load(folder / f"{name}.npy"),
        frame_rate=FRAME_RATE,
        slicing="librilight",
    )
    return lambda speaker: AbxScorer(items, phone_task(speaker))(tokens).error_rate


def fastabx(folder: Path) -> Score:
    """Score with fastabx: its task and its score."""
    import torch
    from fastabx import Dataset, Score, Task

    def read(path: Path) -> torch.Tensor:
        return torch.from_numpy(np.load(path))

    dataset = Dataset.from_item(
        folder / "all.item", folder, FRAME_RATE, feature_maker=read, extension=".npy"
    )
    context = ["prev-phone", "next-phone"]

    def score(speaker: str) -> float:
        by = [*context, "speaker"] if speaker == "within" else context
        across = None if speaker == "within" else ["speaker"]
        task = Task(dataset, on="#phone", by=by, across=across)
        found = Score(task, "angular")
        return float(found.collapse(levels=[("next-phone", "prev-phone"), "speaker"]))

    return score


def libriabx2(folder: Path) -> Score:
    """Score with zerospeech-libriabx2, which is handed the features that its own loader read."""
    import torch
    from zrc_abx2 import eval_ABX
    from zrc_abx2.ABX_src.models import Pooling

    def read(path: str) -> torch.Tensor:
        return torch.from_numpy(np.load(path))

    item = str(folder / "all.item")
    files = [(path.stem, str(path)) for path in sorted(folder.glob("*.npy"))]
    loader = eval_ABX.ABXFeatureLoader(Pooling.NONE, item, files, read, FRAME_RATE, True)
    loaded = loader.loadFromFileData()

    eval_ABX.ABXFeatureLoader = lambda *_: SimpleNamespace(loadFromFileData=lambda: loaded)
    return lambda speaker: eval_ABX.EvalABX()._ABX(
        Pooling.NONE, 0, read, item, files, "cosine", FRAME_RATE, [speaker], ["within"],
        max_x_across=ALL, max_size_group=ALL,
    )[f"{speaker}-within"]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("--worker="):
        worker(sys.argv[1].split("=")[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main()
