"""What smoothing saves and costs: units and bits a second, and PNMI, penalty by penalty.

    python benchmarks/smoothing_curve.py UNITS AUDIO PHONES.tsv [--penalties 0 0.5 1 2]

UNITS is a folder that `gslm units fit` wrote, AUDIO the recordings, PHONES.tsv their phone labels
(`gslm eval make abx` writes both). Units are de-duplicated; a bit is the entropy of one unit by
itself. PNMI is the share of the phones' entropy that the frames' units tell (HuBERT, section IV).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import gslm.units
from gslm.audio import find_audio
from gslm.types import deduplicate
from gslm.units.chunking import encode_clips
from gslm.units.phone_agreement import PhoneCounts, entropy_bits
from gslm.units.phone_labels import PhoneLabels, frame_phones
from gslm.units.quantizers.smoothing import smooth, spacing
from gslm.units.recordings import clip_groups
from gslm.units.unit_encoder import UnitEncoder

PENALTIES = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("units", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("phones", type=Path)
    parser.add_argument("--penalties", type=float, nargs="+", default=PENALTIES)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = gslm.units.load(arguments.units).smoothed(0)
    labels = PhoneLabels.open(arguments.phones)
    curve = [Point(p, encoder.n_units, tuple(labels.phones)) for p in arguments.penalties]
    n_frames = _count(encoder, arguments.audio, labels, curve)
    seconds = n_frames / encoder.fingerprint.frame_rate
    print(f"{encoder.fingerprint}; {seconds / 60:.1f} minutes")
    print("penalty  units/s  change  bits/s    PNMI   change  seconds to smooth")
    for point in curve:
        rate, score = point.runs.sum() / seconds, point.phones.pnmi
        first_rate, first_score = curve[0].runs.sum() / seconds, curve[0].phones.pnmi
        print(
            f"{point.penalty:7g}  {rate:7.2f}  {rate / first_rate - 1:+6.1%}  "
            f"{rate * entropy_bits(point.runs):6.1f}  {score:.4f}  {score - first_score:+.4f}  "
            f"{point.seconds:7.1f}"
        )


class Point:
    """What one penalty gives."""

    def __init__(self, penalty: float, n_units: int, phones: tuple[str, ...]) -> None:
        self.penalty = penalty
        self.phones = PhoneCounts(phones, np.zeros((n_units, len(phones)), np.int64))
        """Frames of each unit and phone."""
        self.runs = np.zeros(n_units, np.int64)
        """Runs of each unit."""
        self.seconds = 0.0
        """Time that smoothing took."""

    def add(self, frames: torch.Tensor, phones: np.ndarray, centroids: torch.Tensor) -> None:
        """Smooth the frames (n, dim) of a clip and count them; phones (n,) or -1."""
        started = time.perf_counter()
        runs = list(smooth([frames], centroids, self.penalty * spacing(centroids)))
        self.seconds += time.perf_counter() - started
        ids, durations = deduplicate(*(np.concatenate(part) for part in zip(*runs, strict=True)))
        self.runs += np.bincount(ids, minlength=len(self.runs))
        known = phones >= 0
        np.add.at(self.phones.counts, (np.repeat(ids, durations)[known], phones[known]), 1)


def _count(encoder: UnitEncoder, root: Path, labels: PhoneLabels, curve: list[Point]) -> int:
    """Count all labelled clips into the curve's points; returns the number of frames."""
    n_frames = 0
    rate = encoder.fingerprint.frame_rate
    ids = [id_ for id_ in find_audio(root) if id_ in labels]
    for group in clip_groups(root, ids, []):
        clips = [clip for clip in group if clip.waveform is not None]
        features = encode_clips(encoder.encoder, [clip.waveform for clip in clips])
        for clip, raw in zip(clips, features, strict=True):
            phones = frame_phones(labels.clip(clip.id), len(raw), rate, labels.phones)
            for point in curve:
                point.add(encoder.normalize(raw), phones, encoder.centroids)
            n_frames += len(raw)
    return n_frames


if __name__ == "__main__":
    main()
