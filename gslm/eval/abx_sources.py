"""Where the frames that ABX compares come from: audio and units, a corpus, or a feature folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from gslm.audio import AUDIO_EXTENSIONS, clip_id, find_audio
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.eval.abx_items import Frames, Items
from gslm.types import Fingerprint
from gslm.units import UnitEncoder
from gslm.units.inertia import normalized_frames
from gslm.units.phone_agreement import encoded_clips
from gslm.units.recordings import Skipped, clip_groups

FEATURE_SUFFIXES = (".npy", ".pt", ".txt")


@dataclass(frozen=True)
class FrameSource:
    """Frames of the files that an item file names."""

    frames: Iterable[tuple[str, Iterable[Frames]]]
    """Pairs of a file, as the items name it, and its frames in blocks; read once, lazily."""
    n_files: int
    """How many files there are."""
    frame_rate: float
    """Frames a second."""
    fingerprint: Fingerprint | None = None
    """Of the units, where these are units or the features below them."""


def audio_source(
    root: Path, items: Items, encoder: UnitEncoder, continuous: bool = False
) -> FrameSource:
    """The audio below `root`, encoded: units one a frame or, if `continuous`, what k-means sees.

    Raises `UserError` where the folder holds no audio and, in reading, where a file is damaged.
    """
    files = _named(items, find_audio(root))
    encode = _encoded_features if continuous else _encoded_units

    def frames() -> Iterator[tuple[str, Iterable[Frames]]]:
        skipped: Skipped = []
        for id_, blocks in encode(root, list(files), encoder, skipped):
            yield files[id_], blocks
        if skipped:
            id_, reason = skipped[0]
            raise UserError(f"{root / id_}: {reason}; mend the file or drop its items")

    return FrameSource(frames(), len(files), encoder.fingerprint.frame_rate, encoder.fingerprint)


def corpus_source(corpus: Corpus, items: Items) -> FrameSource:
    """The units of a corpus, one a frame; `UserError` where they lack their recordings' times."""
    corpus.require_times()
    files = _named(items, [row.id for row in corpus.rows()])
    frames = (
        (files[row.id], [corpus.units(row).expanded().ids])
        for row in corpus.rows()
        if row.id in files
    )
    return FrameSource(frames, len(files), corpus.fingerprint.frame_rate, corpus.fingerprint)


def feature_source(root: Path, items: Items, frame_rate: float) -> FrameSource:
    """Arrays in files `.npy`, `.pt` or `.txt` below `root`: features (n, dim), or units (n,).

    frame_rate: frames a second, which the files don't say. Raises `UserError` where the folder
    holds none and, in reading, where a file is damaged.
    """
    paths = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in FEATURE_SUFFIXES
    )
    if not paths:
        raise UserError(f"{root}: {_not_features(root)}")
    files = _named(items, paths)
    frames = ((name, [read_frames(root / path)]) for path, name in files.items())
    return FrameSource(frames, len(files), frame_rate)


def _not_features(root: Path) -> str:
    if any(path.suffix.lower() in AUDIO_EXTENSIONS for path in root.rglob("*")):
        return "holds audio and no features; give --units to encode it with"
    return (
        "is no corpus and holds neither audio nor features; give a corpus, a folder of audio with "
        f"--units, or of arrays in files {', '.join(FEATURE_SUFFIXES)}"
    )


def read_frames(path: Path) -> Frames:
    """An array from a `.npy`, `.pt` or `.txt` file; pickled objects are refused.

    Text of a single row or column of whole numbers is units (n,), other text features (n, dim).
    Raises `UserError` where the file holds none.
    """
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix == ".pt":
            tensor = torch.load(path, weights_only=True, map_location="cpu")
            return np.asarray(tensor.detach().float() if tensor.is_floating_point() else tensor)
        numbers = np.loadtxt(path, ndmin=2)
    except Exception as error:  # torch and numpy raise whatever a damaged file leads to
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"{path}: not readable as an array of frames ({reason[:120]}); write it anew"
        ) from None
    if 1 not in numbers.shape or not (numbers == np.rint(numbers)).all():
        return numbers
    # What is no unit stays none, also where an integer could not hold it.
    return numbers.reshape(-1).clip(-1, 2**31).astype(np.int64)


def _named(items: Items, paths: Sequence[str]) -> dict[str, str]:
    """Paths that items name, in order, and how: by the whole path without suffix, or its last part.

    The last part does where no other path ends so, as in Libri-Light's item files.
    """
    by_name: dict[str, list[str]] = {}
    for path in paths:
        whole = _without_suffix(path)
        for name in {whole, PurePosixPath(whole).name}:
            by_name.setdefault(name, []).append(path)
    found: dict[str, str] = {}
    for name in np.unique(items.files).tolist():
        whole = _without_suffix(name)
        matches = by_name.get(whole, [])
        matches = [path for path in matches if _without_suffix(path) == whole] or matches
        matches = [path for path in matches if path == name] or matches
        if len(matches) > 1:
            raise UserError(
                f"{items.path}: names {name}, which may be {matches[0]} or {matches[1]}; keep "
                "one, or name files by their path below the folder"
            )
        for path in matches:
            if path in found:
                raise UserError(
                    f"{items.path}: names {path} both {found[path]} and {name}; choose one"
                )
            found[path] = name
    return {path: found[path] for path in paths if path in found}


def _without_suffix(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix in FEATURE_SUFFIXES else clip_id(path)


def _encoded_units(
    root: Path, ids: list[str], encoder: UnitEncoder, skipped: Skipped
) -> Iterator[tuple[str, Iterable[Frames]]]:
    for clip in encoded_clips(root, ids, encoder, skipped):
        yield clip.id, [clip.units.expanded().ids]


def _encoded_features(
    root: Path, ids: list[str], encoder: UnitEncoder, skipped: Skipped
) -> Iterator[tuple[str, Iterable[Frames]]]:
    for clip, parts in normalized_frames(clip_groups(root, ids, skipped), encoder):
        yield clip.id, (frames.numpy() for frames in parts)
