"""Item files, which say where tokens of phones lie, and the frames of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gslm.errors import UserError

SLICINGS = ("centres", "librilight")
"""Which frames belong to a token: all whose centre lies in it, or, as Libri-Light's first code
had it, those without the last one."""

_ROLES = {
    "file": ("file", "file_id", "fileid", "filename", "utterance", "audio"),
    "onset": ("onset", "start", "begin"),
    "offset": ("offset", "end", "stop"),
    "phone": ("phone", "phoneme", "label", "target"),
    "prev-phone": ("prev-phone", "prev_phone", "prev", "previous", "previous-phone", "left"),
    "next-phone": ("next-phone", "next_phone", "next", "following", "right"),
    "speaker": ("speaker", "talker", "spk", "speaker_id"),
}
_NEEDED = ("file", "onset", "offset")
_FAR = 2.0**52
_MAX_UNIT = 2**31 - 1

Frames: TypeAlias = NDArray[Any]
"""Features (frames, dim) in floating point, or units (frames,) as integers."""
Features: TypeAlias = (
    Mapping[str, Frames] | Callable[[str], Frames] | Iterable[tuple[str, Iterable[Frames]]]
)
"""Frames by file: a mapping, a function, or pairs of a file and its frames in blocks, in order."""


@dataclass(frozen=True)
class Items:
    """Tokens: where they lie, and what is said of them."""

    path: str
    """Where the tokens come from, for messages."""
    files: NDArray[np.str_]
    """Each token's file, (n,), as the item file names it."""
    onsets: NDArray[np.float64]
    """Beginnings in seconds, (n,)."""
    offsets: NDArray[np.float64]
    """Ends in seconds, (n,)."""
    columns: dict[str, NDArray[np.str_]]
    """Labels by column, each (n,): `phone`, `prev-phone`, `next-phone`, `speaker`, any others."""
    lines: NDArray[np.int64]
    """Line of each token in the item file, (n,), counted from 1."""
    repeated: tuple[int, ...] = ()
    """Lines that say what one before them does: a token beside its own copy, which is no error of
    the file to zerospeech's tools."""

    def __len__(self) -> int:
        return len(self.files)

    def column(self, name: str) -> NDArray[np.str_]:
        """Labels (n,) of a column; `UserError` where there is none of the name."""
        if name not in self.columns:
            raise UserError(
                f"{self.path}: has no column {name!r}; it has {', '.join(sorted(self.columns))}"
            )
        return self.columns[name]

    def where(self, index: int) -> str:
        """File and line of a token, for messages."""
        return f"{self.path}:{self.lines[index]}"


@dataclass(frozen=True)
class Tokens:
    """The frames of every token of an item file."""

    frames: Frames
    """All frames that some token needs, each file's in order: (f, dim), or units (f,)."""
    starts: NDArray[np.int64]
    """First frame of each token, (n,)."""
    lengths: NDArray[np.int64]
    """Frames of each token, (n,); 0 where no frame's centre lies in it."""
    n_shortened: int = 0
    """Tokens that end one frame after their file does, which is let pass."""

    @property
    def discrete(self) -> bool:
        """Whether these are units."""
        return self.frames.ndim == 1

    @property
    def n_empty(self) -> int:
        """Tokens without a frame."""
        return int((self.lengths == 0).sum())


def read_items(path: str | Path) -> Items:
    """Read an item file: a header, then `file onset offset phone prev-phone next-phone speaker`.

    Columns are found by their names, in any order, separated by white space; a `#` before a name
    is passed over, and so are differences such as `prev_phone` for `prev-phone`. Times are in
    seconds. Raises `UserError` that names the first damaged line and counts the others.
    """
    lines = _lines(path)
    names = _column_names(lines[0].split() if lines else [], path)
    rows: list[list[str]] = []
    numbers: list[int] = []
    times: list[tuple[float, float]] = []
    onset, offset = names.index("onset"), names.index("offset")
    damaged: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        problem, begin, end = "", 0.0, 0.0
        if len(fields) != len(names):
            problem = f"has {len(fields)} columns where the header has {len(names)}"
        else:
            begin, end = _seconds(fields[onset]), _seconds(fields[offset])
            if not 0 <= begin <= end < float("inf"):
                problem = f"runs from {fields[onset]!r} to {fields[offset]!r} seconds"
        if problem:
            damaged.append(f"{path}:{number}: {problem}")
        rows.append(fields)
        numbers.append(number)
        times.append((begin, end))
    if damaged:
        raise UserError(f"{damaged[0]}; mend or remove the line{more(damaged, 'damaged line')}")
    if not rows:
        raise UserError(f"{path}: holds no items below its header; give a file with tokens")
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    seconds = np.array(times)
    labels = {name: values for name, values in columns.items() if name not in _NEEDED}
    return Items(
        str(path), columns["file"], seconds[:, 0], seconds[:, 1], labels, np.array(numbers),
        _repeated(rows, numbers),
    )  # fmt: skip


