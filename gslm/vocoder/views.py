"""More unit sequences of the same audio, so that a small corpus teaches the vocoder more.

An encoder hears a recording a little differently when its frames begin a few milliseconds later,
when it is louder, or when there is some noise. Each such view gives other units for the same sound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gslm.audio import Waveform
from gslm.bundle import read_json, write_json
from gslm.errors import UserError
from gslm.vocoder.data import Clips
from gslm.vocoder.generator import UNIT_HOP

EncodeFrames = Callable[[Sequence[Waveform]], Sequence[NDArray[np.int32]]]
"""Clips (samples,) to unit frames (ceil(samples / 320),) each."""

_BATCH_CLIPS = 32


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
    numbers = range(len(clips.lengths))
    groups = [numbers[i : i + _BATCH_CLIPS] for i in range(0, len(numbers), _BATCH_CLIPS)]
    with (
        path.open("wb") as file,
        tqdm(total=len(shifts) * len(numbers), desc="other views", unit="clip") as bar,
    ):
        for shift in shifts:
            for group in groups:
                waveforms = [_perturbed(clips, index, shift) for index in group]
                for frames in encode(waveforms):
                    file.write(np.asarray(frames, dtype=np.int32).tobytes())
                bar.update(len(group))


def _perturbed(clips: Clips, index: int, shift: int) -> Waveform:
    """A clip begun `shift` samples later, at another loudness, with some noise."""
    rng = np.random.default_rng([index, shift])
    first, last = clips.starts[index] * UNIT_HOP, clips.starts[index + 1] * UNIT_HOP
    waveform = np.zeros(last - first, dtype=np.float32)
    waveform[: len(waveform) - shift] = clips.audio[first + shift : last] / np.float32(32767)
    gain = 10 ** (rng.uniform(-12, 3) / 20)
    level = float(np.sqrt(np.mean(waveform**2)) * 10 ** (-rng.uniform(20, 45) / 20))
    noisy = waveform + level * rng.standard_normal(len(waveform), dtype=np.float32)
    return np.clip(gain * noisy, -1, 1).astype(np.float32)
