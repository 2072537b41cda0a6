"""How unit sequences use their vocabulary, and what units say of phones: figures and a report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gslm.bundle import write_atomically
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.types import Fingerprint, Units
from gslm.units.inertia import Inertia
from gslm.units.phone_agreement import Agreement, entropy_bits


@dataclass(frozen=True)
class UnitUsage:
    """Counts over a set of recordings."""

    fingerprint: Fingerprint
    """What made the units."""
    frames: NDArray[np.int64]
    """Frames of each unit, (K,)."""
    runs: NDArray[np.int64]
    """Runs of each unit, (K,)."""
    run_lengths: NDArray[np.int64]
    """Number of runs of 0, 1, 2, … frames; the last entry counts all longer ones."""
    has_durations: bool = True
    """Whether frames are known; without durations each unit counts as one, and no rate is told."""

    @property
    def n_used(self) -> int:
        """Units that occur."""
        return int((self.frames > 0).sum())

    @property
    def frame_entropy(self) -> float:
        """Entropy of a frame's unit, in bits."""
        return entropy_bits(self.frames)

    @property
    def run_entropy(self) -> float:
        """Entropy of a run's unit, in bits."""
        return entropy_bits(self.runs)

    @property
    def runs_per_second(self) -> float:
        """Runs in a second of audio."""
        return float(self.runs.sum() / self.frames.sum() * self.fingerprint.frame_rate)

    @property
    def bitrate(self) -> float:
        """Bits a second of de-duplicated units, each coded by itself, durations left out."""
        return self.run_entropy * self.runs_per_second

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return float(self.frames.sum() / self.fingerprint.frame_rate)


_LONGEST = 50


@dataclass(frozen=True)
class Inspection:
    """All that is known of a corpus' units."""

    usage: UnitUsage
    """Counts."""
    agreement: Agreement | None = None
    """What units say of phones, where there are labels."""
    inertia: Inertia | None = None
    """How far frames lie from their centroids, where audio and encoder were at hand."""


def corpus_usage(corpus: Corpus) -> UnitUsage:
    """Count over a corpus, also one of unknown durations; `UserError` where it is empty."""
    usage = unit_usage(corpus.units(row) for row in corpus.rows())
    return replace(usage, has_durations=corpus.source.get("durations") != "unknown")


def unit_usage(sequences: Iterable[Units]) -> UnitUsage:
    """Count over unit sequences, with durations or without; `UserError` where all are empty."""
    fingerprint: Fingerprint | None = None
    frames = runs = np.zeros(0, np.int64)
    run_lengths = np.zeros(_LONGEST + 1, np.int64)
    for sequence in sequences:
        units = sequence.deduplicated()
        if fingerprint is None:
            fingerprint = units.fingerprint
            frames = np.zeros(fingerprint.vocabulary_size, np.int64)
            runs = np.zeros_like(frames)
        assert units.durations is not None
        np.add.at(frames, units.ids, units.durations)
        runs += np.bincount(units.ids, minlength=len(runs))
        capped = np.minimum(units.durations, _LONGEST)
        run_lengths += np.bincount(capped, minlength=_LONGEST + 1)
    if fingerprint is None or frames.sum() == 0:
        raise UserError("no units to inspect; the corpus is empty")
    return UnitUsage(fingerprint, frames, runs, run_lengths)


def report(inspection: Inspection, top: int = 10) -> str:
    """The figures as text, one a line, then the `top` most frequent units."""
    usage = inspection.usage
    total = usage.frames.sum()
    lines = [f"{name:10} {figure}" for name, figure in figures(inspection)]
    if not usage.has_durations:
        lines.append("most used  unit  share of units")
        lines += [
            f"           {unit:4d}  {usage.frames[unit] / total:14.2%}"
            for unit in most_used(usage)[:top]
        ]
        return "\n".join(lines)
    lengths = "  ".join(
        f"{n}{'+' if n == 8 else ''}:{share:.0%}" for n, share in _run_length_shares(usage, 8)
    )
    lines.append(f"run length {lengths}")
    lines.append("most used  unit  share of frames  frames a run")
    for unit in most_used(usage)[:top]:
        share = usage.frames[unit] / total
        lines.append(
            f"           {unit:4d}  {share:15.2%}  {usage.frames[unit] / usage.runs[unit]:12.1f}"
        )
    return "\n".join(lines)


