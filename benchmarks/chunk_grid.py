"""How many units change where a long recording's chunks begin elsewhere.

    python benchmarks/chunk_grid.py BUNDLE RECORDINGS [--minutes 5]

Joins recordings to one, encodes it whole and without its first seconds, which moves the grid of
chunks by as much against the speech, and compares the units of the same frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import gslm.units
from gslm.audio import SAMPLE_RATE, find_audio, read_audio

FRAME_RATE = 50


def main() -> None:
    """Print the share of units that change for several moves of the grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    arguments = parser.parse_args()
    encoder = gslm.units.load(arguments.bundle)
    n_samples = round(arguments.minutes * 60 * SAMPLE_RATE)
    waveform = _joined(arguments.recordings, n_samples)
    whole = encoder.encode_many([waveform])[0].expanded().ids
    print(f"{len(whole)} frames, K = {encoder.n_units}, {encoder.encoder.name}")
    for seconds in (5.0, 2.5, 1.0):
        shorter = waveform[round(seconds * SAMPLE_RATE) :]
        moved = encoder.encode_many([shorter])[0].expanded().ids
        same_frames = whole[round(seconds * FRAME_RATE) :][: len(moved)]
        changed = (moved[: len(same_frames)] != same_frames).mean()
        print(f"moved by {seconds} s: {100 * changed:.2f} % of units change")


def _joined(folder: Path, n_samples: int) -> np.ndarray:
    parts, total = [], 0
    for id_ in find_audio(folder):
        parts.append(read_audio(folder / id_))
        total += len(parts[-1])
        if total >= n_samples:
            break
    return np.concatenate(parts)[:n_samples]


if __name__ == "__main__":
    main()
