"""Syllables without training: boundaries where a curve dips, one mean vector between two of them.

As in ZeroSyl (Visser et al., 2026) boundaries lie at prominent extremes of a smoothed curve, and
the frames between two boundaries are averaged. ZeroSyl's curve is the norm of a layer's frames,
`norm` here, of WavLM Large. Whisper's layers show syllables less there than the loudness of the
waveform does, which is there with any encoder: it is the default.

Silence is what stays a number of decibels under the recording's loud level for a while; each
stretch of it is one segment. All of it works frame by frame: how a recording is parted does not
change the result, and memory is bounded by a part and the longest segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.audio import SAMPLE_RATE, Waveform
from gslm.errors import UserError

CURVES = ("loudness", "norm")
"""Where boundaries are looked for: dips of the loudness, or peaks of the frames' norms."""

_FLOOR_DB = -100.0  # loudness of digital silence
_INAUDIBLE_DB = -75.0  # silence in any recording: a few steps of 16-bit samples
_LOUD_SHARE = 0.99  # of the frames of a recording lie below its loud level
_BINS_A_DB = 10


@dataclass(frozen=True)
class Syllables:
    """Units that are syllables: how they are found."""

    curve: str = "loudness"
    """`loudness`: boundaries at its dips; `norm`: at the peaks of the encoder's frame norms."""
    prominence: float = 1.0
    """How far the curve must rise on both sides of a boundary: in decibels for `loudness`, in
    standard deviations for `norm`, where ZeroSyl takes 0.45. Smaller gives more syllables."""
    smoothing_seconds: float = 0.06
    """Width of the moving average over the curve."""
    silence_db: float = 30.0
    """Silence is this far below the loudest percent of a recording's frames, or further."""
    silence_seconds: float = 0.1
    """Quiet stretches shorter than this, as in stops, are part of a syllable."""
    longest_seconds: float = 1.0
    """Longer syllables are cut."""
    deviation: float = 1.0
    """Standard deviation of the norms where the units were fitted; 1 for `loudness`."""

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise UserError(f"syllables: curve {self.curve!r} is unknown; choose loudness or norm")
        for name in ("prominence", "silence_db", "silence_seconds", "longest_seconds", "deviation"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(
                    f"syllables: {name} is {getattr(self, name)}; give a number above 0"
                )
        if not 0 <= self.smoothing_seconds <= 1:
            raise UserError(
                f"syllables: smoothing_seconds is {self.smoothing_seconds}; give 0 to 1 second"
            )

    def __str__(self) -> str:
        unit = "dB" if self.curve == "loudness" else f"x {self.deviation:.6g}"
        return (
            f"syllables by {self.curve} {self.prominence:g} {unit} over {self.smoothing_seconds:g} "
            f"s up to {self.longest_seconds:g} s, silence {self.silence_db:g} dB "
            f"{self.silence_seconds:g} s"
        )


class Segment(NamedTuple):
    """A stretch of a recording."""

    start: int
    """First frame."""
    end: int
    """Frame after the last."""
    silent: bool
    """Whether it is silence."""


class Pooled(NamedTuple):
    """Segments of one recording, in order and without gaps."""

    vectors: Tensor
    """Means over the segments' frames, float32 (n, dim); zeros for silence."""
    durations: NDArray[np.int32]
    """Lengths in frames (n,)."""
    silent: NDArray[np.bool_]
    """Which are silence (n,)."""


def pool_syllables(
    blocks: Callable[[], Iterable[Waveform]],
    encode: Callable[[Iterable[Waveform]], Iterable[Tensor]],
    normalize: Callable[[Tensor], Tensor],
    settings: Syllables,
    hop_length: int,
) -> Iterator[Pooled]:
    """Segments of one recording with their mean vectors, as they are found.

    blocks: called for each of two readings; gives samples (n,) at 16 kHz in order. encode: takes
    these to frames (n, dim), in any portions. normalize: takes such a portion to what is
    averaged. hop_length: samples from one frame to the next.
    """
    cutter = SyllableCutter(
        settings,
        SAMPLE_RATE / hop_length,
        loud_level(frame_loudness(blocks(), hop_length)),
    )
    heard, measured = tee(blocks())
    loudness = _Portions(frame_loudness(measured, hop_length))
    waiting = _WaitingFrames()
    for frames in encode(heard):
        decibels = loudness.take(len(frames))
        norms = torch.linalg.vector_norm(frames, dim=1).double().cpu().numpy()
        curve = decibels if settings.curve == "loudness" else -norms / settings.deviation
        waiting.append(normalize(frames).cpu())
        segments = cutter.extend(decibels, curve)
        if segments:
            yield waiting.pool(segments)
        waiting.drop_before(cutter.open_from)
    if segments := cutter.finish():
        yield waiting.pool(segments)


def frame_loudness(blocks: Iterable[Waveform], hop_length: int) -> Iterator[NDArray[np.float64]]:
    """Root mean square in dB of full scale of each `hop_length` samples, the last ones included.

    blocks: samples (n,) in order, in any portions. Yields (frames,), -100 at the least.
    """
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        n_whole = len(rest) // hop_length * hop_length
        if n_whole:
            yield _decibels(rest[:n_whole].reshape(-1, hop_length))
        rest = rest[n_whole:]
    if len(rest):
        yield _decibels(rest[None])


def loud_level(loudness: Iterable[NDArray[np.float64]]) -> float:
    """The level in dB that the loudest hundredth of a recording's frames reach, to 0.1 dB."""
    counts = np.zeros(round(-_FLOOR_DB + 20) * _BINS_A_DB, np.int64)
    for part in loudness:
        bins = ((part - _FLOOR_DB) * _BINS_A_DB).astype(np.int64)
        counts += np.bincount(bins.clip(0, len(counts) - 1), minlength=len(counts))
    below = np.cumsum(counts)
    return int(np.searchsorted(below, _LOUD_SHARE * below[-1])) / _BINS_A_DB + _FLOOR_DB


class SyllableCutter:
    """Finds the segments of one recording in its loudness and its boundary curve."""

    def __init__(self, settings: Syllables, frame_rate: float, level: float) -> None:
        """Begin a recording. frame_rate: in Hz. level: its `loud_level` in dB."""
        self._quiet_below = max(level - settings.silence_db, _INAUDIBLE_DB)
        self._width = 2 * int(settings.smoothing_seconds * frame_rate / 2) + 1
        self._n_silent = max(1, round(settings.silence_seconds * frame_rate))
        longest = max(1, round(settings.longest_seconds * frame_rate))
        self._dips = _Dips(settings.prominence, longest)
        self._unsmoothed = np.zeros((2, 0))
        self._quiet: list[float] = []  # curve of a quiet stretch too short to be silence yet
        self._silent_from: int | None = None
        self._n_seen = 0  # smoothed frames

    @property
    def open_from(self) -> int:
        """First frame that segments found later can average over."""
        return self._dips.start if self._silent_from is None else self._n_seen

    def extend(self, loudness: NDArray[np.float64], curve: NDArray[np.float64]) -> list[Segment]:
        """Go on by frames (n,): their loudness in dB and the curve that dips at boundaries."""
        values = np.stack([loudness, curve])
        if self._unsmoothed.shape[1] == 0 and values.shape[1]:
            self._unsmoothed = values[:, :1].repeat(self._width // 2, 1)
        return self._cut(self._smoothed(values))

    def finish(self) -> list[Segment]:
        """What is left at the end of the recording."""
        if not (self._n_seen or self._unsmoothed.size):
            return []
        segments = self._cut(self._smoothed(self._unsmoothed[:, -1:].repeat(self._width // 2, 1)))
        if self._silent_from is not None:
            return [*segments, Segment(self._silent_from, self._n_seen, True)]
        for value in self._quiet:
            segments += self._dips.extend(value)
        return segments + self._dips.close(self._n_seen)

    def _smoothed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The moving averages (2, n) that further values complete; the edges are repeated."""
        self._unsmoothed = np.concatenate([self._unsmoothed, values], axis=1)
        n = max(0, self._unsmoothed.shape[1] - self._width + 1)
        total = np.zeros((2, n))
        for i in range(self._width):
            total += self._unsmoothed[:, i : i + n]
        self._unsmoothed = self._unsmoothed[:, n:]
        return total / self._width

    def _cut(self, smoothed: NDArray[np.float64]) -> list[Segment]:
        segments: list[Segment] = []
        for loudness, value in smoothed.T.tolist():
            if loudness < self._quiet_below:
                self._quiet.append(value)
                if self._silent_from is None and len(self._quiet) == self._n_silent:
                    self._silent_from = self._n_seen + 1 - self._n_silent
                    segments += self._dips.close(self._silent_from)
                if self._silent_from is not None:
                    self._quiet.clear()
            else:
                if self._silent_from is not None:
                    segments.append(Segment(self._silent_from, self._n_seen, True))
                    self._silent_from = None
                    self._dips.open(self._n_seen)
                for waited in self._quiet:
                    segments += self._dips.extend(waited)
                self._quiet.clear()
                segments += self._dips.extend(value)
            self._n_seen += 1
        return segments


class _Dips:
    """Cuts a stretch of speech at the dips of a curve that have the prominence asked for.

    A dip has it if the curve rises that far on either side before it falls lower: the topographic
    prominence of scipy.signal.find_peaks on the curve upside down.
    """

    def __init__(self, prominence: float, longest: int) -> None:
        self.prominence = prominence
        self.longest = longest
        self.open(0)

    def open(self, start: int) -> None:
        """Begin a segment, and the search, at a frame."""
        self.start = self.at = start
        self.falling = False  # far enough under `high` for a dip
        self.high = -np.inf
        self.low, self.low_at = np.inf, start

    def extend(self, value: float) -> list[Segment]:
        """Go on by one frame; gives the segment that ends, if one does."""
        ended = []
        if self.at - self.start == self.longest:
            ended = self.close(self.at)
            self.open(self.at)
        if not self.falling:
            self.high = max(self.high, value)
            if value <= self.high - self.prominence:
                self.falling = True
                self.low, self.low_at = value, self.at
        elif value < self.low:
            self.low, self.low_at = value, self.at
        elif value >= self.low + self.prominence:
            ended = self.close(self.low_at)
            self.start, self.falling, self.high = self.low_at, False, value
        self.at += 1
        return ended

    def close(self, end: int) -> list[Segment]:
        """The segment that ends before a frame; none where it is empty."""
        return [Segment(self.start, end, False)] if end > self.start else []


class _Portions:
    """Takes from an iterator of arrays as many values as are wanted."""

    def __init__(self, parts: Iterator[NDArray[np.float64]]) -> None:
        self._parts = parts
        self._rest = np.zeros(0)

    def take(self, n: int) -> NDArray[np.float64]:
        """The next values (n,); the last one is repeated where they end."""
        while len(self._rest) < n:
            part = next(self._parts, None)
            if part is None:
                break
            self._rest = np.concatenate([self._rest, part])
        taken, self._rest = self._rest[:n], self._rest[n:]
        return np.pad(taken, (0, n - len(taken)), mode="edge")


class _WaitingFrames:
    """Frames that no finished segment has taken yet."""

    def __init__(self) -> None:
        self._frames = torch.zeros(0, 0)
        self._first = 0  # number of the first frame held

    def append(self, frames: Tensor) -> None:
        self._frames = torch.cat([self._frames, frames]) if len(self._frames) else frames

    def drop_before(self, frame: int) -> None:
        self._frames = self._frames[frame - self._first :]
        self._first = frame

    def pool(self, segments: list[Segment]) -> Pooled:
        """Mean vectors of segments whose frames are all here; of silence none is needed."""
        vectors = torch.zeros(len(segments), self._frames.shape[1])
        for row, segment in enumerate(segments):
            if not segment.silent:
                first = segment.start - self._first
                vectors[row] = self._frames[first : segment.end - self._first].mean(0)
        durations = np.array([segment.end - segment.start for segment in segments], np.int32)
        return Pooled(vectors, durations, np.array([segment.silent for segment in segments]))


def _decibels(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    power = np.square(rows, dtype=np.float64).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))
