"""Reading many recordings: clips in groups, long ones by themselves, bad ones noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gslm.audio import (
    SAMPLE_RATE,
    printable_name,
    require_utf8_name,
    resolve_inside,
    stream_audio,
)
from gslm.errors import UserError

LONG_SECONDS = 60.0
"""Recordings above this length are streamed instead of being held."""

_GROUP_SAMPLES = 600 * SAMPLE_RATE  # 38 MB of float32

Skipped = list[tuple[str, str]]
"""(id, reason) of recordings that could not be read; ids in `printable_name`'s spelling."""


@dataclass(frozen=True)
class Clip:
    """One recording."""

    id: str
    """Path relative to the root."""
    path: Path
    """Where it is."""
    waveform: NDArray[np.float32] | None
    """Float32 (samples,) at 16 kHz; None for a long recording, which is to be streamed."""


def clip_groups(root: str | Path, ids: Sequence[str], skipped: Skipped) -> Iterator[list[Clip]]:
    """Read recordings in order, in groups of at most about ten minutes of audio.

    A long recording makes a group of its own. Unreadable ones are appended to `skipped`. The
    grouping depends on the recordings alone.
    """
    group: list[Clip] = []
    n_samples = 0
    for id_ in ids:
        try:
            clip = _read(root, id_)
        except UserError as error:
            skipped.append((printable_name(id_), reason_without_path(error, root, id_)))
            continue
        if clip.waveform is None:
            yield [clip]
            continue
        group.append(clip)
        n_samples += len(clip.waveform)
        if n_samples >= _GROUP_SAMPLES:
            yield group
            group, n_samples = [], 0
    if group:
        yield group


def reason_without_path(error: UserError, root: str | Path, id_: str) -> str:
    """The error's text about a recording, without the path, which the id gives already."""
    path = str(Path(root) / id_)
    text = str(error).removeprefix(f"{path}: ").removeprefix(f"{printable_name(id_)}: ")
    return text.replace(path, id_)


def _read(root: str | Path, id_: str) -> Clip:
    require_utf8_name(id_)
    path = resolve_inside(root, id_)
    blocks = stream_audio(path, block_seconds=LONG_SECONDS)
    first = next(blocks)
    rest = next(blocks, None)
    if rest is not None and len(rest):
        return Clip(id_, path, None)
    return Clip(id_, path, np.concatenate(list(chain([first], blocks))))
