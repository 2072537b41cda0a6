"""A folder of audio to a corpus of units: sharded, resumable, the same bytes on any run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gslm.audio import find_audio, printable_name
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.processes import this_process, use_own_device, wait_for_all
from gslm.units.encoders.precision import precision_of
from gslm.units.local_engine import encode_in_processes
from gslm.units.ray_engine import encode_on_ray
from gslm.units.recordings import Reading, files_hash
from gslm.units.shards import EncodingJob, encode_shards
from gslm.units.unit_encoder import UnitEncoder

ENGINES = ("local", "ray")
_MOST_IN_SHARD = 256
_WORK_OF_ONE = 10_000_000  # bytes of audio, five minutes where nothing is compressed
_SHARDS_OF_FEW = 32  # a corpus too small for full shards still gives every worker some
_LEAST_IN_SHARD = 4_000_000  # bytes of audio, some batches: fewer would be encoded more slowly


def encode_corpus(
    audio_root: str | Path,
    out_folder: str | Path,
    unit_encoder: UnitEncoder,
    *,
    workers: int | None = 1,
    engine: str = "local",
    held_out: Collection[str] | None = None,
    speaker_from: Callable[[str], str] | str = "none",
    ids: Sequence[str] | None = None,
    shard_size: int | None = None,
    deduplicate: bool = True,
    channel: int | None = None,
    trim_silence: bool = False,
    threads: int = 1,
    progress: bool = True,
) -> Corpus:
    """Encode recordings below `audio_root` into a corpus at `out_folder`.

    ids: paths relative to the root; all audio below it where None. workers: processes, each
    with `threads` torch threads; where None as many as there are cores, or one for little audio
    (a script that may have more than one must guard its entry with `if __name__ == "__main__"`);
    unless more are asked for, a CUDA device has the work of all. engine: `local`, or `ray`: Ray's
    workers, here or on a cluster. Where torchrun or `accelerate launch` started several
    processes, all call this function, and they are the workers, each on its own device.
    The corpus is the same, byte for byte, for any engine and number of workers on machines of
    one kind. Shards that an earlier, interrupted run finished are kept.

    shard_size: recordings in a shard; where None 256, or fewer of a small corpus, so that there are
    32 shards or shards of 4 MB. speaker_from: `none`, `folder` (the topmost folder of the id) or
    a function from the id. held_out: ids kept from training; by a hash of the id where None.
    deduplicate: store runs with durations. channel: number of the one that is read, from 0; the
    mean of all where None. trim_silence: leave out silence before the first speech and after the
    last, see `trimming`.

    Unreadable recordings are recorded with the reason and passed over. Raises `UserError` for
    an empty folder, or one where nothing is readable, and where a worker died.
    """
    ids = find_audio(audio_root) if ids is None else sorted(set(ids))
    if not ids:
        raise UserError(f"{audio_root}: no recordings were named; give at least one")
    if shard_size is None:
        shard_size = _suited_shard_size(Path(audio_root), ids)
    for name, number in (("shard size", shard_size), ("workers", workers)):
        if number is not None and number < 1:
            raise UserError(f"{name} {number}: give at least 1")
    speakers = _speakers(ids, speaker_from)
    reading = Reading(channel, trim_silence)
    job = EncodingJob(
        root=Path(audio_root),
        folder=Path(out_folder),
        source=_source(Path(audio_root), ids, speakers, shard_size, deduplicate, reading)
        | _lower_precision(unit_encoder),
        unit_encoder=unit_encoder,
        ids=ids,
        speakers=speakers,
        shard_size=shard_size,
        deduplicate=deduplicate,
        threads=threads,
        reading=reading,
    )
    _encode_missing(job, engine, workers, progress)
    process = this_process()
    if process.is_main_process:
        job.writer().finish(job.n_shards, held_out)
    wait_for_all()
    corpus = Corpus.open(job.folder)
    if len(corpus) == 0:
        id_, reason = corpus.skipped()[0]
        raise UserError(f"{audio_root}: no readable recording; {id_}: {reason}")
    return corpus


def _encode_missing(job: EncodingJob, engine: str, workers: int | None, progress: bool) -> None:
    """Encode the shards that are not there yet; returns once those of all processes are."""
    process = this_process()
    if process.is_main_process:
        job.writer().remove_unfinished()
    # What is half written goes before another process could be writing.
    wait_for_all()
    writer = job.writer()
    missing = [index for index in range(job.n_shards) if not writer.has_shard(index)]
    # Nobody writes before all have seen what is missing.
    wait_for_all()
    own = missing[process.process_index :: process.num_processes]
    n_own = sum(len(job.shard_ids(index)) for index in own)
    alone = process.num_processes == 1
    with (
        closing(_run(job, own, engine, workers)) as done,
        tqdm(
            total=len(job.ids) if alone else n_own,
            initial=len(job.ids) - n_own if alone else 0,
            desc="encoding",
            unit="file",
            disable=not (progress and process.is_main_process),
        ) as bar,
    ):
        for index in done:
            bar.update(len(job.shard_ids(index)))
    wait_for_all()


def _run(
    job: EncodingJob, indices: list[int], engine: str, workers: int | None
) -> Generator[int, None, None]:
    """Encode shards with an engine; yields their numbers as they are done."""
    process = this_process()
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is unknown; choose {' or '.join(ENGINES)}")
    if engine == "ray":
        if process.num_processes > 1:
            raise UserError("--engine ray starts workers itself; leave out torchrun, or the engine")
        return encode_on_ray(job, indices, workers)
    alone = process.num_processes == 1
    if not alone or (process.device.type == "cuda" and workers in (None, 1)):
        use_own_device(job.unit_encoder.encoder)
        return encode_shards(job, indices)
    return encode_in_processes(job, indices, workers or _suited_workers(job, indices))


def _suited_shard_size(root: Path, ids: list[str]) -> int:
    n_bytes = sum(path.stat().st_size for id_ in ids if (path := root / id_).is_file())
    for_batches = -(-_LEAST_IN_SHARD * len(ids) // max(1, n_bytes))
    for_workers = -(-len(ids) // _SHARDS_OF_FEW)
    return min(_MOST_IN_SHARD, max(for_batches, for_workers))


def _suited_workers(job: EncodingJob, indices: list[int]) -> int:
    """A process for each core, but one alone where its work is done before others have started."""
    n_bytes = 0
    for path in (job.root / id_ for index in indices for id_ in job.shard_ids(index)):
        n_bytes += path.stat().st_size if path.is_file() else 0
        if n_bytes > _WORK_OF_ONE:
            return os.cpu_count() or 1
    return 1


def _speakers(ids: list[str], speaker_from: Callable[[str], str] | str) -> list[str]:
    if callable(speaker_from):
        return [speaker_from(id_) for id_ in ids]
    if speaker_from == "none":
        return ["" for _ in ids]
    if speaker_from == "folder":
        return [id_.split("/")[0] if "/" in id_ else "" for id_ in ids]
    raise UserError(f"speaker_from {speaker_from!r} is unknown; choose none or folder")


def _lower_precision(unit_encoder: UnitEncoder) -> dict[str, Any]:
    """Says so for a corpus that is not of float32, since units of two are not to be mixed."""
    precision = precision_of(unit_encoder.encoder)
    return {} if precision == "float32" else {"precision": precision}


def _source(
    root: Path,
    ids: list[str],
    speakers: list[str],
    shard_size: int,
    deduplicate: bool,
    reading: Reading,
) -> dict[str, Any]:
    """What the corpus is made of, so that a resumed run can tell whether it is the same."""
    source = {
        "root": printable_name(root.resolve().name),
        "n_files": len(ids),
        "files_hash": files_hash(root, ids),
        "shard_size": shard_size,
        "deduplicated": deduplicate,
    }
    if any(speakers):
        joined = "\0".join(speakers).encode("utf-8", "surrogateescape")
        source["speakers_hash"] = hashlib.sha256(joined).hexdigest()[:16]
    return source | reading.to_source()
