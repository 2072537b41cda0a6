"""Files that say which phone is spoken when: `phones.tsv`, read clip by clip.

Tab-separated UTF-8 with a header:

    id	onset	offset	phone	speaker
    rms/rms-001	0.0000	0.1760	SIL	rms
    rms/rms-001	0.1760	0.3420	DH	rms

`id` is the clip's path below its audio folder, with or without the file's suffix; onset and offset
are seconds; the last column may be missing. The rows of a clip stand together, in order, and do not
overlap; what lies between them is unlabelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gslm.audio import clip_id
from gslm.bundle import write_atomically
from gslm.errors import UserError

SILENCE = "SIL"
"""Name of silence in a label file."""

_HEADER = ("id", "onset", "offset", "phone")
_PAST_END_S = 0.02  # aligners round to their own frames


@dataclass(frozen=True)
class ClipPhones:
    """The phones of one clip, in order."""

    id: str
    """Path below the audio folder, without suffix."""
    names: list[str]
    """Phone names (n,)."""
    onsets: NDArray[np.float64]
    """Where each phone begins, in seconds (n,)."""
    offsets: NDArray[np.float64]
    """Where each phone ends, in seconds (n,)."""
    speaker: str = ""
    """Who speaks; empty where unknown."""


@dataclass(frozen=True)
class _Place:
    """Where a clip's rows lie in the file."""

    start: int
    """First byte."""
    length: int
    """Bytes."""
    speaker: str
    """The clip's speaker."""


class _Row(NamedTuple):
    """One line of a label file."""

    id: str
    spelled: str
    """The id as the file has it, perhaps with a suffix."""
    onset: float
    offset: float
    name: str
    speaker: str


class PhoneLabels:
    """A checked label file; phones are read from disk when asked for, clip by clip."""

    def __init__(self, path: Path, places: dict[str, _Place], phones: list[str]) -> None:
        """Use `PhoneLabels.open`."""
        self.path = path
        self.phones = phones
        """Names of all phones in the file, sorted."""
        self._places = places

    @classmethod
    def open(cls, path: str | Path) -> PhoneLabels:
        """Check a whole label file and note where each clip's rows lie.

        Raises `UserError` with the line's number for a damaged row, times that run backwards or
        overlap, and a clip whose rows do not stand together.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return cls(path, *_scan(path, file))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; name a file of phone labels") from None
        except OSError as error:
            raise UserError(f"{path}: not readable ({error.strerror or error})") from None

    @property
    def ids(self) -> list[str]:
        """Clips in the order of the file."""
        return list(self._places)

    @property
    def speakers(self) -> list[str]:
        """All speakers, sorted; the empty name where a clip has none."""
        return sorted({place.speaker for place in self._places.values()})

    def __contains__(self, id_: str) -> bool:
        return clip_id(id_) in self._places

    def clip(self, id_: str) -> ClipPhones:
        """Phones of a clip, by its id with or without suffix."""
        key = clip_id(id_)
        place = self._places[key]
        with self.path.open("rb") as file:
            file.seek(place.start)
            lines = file.read(place.length).decode("utf-8").split("\n")
        rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
        times = np.array([[float(row[1]), float(row[2])] for row in rows])
        names = [row[3].strip() for row in rows]
        return ClipPhones(key, names, times[:, 0], times[:, 1], place.speaker)

    def require_inside(self, clip: ClipPhones, seconds: float) -> None:
        """Raise a `UserError` where the labels of a clip end past its audio's end."""
        if clip.offsets[-1] > seconds + _PAST_END_S:
            raise UserError(
                f"{self.path}: phones of {clip.id} end at {clip.offsets[-1]:.3f} s, but its audio "
                f"lasts {seconds:.3f} s; use the audio that was labelled"
            )


def write_phone_labels(path: str | Path, clips: Iterable[ClipPhones]) -> None:
    """Write a label file, times rounded to 0.1 ms, atomically."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join([*_HEADER, "speaker"]) + "\n")
            for clip in clips:
                for name, on, off in zip(clip.names, clip.onsets, clip.offsets, strict=True):
                    file.write(f"{clip.id}\t{on:.4f}\t{off:.4f}\t{name}\t{clip.speaker}\n")

    write_atomically(path, write)


def frame_phones(
    clip: ClipPhones, n_frames: int, frame_rate: float, phones: Sequence[str]
) -> NDArray[np.int64]:
    """The phone at each frame's centre.

    n_frames, frame_rate: the frames, of which frame i lasts from i / frame_rate to
    (i + 1) / frame_rate. phones: names, all of the clip's among them. Returns indices into
    `phones`, (n_frames,); -1 where nothing is labelled.
    """
    numbers = {name: index for index, name in enumerate(phones)}
    named = np.array([numbers[name] for name in clip.names])
    centres = (np.arange(n_frames) + 0.5) / frame_rate
    nearest = np.searchsorted(clip.onsets, centres, side="right") - 1
    inside = (nearest >= 0) & (centres < clip.offsets[nearest])
    return np.where(inside, named[nearest], -1)


def _scan(path: Path, file: BinaryIO) -> tuple[dict[str, _Place], list[str]]:
    """Places of all clips, and the names of all phones, sorted."""
    places: dict[str, _Place] = {}
    phones: set[str] = set()
    key, spelled, speaker, start, last_offset, position = "", "", "", 0, 0.0, 0
    for number, line in enumerate(file, start=1):
        before, position = position, position + len(line)
        where = f"{path}:{number}"
        cells = _cells(line, where)
        if number == 1:
            _check_header(cells, path)
        if number == 1 or not any(cells):
            continue
        row = _row(cells, where)
        if row.id != key:
            if row.id in places:
                raise UserError(f"{where}: rows of {row.id} do not stand together; sort them")
            key, spelled, speaker = row.id, row.spelled, row.speaker
            start, last_offset = before, 0.0
        if row.spelled != spelled:
            raise UserError(f"{where}: {spelled} and {row.spelled} are both {key}; rename one")
        if row.onset < last_offset:
            raise UserError(
                f"{where}: begins at {row.onset:g} s, before the last phone ends "
                f"({last_offset:g} s); put a clip's phones in order"
            )
        if row.speaker != speaker:
            raise UserError(f"{where}: {key} has two speakers; give each its own clip")
        places[key] = _Place(start, position - start, speaker)
        last_offset = row.offset
        phones.add(row.name)
    if not places:
        raise UserError(f"{path}: holds no phones; expected columns {' '.join(_HEADER)}")
    return places, sorted(phones)


def _cells(line: bytes, where: str) -> list[str]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from None
    return [cell.strip() for cell in text.removeprefix("\ufeff").split("\t")]


def _check_header(cells: list[str], path: Path) -> None:
    if tuple(cells[:4]) != _HEADER:
        raise UserError(
            f"{path}:1: expected the header {' '.join(_HEADER)} [speaker], separated by tabs"
        )


def _row(cells: list[str], where: str) -> _Row:
    if len(cells) not in (4, 5) or not cells[0] or not cells[3]:
        raise UserError(f"{where}: expected id, onset, offset, phone and speaker between tabs")
    try:
        onset, offset = float(cells[1]), float(cells[2])
    except ValueError:
        raise UserError(f"{where}: onset and offset must be numbers of seconds") from None
    if not (math.isfinite(offset) and 0 <= onset < offset):
        raise UserError(
            f"{where}: a phone from {onset:g} to {offset:g} s; it must end after it begins"
        )
    speaker = cells[4] if len(cells) == 5 else ""
    return _Row(clip_id(cells[0]), cells[0], onset, offset, cells[3], speaker)
