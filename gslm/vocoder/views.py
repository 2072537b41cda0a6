"""More unit sequences of the same audio, so that a small corpus teaches the vocoder more.

An encoder hears a recording a little differently when its frames begin a few milliseconds later,
when it is louder, or when there is some noise. Each such view gives other units for the same sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gslm.audio import SAMPLE_RATE, Waveform
from gslm.bundle import read_json, write_json
from gslm.errors import UserError
from gslm.vocoder.data import Clips
from gslm.vocoder.generator import UNIT_HOP

EncodeFrames = Callable[[Sequence[Waveform]], Sequence[NDArray[np.int32]]]
"""Clips (samples,) to unit frames each: one every 320 samples, the last one or two may lack."""

_STRETCH_FRAMES = 60 * SAMPLE_RATE // UNIT_HOP
"""Longer clips are heard in stretches of a minute, so that memory does not grow with them. What an
encoder with a context hears, and so the units, may differ at a seam from those of the whole clip:
a view is another hearing of the sound anyway."""
_GROUP_FRAMES = 600 * SAMPLE_RATE // UNIT_HOP  # as many as are read at once to make units
_GROUP_STRETCHES = 32


@dataclass(frozen=True)
class _Stretch:
    """Frames of one clip that are heard together: all of them where it is short."""

    clip: int
    """Number of the clip."""
    first: int
    """First frame, counted from the clip's."""
    n_frames: int
    """How many."""


def add_views(clips: Clips, encode: EncodeFrames, n_views: int, folder: str | Path) -> None:
    """Give `clips` that many more views; kept in `folder` for a run that goes on.

    View v of n begins v / (n + 1) of a frame later, at a random loudness between -12 and +3 dB and
    with white noise 20 to 45 dB under the speech. Raises `UserError` where the disk is full.
    """
    folder = Path(folder)
    identity = {"clips": read_json(Path(clips.folder) / "clips.json"), "n_views": n_views}
    marker, path = folder / "views.json", folder / "views.i32"
    shifts = [round(UNIT_HOP * v / (n_views + 1)) for v in range(1, n_views + 1)]
    if not (marker.is_file() and read_json(marker) == identity):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            marker.unlink(missing_ok=True)
            # A new file first: another run may have the old one mapped.
            _write_views(clips, encode, shifts, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot write ({error}); free some space, then run the command again"
            ) from None
        write_json(marker, identity)
    if shifts:
        frames = np.memmap(path, dtype=np.int32, mode="r").reshape(n_views, -1)
        clips.views = list(zip(shifts, frames, strict=True))


def _write_views(clips: Clips, encode: EncodeFrames, shifts: list[int], path: Path) -> None:
    n_frames = int(clips.starts[-1])
    with (
        path.open("wb") as file,
        tqdm(total=len(shifts) * n_frames, desc="other views", unit="frame") as bar,
    ):
        for shift in shifts:
            for group in _groups(clips):
                waveforms = [_perturbed(clips, stretch, shift) for stretch in group]
                for stretch, frames in zip(group, encode(waveforms), strict=True):
                    file.write(_filled(frames, stretch.n_frames).tobytes())
                    bar.update(stretch.n_frames)


def _filled(frames: NDArray[np.int32], n_frames: int) -> NDArray[np.int32]:
    """Repeat the last frame until there are n_frames."""
    return np.pad(np.asarray(frames, np.int32), (0, n_frames - len(frames)), mode="edge")


def _groups(clips: Clips) -> Iterator[list[_Stretch]]:
    """All clips in order, in groups of at most 32 stretches and ten minutes."""
    group: list[_Stretch] = []
    for clip, length in enumerate(clips.lengths.tolist()):
        for first in range(0, length, _STRETCH_FRAMES):
            stretch = _Stretch(clip, first, min(_STRETCH_FRAMES, length - first))
            held = sum(other.n_frames for other in group)
            if len(group) == _GROUP_STRETCHES or held + stretch.n_frames > _GROUP_FRAMES:
                yield group
                group = []
            group.append(stretch)
    if group:
        yield group


def _perturbed(clips: Clips, stretch: _Stretch, shift: int) -> Waveform:
    """A stretch begun `shift` samples later, at another loudness, with some noise."""
    # Trailing zeros do not count: a clip's first stretch draws what [clip, shift] would.
    rng = np.random.default_rng([stretch.clip, shift, stretch.first])
    first = (int(clips.starts[stretch.clip]) + stretch.first) * UNIT_HOP
    waveform = np.zeros(stretch.n_frames * UNIT_HOP, dtype=np.float32)
    end = min(first + shift + len(waveform), int(clips.starts[stretch.clip + 1]) * UNIT_HOP)
    sound = clips.audio[first + shift : end] / np.float32(32767)
    waveform[: len(sound)] = sound
    gain = 10 ** (rng.uniform(-12, 3) / 20)
    level = float(np.sqrt(np.mean(waveform**2)) * 10 ** (-rng.uniform(20, 45) / 20))
    noisy = waveform + level * rng.standard_normal(len(waveform), dtype=np.float32)
    return np.clip(gain * noisy, -1, 1).astype(np.float32)
