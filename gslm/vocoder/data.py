"""Clips for training: the corpus' audio, pitch and unit frames, mapped from disk."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gslm.audio import SAMPLE_RATE, Waveform
from gslm.bundle import read_json, write_json
from gslm.corpus import Corpus, CorpusRow
from gslm.errors import UserError
from gslm.types import Fingerprint
from gslm.vocoder.generator import FINE_HOP, UNIT_HOP
from gslm.vocoder.pitch_tracker import track_pitch

_FINE_PER_UNIT = UNIT_HOP // FINE_HOP


@dataclass(frozen=True)
class Crops:
    """A batch cut from clips; all share one length."""

    units: Tensor
    """Unit frames int64 (batch, frames); n_units beyond a clip's end."""
    f0: Tensor
    """Pitch in Hz (batch, 2 * frames), 0 where unvoiced."""
    audio: Tensor
    """Samples (batch, 320 * frames)."""

    def to(self, device: torch.device) -> Crops:
        """The same crops on a device."""
        return Crops(self.units.to(device), self.f0.to(device), self.audio.to(device))


class Clips:
    """All clips of a corpus, one after the other in files that are mapped, not loaded."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Use `prepare_clips`."""
        self.folder = folder
        self.fingerprint = Fingerprint.from_json(about["fingerprint"], str(folder))
        self.n_units = self.fingerprint.vocabulary_size
        self.audio = np.memmap(folder / "audio.i16", dtype=np.int16, mode="r")
        self.f0 = np.memmap(folder / "pitch.f32", dtype=np.float32, mode="r")
        self.units = np.memmap(folder / "units.i32", dtype=np.int32, mode="r")
        self.lengths = np.load(folder / "lengths.npy")
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.held_out = np.load(folder / "held_out.npy")
        self.views: list[tuple[int, NDArray[np.int32]]] = []
        """Other unit frames of the same audio, each with the samples by which it begins later."""

    def select(self, held_out: bool) -> NDArray[np.int64]:
        """Numbers of the clips of one side of the split."""
        return np.flatnonzero(self.held_out == held_out)

    def sample(
        self,
        chosen: NDArray[np.int64],
        batch_size: int,
        n_frames: int,
        rng: np.random.Generator,
        any_view: bool = False,
    ) -> Crops:
        """Crops of n_frames unit frames at random places, longer clips more often.

        chosen: clip numbers to draw from. any_view: draw one of the audio's views for each crop.
        Clips shorter than a crop are padded.
        """
        weights = self.lengths[chosen] / self.lengths[chosen].sum()
        picked = rng.choice(chosen, size=batch_size, p=weights)
        places = [
            (int(i), int(rng.integers(0, max(1, self.lengths[i] - n_frames + 1))), 0)
            for i in picked
        ]
        if any_view and self.views:
            drawn = rng.integers(0, len(self.views) + 1, size=batch_size)
            places = [
                (i, offset, int(view)) for (i, offset, _), view in zip(places, drawn, strict=True)
            ]
        return self._stack(places, n_frames)

    def _stack(self, places: list[tuple[int, int, int]], n_frames: int) -> Crops:
        """Crops at (clip, first frame, view); view 0 is the corpus' own."""
        units = np.full((len(places), n_frames), self.n_units, dtype=np.int64)
        f0 = np.zeros((len(places), n_frames * _FINE_PER_UNIT), dtype=np.float32)
        audio = np.zeros((len(places), n_frames * UNIT_HOP), dtype=np.float32)
        for row, (index, offset, view) in enumerate(places):
            shift, frames = self.views[view - 1] if view else (0, self.units)
            count = min(n_frames, int(self.lengths[index]) - offset)
            first, end = int(self.starts[index]) + offset, int(self.starts[index + 1])
            units[row, :count] = frames[first : first + count]
            fine = first * _FINE_PER_UNIT + round(shift / FINE_HOP)
            pitch = self.f0[fine : min(fine + count * _FINE_PER_UNIT, end * _FINE_PER_UNIT)]
            f0[row, : len(pitch)] = pitch
            sample = first * UNIT_HOP + shift
            samples = self.audio[sample : min(sample + count * UNIT_HOP, end * UNIT_HOP)]
            audio[row, : len(samples)] = samples / 32767.0
        return Crops(torch.from_numpy(units), torch.from_numpy(f0), torch.from_numpy(audio))


def prepare_clips(corpus: Corpus, audio_root: str | Path, folder: str | Path) -> Clips:
    """Decode the corpus' audio once and track its pitch; reuse what an earlier run prepared.

    folder: receives about 140 MB an hour of audio. Raises `UserError` where audio is missing or
    is not what was encoded, where the corpus is empty, and where the disk is full.
    """
    if not corpus.n_frames:
        raise UserError(f"{corpus.folder}: holds no recordings; encode some audio first")
    if corpus.fingerprint.frame_rate != SAMPLE_RATE / UNIT_HOP:
        raise UserError(
            f"{corpus.folder}: has units at {corpus.fingerprint.frame_rate:g} Hz, but a vocoder "
            f"speaks units at {SAMPLE_RATE / UNIT_HOP:g} Hz; encode with another encoder"
        )
    folder = Path(folder)
    identity = read_json(corpus.folder / "corpus.json")
    marker = folder / "clips.json"
    if marker.is_file() and read_json(marker) == identity:
        return Clips(folder, identity)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without its marker a folder counts for nothing: what is interrupted starts again.
        marker.unlink(missing_ok=True)
        _write_clips(corpus, audio_root, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the prepared clips ({error}); free some space or choose "
            "another folder, then run the same command again"
        ) from None
    write_json(marker, identity)
    return Clips(folder, identity)


def _write_clips(corpus: Corpus, audio_root: str | Path, folder: Path) -> None:
    lengths, held_out = [], []
    # New files under other names first: another run may have the old ones mapped.
    names = ("audio.i16", "pitch.f32", "units.i32")
    with ExitStack() as stack:
        audio_file, pitch_file, units_file = (
            stack.enter_context((folder / f"{name}.new").open("wb")) for name in names
        )
        for row in tqdm(corpus.rows(), total=corpus.n_rows, desc="audio and pitch", unit="clip"):
            waveform = corpus.waveform(row, audio_root)
            frames = corpus.units(row).expanded().ids
            waveform = _fitted(waveform, row, len(frames) * UNIT_HOP)
            # Resampling may overshoot full scale a little, and would wrap around.
            samples = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)
            audio_file.write(samples.tobytes())
            pitch_file.write(track_pitch(waveform).tobytes())
            units_file.write(frames.astype(np.int32).tobytes())
            lengths.append(len(frames))
            held_out.append(corpus.is_held_out(row.id))
    for name in names:
        (folder / f"{name}.new").replace(folder / name)
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    np.save(folder / "held_out.npy", np.array(held_out, dtype=bool))


def _fitted(waveform: Waveform, row: CorpusRow, n_samples: int) -> Waveform:
    """The recording's samples under its units: filled with silence, or what follows cut off.

    Encoders without padding, such as HuBERT, give up to two frames fewer than the samples fill. A
    larger difference, or one to the samples that were encoded, means another recording; where
    imported units did not say how many there were, their corpus has as many as the units span.
    """
    missing = n_samples - len(waveform)
    known = row.n_samples != n_samples
    if not -2 * UNIT_HOP < missing < UNIT_HOP or (known and len(waveform) != row.n_samples):
        raise UserError(
            f"{row.id}: has {len(waveform)} samples but its units span {n_samples}; "
            "the audio changed after it was encoded: encode it again"
        )
    return np.pad(waveform[:n_samples], (0, max(0, missing)))
