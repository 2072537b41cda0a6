"""Encoding shards of a corpus: the one function that local workers, ranks and Ray all call."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gslm.corpus import CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.types import Units
from gslm.units.recordings import (
    Clip,
    Reading,
    Skipped,
    clip_groups,
    read_ahead,
    reason_without_path,
)
from gslm.units.unit_encoder import UnitEncoder

_RUN_SHARDS = 4


@dataclass(frozen=True)
class EncodingJob:
    """All that a worker needs beside the numbers of its shards."""

    root: Path
    """Folder of the recordings."""
    folder: Path
    """Corpus to write."""
    source: dict[str, Any]
    """What the corpus is made of, for its writer."""
    unit_encoder: UnitEncoder
    """Makes the units."""
    ids: list[str]
    """Recordings by path relative to the root, sorted."""
    speakers: list[str]
    """Name of each recording's speaker."""
    shard_size: int
    """Recordings in a shard."""
    deduplicate: bool
    """Store runs with durations."""
    threads: int
    """torch threads of a worker."""
    reading: Reading
    """Which part of a recording is read."""

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.ids) // self.shard_size)

    def shard_ids(self, index: int) -> list[str]:
        """Recordings of one shard."""
        return self.ids[index * self.shard_size : (index + 1) * self.shard_size]

    def shard_speakers(self, index: int) -> dict[str, str]:
        """Speaker of each recording of one shard."""
        start = index * self.shard_size
        speakers = self.speakers[start : start + self.shard_size]
        return dict(zip(self.shard_ids(index), speakers, strict=True))

    def writer(self) -> CorpusWriter:
        """The corpus opened for writing."""
        return CorpusWriter(self.folder, self.unit_encoder.fingerprint, self.source)


def encode_shards(job: EncodingJob, indices: Sequence[int]) -> Generator[int, None, None]:
    """Encode shards and write them; yields the number of each once it is on disk.

    Recordings are decoded and resampled by a thread while the encoder runs. A shard's bytes
    depend on its recordings, the units and the number of torch threads alone. Unreadable
    recordings are recorded beside the shard. Raises `UserError` where nothing can be written.
    """
    writer = job.writer()
    # Two items: the end of a shard is one as well.
    ahead = read_ahead(_groups(job, indices), n_ahead=2)
    with _torch_threads(job.threads), closing(ahead) as groups:
        for shard, group in groups:
            if group is not None:
                shard.rows += _encoded(job, group, shard)
                continue
            shard.rows.sort(key=lambda row: row.id)
            writer.write_shard(shard.index, shard.rows, sorted(shard.skipped))
            yield shard.index


def bound_kernel_cache() -> None:
    """Keep oneDNN from holding a compiled kernel for each size of a batch that it ever met.

    Its thousand kernels lie scattered between freed batches, which then cannot be used again: in
    hours of audio that takes hundreds of megabytes. 32 are what one forward of HuBERT needs. For
    processes that do nothing but encode, before their first batch.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


def runs_of_shards(indices: Sequence[int], workers: int) -> list[list[int]]:
    """Shards in short runs, one task each: a worker reads ahead within a run.

    There are a few runs for each worker, so that all of them end at about the same time.
    """
    length = max(1, min(_RUN_SHARDS, len(indices) // (4 * workers)))
    return [list(indices[i : i + length]) for i in range(0, len(indices), length)]


@dataclass
class _Shard:
    """A shard in the making."""

    index: int
    speakers: dict[str, str]
    rows: list[CorpusRow] = field(default_factory=list)
    skipped: Skipped = field(default_factory=list)


def _groups(job: EncodingJob, indices: Sequence[int]) -> Iterator[tuple[_Shard, list[Clip] | None]]:
    """Read groups of clips of each shard in order; None after a shard's last."""
    for index in indices:
        shard = _Shard(index, job.shard_speakers(index))
        for group in clip_groups(job.root, job.shard_ids(index), shard.skipped, job.reading):
            yield shard, group
        yield shard, None


def _encoded(job: EncodingJob, group: list[Clip], shard: _Shard) -> Iterator[CorpusRow]:
    """Rows of a group's clips; none for a long one that turned out bad."""
    waveforms = [clip.waveform for clip in group if clip.waveform is not None]
    found: list[tuple[Units, int]] = []
    if waveforms:
        units = job.unit_encoder.encode_many(waveforms)
        found = list(zip(units, map(len, waveforms), strict=True))
    else:
        counter = _CountingStream(group[0])
        try:
            found = [(job.unit_encoder.encode_blocks(counter.blocks), counter.n_samples)]
        except UserError as error:
            shard.skipped.append((group[0].id, reason_without_path(error, job.root, group[0].id)))
    for clip, (units_of_clip, n_samples) in zip(group, found, strict=False):
        kept = units_of_clip.deduplicated() if job.deduplicate else units_of_clip
        yield CorpusRow(
            clip.id,
            kept.ids,
            kept.durations,
            n_samples,
            shard.speakers[clip.id],
            first_sample=clip.first_sample,
        )


class _CountingStream:
    """Streams a long recording, read ahead, and counts its samples."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.n_samples = 0

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        self.n_samples = 0
        with closing(read_ahead(self.clip.blocks())) as blocks:
            for block in blocks:
                self.n_samples += len(block)
                yield block


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
