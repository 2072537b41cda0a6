"""Where speech begins and ends in a recording, by its energy over the recording's noise floor.

Levels of 10 ms frames go into a table of one row a decibel, so that one reading is enough and
memory does not grow with the recording.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gslm.audio import SAMPLE_RATE
from gslm.errors import UserError

FRAME = SAMPLE_RATE // 100
"""Samples of a frame whose level is measured."""

_LOWEST = -100  # dB under full scale; digital silence counts as this
_FLOOR_SHARE = 0.05  # so many frames are under the noise floor,
_LOUD_SHARE = 0.95  # and so many under the loud ones
_OVER_FLOOR = 8  # dB over the floor from which a frame is speech,
_UNDER_LOUD = (40, 15)  # but at least and at most so many dB under the loud frames
_LEAST_RUN = 3  # frames in a row: a click is no speech
_BEFORE = 10  # frames kept before the first of speech: soft consonants
_AFTER = 20  # frames kept after the last: sounds that die away


class Stretch(NamedTuple):
    """A part of a recording."""

    first: int
    """First sample at 16 kHz."""
    end: int
    """Sample after the last."""


def speech_stretch(blocks: Iterable[NDArray[np.float32]]) -> Stretch:
    """The stretch from shortly before the first speech to shortly after the last.

    blocks: float32 (samples,) at 16 kHz in order. Nothing within the stretch is taken out. A
    recording without anything over its noise floor, as silence or even noise, is kept whole.
    Raises `UserError` where there are no samples.
    """
    levels = _Levels()
    pending = np.zeros(0, np.float32)
    n_samples = 0
    for block in blocks:
        n_samples += len(block)
        pending = np.concatenate([pending, block])
        whole = len(pending) - len(pending) % FRAME
        levels.add(pending[:whole].reshape(-1, FRAME))
        pending = pending[whole:]
    if n_samples == 0:
        raise UserError("no samples to look for speech in; give at least one")
    first, last = levels.speech()
    if first < 0:
        return Stretch(0, n_samples)
    return Stretch(max(0, first - _BEFORE) * FRAME, min(n_samples, (last + 1 + _AFTER) * FRAME))


class _Levels:
    """How many frames have each level, and where runs of at least each level begin and end."""

    def __init__(self) -> None:
        self.n_frames = 0
        self.counts = np.zeros(1 - _LOWEST, np.int64)
        self.first = np.full(1 - _LOWEST, np.iinfo(np.int64).max)
        self.last = np.full(1 - _LOWEST, -1)
        self._before = np.zeros(0, np.int64)

    def add(self, frames: NDArray[np.float32]) -> None:
        """Count frames (n, FRAME) that follow those of the call before."""
        power = np.square(frames, dtype=np.float64).mean(axis=1)
        decibels = 10 * np.log10(np.maximum(power, 10.0 ** (_LOWEST / 10)))
        rows = np.clip(np.round(decibels), _LOWEST, 0).astype(np.int64) - _LOWEST
        self.counts += np.bincount(rows, minlength=len(self.counts))
        joined = np.concatenate([self._before, rows])
        start = self.n_frames - len(self._before)
        if len(joined) >= _LEAST_RUN:
            # A run of three frames is as loud as its softest.
            runs = np.lib.stride_tricks.sliding_window_view(joined, _LEAST_RUN).min(axis=1)
            places = start + np.arange(len(runs))
            np.minimum.at(self.first, runs, places)
            np.maximum.at(self.last, runs, places + _LEAST_RUN - 1)
        self.n_frames += len(rows)
        self._before = joined[-(_LEAST_RUN - 1) :]

    def speech(self) -> tuple[int, int]:
        """First and last frame of speech; (-1, -1) where there is none."""
        if self.n_frames == 0:
            return -1, -1
        below = np.cumsum(self.counts) / self.n_frames
        floor = int(np.searchsorted(below, _FLOOR_SHARE))
        loud = int(np.searchsorted(below, _LOUD_SHARE))
        lowest, highest = loud - _UNDER_LOUD[0], loud - _UNDER_LOUD[1]
        threshold = min(max(floor + _OVER_FLOOR, lowest, 1), max(highest, 1))
        if threshold <= floor or self.last[threshold:].max() < 0:
            return -1, -1
        return int(self.first[threshold:].min()), int(self.last[threshold:].max())