def figures(inspection: Inspection) -> list[tuple[str, str]]:
    """Names and figures, the maker of the units first."""
    agreement, inertia = inspection.agreement, inspection.inertia
    found = _usage_figures(inspection.usage)
    if inertia is not None:
        missing = f", {inertia.n_missing} files missing" if inertia.n_missing else ""
        found.append(
            (
                "inertia",
                f"{inertia.per_frame:.4g} a frame, {1 - inertia.explained:.1%} of the variance "
                f"({inertia.n_frames} frames{missing})",
            )
        )
    if agreement is not None:
        counts = agreement.all
        found += [
            (
                "PNMI",
                f"{counts.pnmi:.3f} ({counts.mutual_information:.2f} of the phones' "
                f"{counts.phone_entropy:.2f} bits)",
            ),
            (
                "purity",
                f"{counts.phone_purity:.3f} of phones, {counts.cluster_purity:.3f} of clusters "
                f"({counts.n_frames} frames in {agreement.n_clips} labelled clips)",
            ),
        ]
    return found


def _usage_figures(usage: UnitUsage) -> list[tuple[str, str]]:
    n_runs, k = usage.runs.sum(), usage.fingerprint.vocabulary_size
    most = f"(at most {np.log2(k):.2f})"
    made, in_use = ("units", f"{usage.fingerprint}"), ("in use", f"{usage.n_used} of {k}")
    if not usage.has_durations:
        return [
            made,
            ("audio", f"{n_runs} runs of unknown durations, so no figure a second or a frame"),
            in_use,
            ("entropy", f"{usage.run_entropy:.2f} bits a run {most}"),
        ]
    total = usage.frames.sum()
    entropies = f"{usage.frame_entropy:.2f} bits a frame, {usage.run_entropy:.2f} bits a run"
    rate = f"{usage.bitrate:.0f} bits a second ({usage.runs_per_second:.1f} runs a second)"
    return [
        made,
        ("audio", f"{usage.seconds / 60:.1f} minutes, {total} frames, {n_runs} runs"),
        in_use,
        ("entropy", f"{entropies} {most}"),
        ("bitrate", rate),
        ("run", f"{total / n_runs:.2f} frames on average"),
    ]


def most_used(usage: UnitUsage) -> NDArray[np.int64]:
    """Units that occur, by falling use."""
    return np.argsort(-usage.frames, kind="stable")[: usage.n_used]


def draw(usage: UnitUsage, path: str | Path) -> None:
    """Draw use by rank and, where they are known, run lengths as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, *right = figure.subplots(1, 1 + usage.has_durations, squeeze=False)[0]
    left.plot(np.sort(usage.frames)[::-1] / usage.frames.sum() * 100)
    counted = "frames" if usage.has_durations else "units"
    left.set(xlabel="unit, by rank", ylabel=f"share of {counted} (%)", title="Use of units")
    shares = usage.run_lengths / usage.run_lengths.sum() * 100
    width = 750 / usage.fingerprint.frame_rate
    for axes in right:
        lengths = np.arange(1, _LONGEST + 1) / usage.fingerprint.frame_rate * 1000
        axes.bar(lengths, shares[1:], width)
        axes.set(xlabel="length of a run (ms)", ylabel="share of runs (%)", title="Run lengths")
    write_atomically(path, lambda target: figure.savefig(target, format="png", dpi=120))


def _run_length_shares(usage: UnitUsage, last: int) -> list[tuple[int, float]]:
    counts = [*usage.run_lengths[1:last].tolist(), int(usage.run_lengths[last:].sum())]
    total = sum(counts)
    return [(n + 1, count / total) for n, count in enumerate(counts)]
