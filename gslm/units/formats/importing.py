"""A unit file of another toolkit to a corpus, line by line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from gslm.audio import SAMPLE_RATE
from gslm.corpus import Corpus, CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.types import Fingerprint, deduplicate
from gslm.units.formats.fairseq_binary import data_files, find_dictionary, read_fairseq
from gslm.units.formats.kinds import REPEATS, USUALLY_RUNS, Format, require_used
from gslm.units.formats.lines import Entry, first_few
from gslm.units.formats.names import RecordingNames
from gslm.units.formats.python_lines import read_dgslm, read_resynthesis
from gslm.units.formats.quantized_text import read_quantized_text
from gslm.units.formats.s2ut import read_s2ut
from gslm.units.formats.slamkit import (
    read_slamkit_features,
    read_slamkit_preference,
    read_slamkit_tokens,
)
from gslm.units.formats.textless import read_textless, streams
from gslm.units.formats.unit_hifigan import read_unit_hifigan

SHARD_SIZE = 256
"""Recordings in a shard."""

_LARGEST_GUESS = 10_000_000
"""From here on the largest unit is taken for a mistake, not for the size of the vocabulary."""

_SPARE_FRAMES = 3
"""Encoders disagree on a recording's frames by so many."""


@dataclass(frozen=True)
class ImportSettings:
    """How a file is to be understood and stored."""

    format: Format
    """The format's name."""
    fingerprint: Fingerprint | None = None
    """What made the units; one of an unknown encoder is made up where None."""
    vocabulary_size: int | None = None
    """Number of units; the fingerprint's, or the largest in the file and one, where None."""
    frame_rate: float = 50.0
    """Frames per second, where there is no fingerprint."""
    kind: Literal["auto", "frames", "runs"] = "auto"
    """frames: a unit a frame; runs: repetitions were dropped, and with them the durations."""
    deduplicate: bool = True
    """Store units of one a frame as runs with durations."""
    manifest: Path | None = None
    """fairseq's manifest of the recordings: gives paths, and lengths in samples."""
    root: str = ""
    """Folder to remove from the front of names; the manifest's where empty."""
    dictionary: Path | None = None
    """dict.txt of binarised data; the one beside it where None."""
    shard_size: int = SHARD_SIZE
    """Recordings in a shard."""


@dataclass
class _Findings:
    """What a first pass over the file saw."""

    n_entries: int = 0
    largest: int = 0
    has_durations: bool = False
    has_repetitions: bool = False
    names: dict[str, bytes] = field(default_factory=dict)
    """Hash of each recording's units, where equal ones may come again; else nothing."""
    duplicates: dict[str, int] = field(default_factory=dict)


def read_entries(
    path: str | Path, format_: Format, dictionary: str | Path | None = None
) -> Iterator[Entry]:
    """Yield the entries of a unit file. Raises `UserError` for a file of another format."""
    entries: Iterator[Entry]
    match format_:
        case "text":
            entries = read_quantized_text(path)
        case "textless":
            entries = read_textless(path)
        case "slamkit":
            entries = read_slamkit_features(path)
        case "slamkit-tokens":
            entries = read_slamkit_tokens(path)
        case "slamkit-preference":
            entries = read_slamkit_preference(path)
        case "unit-hifigan":
            entries = read_unit_hifigan(path)
        case "resynthesis":
            entries = read_resynthesis(path)
        case "dgslm":
            entries = read_dgslm(path)
        case "fairseq":
            entries = read_fairseq(path, dictionary or find_dictionary(path))
        case "s2ut":
            entries = read_s2ut(path)
        case "manifest":
            raise UserError(
                f"{path}: a manifest lists recordings and holds no units; encode them with "
                f"`gslm units encode --manifest {path}`"
            )
    return entries


def import_corpus(
    path: str | Path, folder: str | Path, settings: ImportSettings, progress: bool = True
) -> tuple[Corpus, list[str]]:
    """Read a unit file twice, to check it and to write the corpus.

    Nothing is written where the check fails. Names of recordings are held in memory, units are
    not. Returns the corpus and what its user ought to know, in sentences. Raises `UserError`,
    naming the line, for what is not of the format, a unit outside the vocabulary, names that are
    not unique (but a prompt of several pairs, which is stored once), or lengths that do not fit.
    """
    require_used(settings.format, {"dictionary": settings.dictionary})
    names = RecordingNames.of(settings.manifest, settings.root)
    findings = _check(path, settings, names, progress)
    fingerprint = settings.fingerprint or Fingerprint(
        encoder="imported",
        weights_hash="",
        layer=0,
        frame_rate=settings.frame_rate,
        normalization="none",
        centroids_hash="",
        vocabulary_size=settings.vocabulary_size or findings.largest + 1,
    )
    runs = _holds_runs(settings) and not findings.has_durations
    writer = CorpusWriter(folder, fingerprint, _source(path, settings, runs))
    writer.remove_unfinished()
    rows: list[CorpusRow] = []
    index = 0
    for row in tqdm(
        _rows(path, settings, names, fingerprint.frame_rate),
        desc="importing",
        unit="recording",
        total=findings.n_entries,
        disable=not progress,
    ):
        rows.append(row)
        if len(rows) == settings.shard_size:
            index = _write(writer, index, rows)
            rows = []
    if rows:
        index = _write(writer, index, rows)
    return writer.finish(index), _remarks(findings, runs)