def _repeated(rows: list[list[str]], numbers: list[int]) -> tuple[int, ...]:
    seen: set[tuple[str, ...]] = set()
    found = []
    for row, number in zip(rows, numbers, strict=True):
        key = tuple(row)
        if key in seen:
            found.append(number)
        seen.add(key)
    return tuple(found)


def more(found: Sequence[object], what: str) -> str:
    """How many were found beside the one that a message names: ` (and 2 more …)`."""
    n = len(found) - 1
    return f" (and {n} more {what}{'s' if n > 1 else ''})" if n > 0 else ""


def frame_spans(
    onsets: NDArray[np.float64], offsets: NDArray[np.float64], frame_rate: float, slicing: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First frame of each token, and the one after its last, both (n,), by its seconds.

    Frame i stands for the moment (i + 1/2) / frame_rate. `centres`: frames from onset to offset,
    both included. `librilight`: the last of them is left out, in the very arithmetic of
    zerospeech-libriabx2, whose figures are compared with.
    """
    if slicing not in SLICINGS:
        raise UserError(f"slicing {slicing!r} is unknown; choose {' or '.join(SLICINGS)}")
    if not 0 < frame_rate < float("inf"):
        raise UserError(f"frame rate {frame_rate:g} is none; give frames a second, such as 50")
    # Times in other units than seconds lie past any file's end: clipped, they fit an integer.
    with np.errstate(over="ignore"):
        first, last = ((frame_rate * seconds - 0.5).clip(-1, _FAR) for seconds in (onsets, offsets))
    if slicing == "librilight":
        return np.ceil(first).astype(np.int64).clip(0), np.floor(last).astype(np.int64)
    # Times are decimals: 0.29 s at 50 Hz is a frame's centre, but 0.29 * 50 lies beside 14.5.
    first, last = np.round(first, 6), np.round(last, 6)
    return np.ceil(first).astype(np.int64), np.floor(last).astype(np.int64) + 1


def slice_features(
    items: Items, features: Features, *, frame_rate: float, slicing: str = "centres"
) -> Tokens:
    """Keep the frames of every token, and nothing else of the features.

    features: frames (n, dim) or units (n,) of each file that the items name; see `Features`.
    frame_rate: frames a second. A file may be given in blocks: only one is held at a time.
    Tokens without a frame have length 0. Convolutional encoders give a frame less than the
    audio's length says, so the last frame of a token may be missing. Raises `UserError` where a
    file is missing, tokens go further beyond its end, or frames are not finite.
    """
    firsts, ends = frame_spans(items.onsets, items.offsets, frame_rate, slicing)
    wanted: dict[str, NDArray[np.int64]] = {}
    order = np.argsort(items.files, kind="stable")
    names, begins = np.unique(items.files[order], return_index=True)
    for name, group in zip(names.tolist(), np.split(order, begins[1:]), strict=True):
        wanted[name] = group
    store = _Store(items, firsts, np.maximum(ends, firsts))
    for name, blocks in _files(features, list(wanted)):
        if name in wanted:
            store.add(name, wanted.pop(name), blocks)
    if wanted:
        first = min(int(group[0]) for group in wanted.values())
        raise UserError(
            f"{items.where(first)}: names {items.files[first]}, of which there are no features; "
            f"add the file or drop its items{more(list(wanted), 'missing file')}"
        )
    return store.tokens()


@dataclass
class _Store:
    """Frames kept so far."""

    items: Items
    firsts: NDArray[np.int64]
    ends: NDArray[np.int64]
    parts: list[Frames] = field(default_factory=list)
    n_frames: int = 0
    late: list[int] = field(default_factory=list)
    n_shortened: int = 0

    def __post_init__(self) -> None:
        self.starts = np.zeros(len(self.items), np.int64)
        self.lengths = np.zeros(len(self.items), np.int64)

    def add(self, name: str, group: NDArray[np.int64], blocks: Iterable[Frames]) -> None:
        """Keep what the tokens `group` of the file `name` need."""
        firsts, ends = self.firsts[group], self.ends[group]
        kept: list[NDArray[np.bool_]] = []
        total = 0
        for block in blocks:
            frames = self._checked(name, block)
            n = len(frames)
            begun, ended = (
                np.bincount((edges - total).clip(0, n), minlength=n + 1) for edges in (firsts, ends)
            )
            needed = np.cumsum(begun - ended)[:-1] > 0
            if needed.any():
                self.parts.append(frames[needed])
            kept.append(needed)
            total += n
        beyond = ends - total
        self.late.extend(group[beyond > 1].tolist())
        self.n_shortened += int((beyond == 1).sum())
        position = self.n_frames + np.cumsum(np.concatenate([[False], *kept]))
        self.starts[group] = position[np.minimum(firsts, len(position) - 1)]
        self.lengths[group] = (np.minimum(ends, total) - firsts).clip(0)
        self.n_frames = int(position[-1])

    def tokens(self) -> Tokens:
        if self.late:
            first = min(self.late)
            raise UserError(
                f"{self.items.where(first)}: ends at {self.items.offsets[first]:g} s, after its "
                f"file {self.items.files[first]} does; take the item file of this audio, in "
                f"seconds, or give the features' own frame rate{more(self.late, 'such item')}"
            )
        if not self.parts:
            raise UserError(f"{self.items.path}: no item holds the centre of a frame")
        frames = np.concatenate(self.parts)
        self.parts.clear()
        return Tokens(frames, self.starts, self.lengths, self.n_shortened)

    def _checked(self, name: str, block: Frames) -> Frames:
        frames = np.asarray(block)
        integers = frames.dtype.kind in "iu"
        if frames.ndim == 2 and frames.shape[1] == 1 and integers:
            frames = frames[:, 0]
        featured = frames.dtype.kind == "f" and frames.ndim == 2 and frames.shape[1] > 0
        if not featured and not (integers and frames.ndim == 1):
            raise UserError(
                f"{name}: features of shape {frames.shape} and type {frames.dtype}; expected "
                "(frames, dim) in floating point, or one integer a frame"
            )
        if integers and len(frames) and not 0 <= frames.min() <= frames.max() <= _MAX_UNIT:
            raise UserError(
                f"{name}: units from {frames.min()} to {frames.max()}; expected 0 to {_MAX_UNIT}"
            )
        if not integers:
            with np.errstate(over="ignore"):
                frames = frames.astype(np.float32, copy=False)
            if not np.isfinite(frames).all():
                raise UserError(f"{name}: its features hold NaN or infinite values; make them anew")
        if self.parts and self.parts[0].shape[1:] != frames.shape[1:]:
            raise UserError(
                f"{name}: its features have {_kind(frames)}, those before {_kind(self.parts[0])}; "
                "give features of one encoder"
            )
        return frames.astype(np.int32) if integers else frames


def _kind(frames: Frames) -> str:
    return "one unit a frame" if frames.ndim == 1 else f"{frames.shape[1]} dimensions"


def _files(features: Features, names: list[str]) -> Iterator[tuple[str, Iterable[Frames]]]:
    """Files and their frames in blocks, of whatever kind `features` is."""
    if isinstance(features, Mapping):
        yield from ((name, [features[name]]) for name in names if name in features)
    elif callable(features):
        yield from ((name, [features(name)]) for name in names)
    else:
        yield from features


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such item file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as an item file ({error})") from None


def _column_names(header: list[str], path: str | Path) -> list[str]:
    """The header's columns by their usual names."""
    known = {alias: role for role, aliases in _ROLES.items() for alias in aliases}
    plain = [name.lstrip("#") for name in header]
    names = [known.get(name.lower(), name) for name in plain]
    missing = [role for role in _NEEDED if role not in names]
    if missing or len(set(names)) != len(names):
        problem = f"has no column {missing[0]}" if missing else "names a column twice"
        raise UserError(
            f"{path}:1: the header {problem}; expected `#file onset offset #phone prev-phone "
            f"next-phone speaker`, got `{' '.join(header)[:80]}`"
        )
    return names


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
