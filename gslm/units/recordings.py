"""Reading many recordings: clips in groups, long ones by themselves, bad ones noted."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

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
from gslm.units.trimming import Stretch, speech_stretch

LONG_SECONDS = 60.0
"""Recordings above this length are streamed instead of being held."""

_GROUP_SAMPLES = 600 * SAMPLE_RATE  # 38 MB of float32

Skipped = list[tuple[str, str]]
"""(id, reason) of recordings that could not be read; ids in `printable_name`'s spelling."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Reading:
    """Which part of a recording is read."""

    channel: int | None = None
    """Number of the channel, from 0; None for the mean of all."""
    trim_silence: bool = False
    """Leave out silence before the first speech and after the last."""

    @classmethod
    def of_corpus(cls, source: Mapping[str, Any]) -> Reading:
        """How the recordings of a corpus with this `source` were read."""
        return cls(source.get("channel"), source.get("trimmed", False))

    def to_source(self) -> dict[str, Any]:
        """What `of_corpus` reads; nothing where recordings are read whole."""
        source: dict[str, Any] = {}
        if self.channel is not None:
            source["channel"] = self.channel
        if self.trim_silence:
            source["trimmed"] = True
        return source


@dataclass(frozen=True)
class Clip:
    """One recording."""

    id: str
    """Path relative to the root."""
    path: Path
    """Where it is."""
    waveform: NDArray[np.float32] | None
    """Float32 (samples,) at 16 kHz; None for a long recording, which is to be streamed."""
    channel: int | None = None
    """Channel that is read; None for the mean of all."""
    stretch: Stretch | None = None
    """Part of the recording that is read; None for all of it."""

    @property
    def first_sample(self) -> int:
        """Sample of the recording at 16 kHz where what is read begins."""
        return self.stretch.first if self.stretch else 0

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Read a long recording in blocks, float32 (samples,) at 16 kHz in order."""
        blocks = stream_audio(self.path, channel=self.channel)
        return _part(blocks, self.stretch) if self.stretch else blocks


def files_hash(root: str | Path, ids: Sequence[str]) -> str:
    """Hash over the names and sizes of recordings, by which a later run knows them again."""
    digest = hashlib.sha256()
    for id_ in ids:
        path = Path(root) / id_
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{id_}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def clip_groups(
    root: str | Path, ids: Sequence[str], skipped: Skipped, reading: Reading | None = None
) -> Iterator[list[Clip]]:
    """Read recordings in order, in groups of at most about ten minutes of audio.

    A long recording makes a group of its own. Unreadable ones are appended to `skipped`. The
    grouping depends on the recordings and on `reading` alone.
    """
    group: list[Clip] = []
    n_samples = 0
    for id_ in ids:
        try:
            clip = _read(root, id_, reading or Reading())
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


def read_ahead(items: Iterable[Item], n_ahead: int = 1) -> Generator[Item, None, None]:
    """Yield `items` in order, the next of which a thread makes while one is worked on.

    n_ahead: most items that are made in advance. What making an item raises is raised here. When
    the iterator is closed, as by Ctrl-C, the thread stops after the item that it is at.
    """
    made: queue.SimpleQueue[tuple[Item] | BaseException | None] = queue.SimpleQueue()
    wanted = threading.Semaphore(n_ahead)
    closed = threading.Event()

    def make() -> None:
        try:
            iterator = iter(items)
            while True:
                wanted.acquire()
                if closed.is_set():
                    return
                made.put((next(iterator),))
        except StopIteration:
            made.put(None)
        except BaseException as error:  # whatever it is belongs to the one who reads
            made.put(error)

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            wanted.release()
            yield item[0]
    finally:
        closed.set()
        wanted.release()
        thread.join()


def reason_without_path(error: UserError, root: str | Path, id_: str) -> str:
    """The error's text about a recording, without the path, which the id gives already."""
    path = str(Path(root) / id_)
    text = str(error).removeprefix(f"{path}: ").removeprefix(f"{printable_name(id_)}: ")
    return text.replace(path, id_)


def _read(root: str | Path, id_: str, reading: Reading) -> Clip:
    require_utf8_name(id_)
    path = resolve_inside(root, id_)
    blocks = stream_audio(path, block_seconds=LONG_SECONDS, channel=reading.channel)
    first = next(blocks)
    rest = next(blocks, None)
    if rest is not None and len(rest):
        parts = chain([first, rest], blocks)
        stretch = speech_stretch(parts) if reading.trim_silence else None
        return Clip(id_, path, None, reading.channel, stretch)
    waveform = np.concatenate(list(chain([first], blocks)))
    if not reading.trim_silence:
        return Clip(id_, path, waveform, reading.channel)
    stretch = speech_stretch([waveform])
    return Clip(id_, path, waveform[slice(*stretch)], reading.channel, stretch)


def _part(blocks: Iterable[NDArray[np.float32]], stretch: Stretch) -> Iterator[NDArray[np.float32]]:
    """The samples of a stretch, out of the blocks of a whole recording."""
    start = 0
    for block in blocks:
        part = block[max(0, stretch.first - start) : max(0, stretch.end - start)]
        if len(part):
            yield part
        start += len(block)