def _check(
    path: str | Path, settings: ImportSettings, names: RecordingNames, progress: bool
) -> _Findings:
    """Look at every entry before anything is written."""
    known = settings.fingerprint
    size = known.vocabulary_size if known else settings.vocabulary_size
    rate = known.frame_rate if known else settings.frame_rate
    if rate <= 0 or settings.shard_size < 1 or (size is not None and size < 1):
        raise UserError("frame rate, vocabulary size and shard size have to be above 0")
    found = _Findings()
    entries = read_entries(path, settings.format, settings.dictionary)
    for entry in tqdm(entries, desc="checking", unit="recording", disable=not progress):
        largest = int(entry.units.max())
        if size is not None and largest >= size:
            raise UserError(
                f"{entry.where}: unit {largest} of a vocabulary of {size}, which ends at "
                f"{size - 1}; these units were made by another one"
            )
        if size is None and largest >= _LARGEST_GUESS:
            raise UserError(
                f"{entry.where}: unit {largest} is larger than any known vocabulary; mend it, or "
                "say --vocabulary-size"
            )
        row_id, n_samples = names.find(entry, found.n_entries)
        digest = _digest(entry, settings)
        if row_id in found.names:
            if digest and digest == found.names[row_id]:
                continue
            found.duplicates[row_id] = found.duplicates.get(row_id, 1) + 1
        found.names[row_id] = digest
        found.n_entries += 1
        found.largest = max(found.largest, largest)
        found.has_durations |= entry.durations is not None
        found.has_repetitions |= bool((entry.units[1:] == entry.units[:-1]).any())
        if n_samples is not None and (entry.durations is not None or not _holds_runs(settings)):
            _check_length(entry, n_samples, rate)
    if not found.n_entries:
        raise UserError(f"{path}: holds no recordings")
    if found.duplicates:
        raise UserError(
            f"{path}: {len(found.duplicates)} names stand for more than one recording: "
            f"{first_few(sorted(found.duplicates), 10)}; they cannot be told apart, rename them"
        )
    names.require_all_used(found.n_entries, path)
    return found


def _digest(entry: Entry, settings: ImportSettings) -> bytes:
    """Hash of the units where a file may hold a recording again: a prompt of several pairs."""
    if settings.format not in REPEATS:
        return b""
    return hashlib.blake2b(entry.units.tobytes(), digest_size=8).digest()


def _check_length(entry: Entry, n_samples: int, rate: float) -> None:
    n_frames = _n_frames(entry)
    expected = n_samples * rate / SAMPLE_RATE
    if abs(n_frames - expected) > _SPARE_FRAMES + 0.02 * expected:
        raise UserError(
            f"{entry.where}: {n_frames} frames, but {n_samples} samples at 16 kHz are "
            f"{expected:.0f} frames at {rate:g} Hz; say --kind runs where repetitions were "
            "dropped, or --frame-rate, or give a manifest that counts samples at 16 kHz"
        )


def _rows(
    path: str | Path, settings: ImportSettings, names: RecordingNames, rate: float
) -> Iterator[CorpusRow]:
    merge = settings.deduplicate and not _holds_runs(settings)
    entries = read_entries(path, settings.format, settings.dictionary)
    given: set[str] = set()
    for number, entry in enumerate(entries):
        row_id, n_samples = names.find(entry, number)
        if settings.format in REPEATS:
            if row_id in given:
                continue
            given.add(row_id)
        units, durations = entry.units, entry.durations
        pitch = None
        if entry.f0 is not None:
            pitch = entry.f0 if durations is None else np.repeat(entry.f0, durations)
        # Runs of one unit that a file with durations keeps apart stay so.
        if durations is None and merge:
            units, durations = deduplicate(units)
        elif durations is not None and not settings.deduplicate:
            units, durations = np.repeat(units, durations), None
        if n_samples is None:
            n_samples = round(_n_frames(entry) * SAMPLE_RATE / rate)
        yield CorpusRow(row_id, units, durations, n_samples, entry.speaker, pitch)


def _write(writer: CorpusWriter, index: int, rows: list[CorpusRow]) -> int:
    if not writer.has_shard(index):
        writer.write_shard(index, rows)
    return index + 1


def _n_frames(entry: Entry) -> int:
    return len(entry.units) if entry.durations is None else int(entry.durations.sum())


def _holds_runs(settings: ImportSettings) -> bool:
    if settings.kind == "auto":
        return settings.format in USUALLY_RUNS
    return settings.kind == "runs"


def _remarks(found: _Findings, runs: bool) -> list[str]:
    remarks = []
    if runs and found.has_repetitions:
        remarks.append(
            "units repeat in this file: if they are one a frame, import it with --kind frames"
        )
    elif runs:
        remarks.append(
            "durations are unknown: each unit counts as one frame, so lengths in seconds are wrong"
        )
    elif not found.has_durations and not found.has_repetitions:
        remarks.append(
            "no unit follows itself in this file: if repetitions were dropped, import it with "
            "--kind runs"
        )
    return remarks


def _source(path: str | Path, settings: ImportSettings, runs: bool) -> dict[str, Any]:
    """What the corpus is made of, so that a resumed run can tell whether it is the same."""
    digest = hashlib.sha256()
    files = {"textless": list(streams(path).values()), "fairseq": list(data_files(path))}
    others = [settings.manifest, settings.dictionary]
    for file in [*files.get(settings.format, [Path(path)]), *others]:
        if file is not None and file.is_file():
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return {
        "format": settings.format,
        "file": Path(path).name,
        "files_hash": digest.hexdigest()[:16],
        "root": settings.root,
        "shard_size": settings.shard_size,
        "deduplicated": settings.deduplicate,
        "durations": "unknown" if runs else "known",
    }
