"""A folder of audio to a corpus of units: sharded, resumable, the same bytes on any run."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from gslm.audio import find_audio, printable_name, stream_audio
from gslm.corpus import Corpus, CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.types import Units
from gslm.units.recordings import Clip, Skipped, clip_groups, reason_without_path
from gslm.units.unit_encoder import UnitEncoder

SHARD_SIZE = 256
"""Recordings in a shard."""


@dataclass(frozen=True)
class _Job:
    """All that a worker needs beside a shard's number."""

    root: Path
    folder: Path
    source: dict[str, Any]
    unit_encoder: UnitEncoder
    ids: list[str]
    speakers: list[str]
    shard_size: int
    deduplicate: bool
    threads: int


def encode_corpus(
    audio_root: str | Path,
    out_folder: str | Path,
    unit_encoder: UnitEncoder,
    *,
    workers: int = 1,
    held_out: Collection[str] | None = None,
    speaker_from: Callable[[str], str] | str = "none",
    ids: Sequence[str] | None = None,
    shard_size: int = SHARD_SIZE,
    deduplicate: bool = True,
    threads: int = 1,
    progress: bool = True,
) -> Corpus:
    """Encode recordings below `audio_root` into a corpus at `out_folder`.

    ids: paths relative to the root; all audio below it where None. workers: processes, each
    with `threads` torch threads: use as many as there are cores (a script that asks for more
    than one must guard its entry with `if __name__ == "__main__"`). The corpus is the same, byte
    for byte, for any number of workers. Shards that an earlier, interrupted run finished are
    kept. speaker_from: `none`, `folder` (the topmost folder of the id) or a function from the
    id. held_out: ids kept from training; by a hash of the id where None. deduplicate: store runs
    with durations.

    Unreadable recordings are recorded with the reason and passed over. Raises `UserError` for
    an empty folder, or one where nothing is readable.
    """
    ids = find_audio(audio_root) if ids is None else sorted(set(ids))
    if not ids or shard_size < 1 or workers < 1:
        raise UserError(f"{audio_root}: give at least one recording, worker and recording a shard")
    job = _Job(
        root=Path(audio_root),
        folder=Path(out_folder),
        source=_source(Path(audio_root), ids, shard_size, deduplicate),
        unit_encoder=unit_encoder,
        ids=ids,
        speakers=_speakers(ids, speaker_from),
        shard_size=shard_size,
        deduplicate=deduplicate,
        threads=threads,
    )
    writer = CorpusWriter(job.folder, unit_encoder.fingerprint, job.source)
    writer.remove_unfinished()
    n_shards = -(-len(ids) // shard_size)
    missing = [index for index in range(n_shards) if not writer.has_shard(index)]
    done = (n_shards - len(missing)) * shard_size
    with tqdm(
        total=len(ids),
        initial=min(done, len(ids)),
        desc="encoding",
        unit="file",
        disable=not progress,
    ) as bar:
        for index in _run(job, missing, workers):
            bar.update(len(_shard(job.ids, index, shard_size)))
    corpus = writer.finish(n_shards, held_out)
    if len(corpus) == 0:
        id_, reason = corpus.skipped()[0]
        raise UserError(f"{audio_root}: no readable recording; {id_}: {reason}")
    return corpus


def _run(job: _Job, indices: list[int], workers: int) -> Iterator[int]:
    """Encode shards, here or in workers; yields their numbers as they are done."""
    if min(workers, len(indices)) <= 1:
        with _torch_threads(job.threads):
            for index in indices:
                _encode_shard(job, index)
                yield index
        return
    # A fresh interpreter for each worker: a fork of one whose torch has threads can hang.
    pool = ProcessPoolExecutor(
        min(workers, len(indices)), multiprocessing.get_context("spawn"), _start_worker, (job,)
    )
    try:
        for future in as_completed([pool.submit(_work, index) for index in indices]):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            f"{job.folder}: a worker died, perhaps for lack of memory; run the same command "
            "again with fewer workers, finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker_job: list[_Job] = []


def _start_worker(job: _Job) -> None:
    torch.set_num_threads(job.threads)
    _worker_job[:] = [job]


def _work(index: int) -> int:
    _encode_shard(_worker_job[0], index)
    return index


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encode_shard(job: _Job, index: int) -> None:
    ids = _shard(job.ids, index, job.shard_size)
    speakers = dict(zip(ids, _shard(job.speakers, index, job.shard_size), strict=True))
    skipped: Skipped = []
    rows = []
    for group in clip_groups(job.root, ids, skipped):
        for clip, (units, n_samples) in zip(
            group, _encode_group(job, group, skipped), strict=False
        ):
            kept = units.deduplicated() if job.deduplicate else units
            speaker = speakers[clip.id]
            rows.append(CorpusRow(clip.id, kept.ids, kept.durations, n_samples, speaker, None))
    rows.sort(key=lambda row: row.id)
    writer = CorpusWriter(job.folder, job.unit_encoder.fingerprint, job.source)
    writer.write_shard(index, rows, sorted(skipped))


def _encode_group(job: _Job, group: list[Clip], skipped: Skipped) -> list[tuple[Units, int]]:
    """Units and samples of each clip of a group; nothing for a long one that turned out bad."""
    waveforms = [clip.waveform for clip in group if clip.waveform is not None]
    if waveforms:
        units = job.unit_encoder.encode_many(waveforms)
        return list(zip(units, map(len, waveforms), strict=True))
    clip = group[0]
    counter = _CountingStream(clip.path)
    try:
        return [(job.unit_encoder.encode_blocks(counter.blocks), counter.n_samples)]
    except UserError as error:
        skipped.append((clip.id, reason_without_path(error, job.root, clip.id)))
        return []


class _CountingStream:
    """Streams a file and counts its samples."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_samples = 0

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        self.n_samples = 0
        for block in stream_audio(self.path):
            self.n_samples += len(block)
            yield block


def _shard(items: list[str], index: int, size: int) -> list[str]:
    return items[index * size : (index + 1) * size]


def _speakers(ids: list[str], speaker_from: Callable[[str], str] | str) -> list[str]:
    if callable(speaker_from):
        return [speaker_from(id_) for id_ in ids]
    if speaker_from == "none":
        return ["" for _ in ids]
    if speaker_from == "folder":
        return [id_.split("/")[0] if "/" in id_ else "" for id_ in ids]
    raise UserError(f"speaker_from {speaker_from!r} is unknown; choose none or folder")


def _source(root: Path, ids: list[str], shard_size: int, deduplicate: bool) -> dict[str, Any]:
    """What the corpus is made of, so that a resumed run can tell whether it is the same."""
    digest = hashlib.sha256()
    for id_ in ids:
        path = root / id_
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{id_}\0{size}\n".encode("utf-8", "surrogateescape"))
    return {
        "root": printable_name(root.resolve().name),
        "n_files": len(ids),
        "files_hash": digest.hexdigest()[:16],
        "shard_size": shard_size,
        "deduplicated": deduplicate,
    }
