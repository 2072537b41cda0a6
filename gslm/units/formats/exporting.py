"""A corpus to a unit file of another toolkit, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gslm.corpus import Corpus, CorpusRow
from gslm.errors import UserError
from gslm.types import deduplicate
from gslm.units.formats.fairseq_binary import (
    new_dictionary_path,
    read_dictionary,
    unit_counts,
    write_fairseq,
    write_fairseq_anew,
)
from gslm.units.formats.kinds import (
    KEEPS_DURATIONS,
    USUALLY_RUNS,
    Format,
    Naming,
    require_used,
)
from gslm.units.formats.lines import Entry
from gslm.units.formats.manifest import write_audio_manifest
from gslm.units.formats.names import written_names
from gslm.units.formats.python_lines import write_dgslm, write_resynthesis
from gslm.units.formats.quantized_text import write_quantized_text
from gslm.units.formats.s2ut import read_sources, write_s2ut
from gslm.units.formats.slamkit import (
    write_slamkit_features,
    write_slamkit_preference,
    write_slamkit_tokens,
)
from gslm.units.formats.textless import write_textless
from gslm.units.formats.unit_hifigan import write_unit_hifigan

_NAMELESS = ("text", "textless", "fairseq")
_BY_BASENAME = ("text", "textless", "dgslm", "s2ut")


@dataclass(frozen=True)
class ExportSettings:
    """What of a corpus is written, and how."""

    format: Format
    """The format's name."""
    names: Naming | None = None
    """What recordings are called; as the format's own toolkit does where None."""
    deduplicate: bool | None = None
    """Merge runs of a unit to one; as the format's own toolkit does where None."""
    root: str = ""
    """Folder of the audio, put before paths; a manifest's first line."""
    split: str = "all"
    """train, held_out or all."""
    dictionary: Path | None = None
    """dict.txt to binarise with; a new one is written beside the data where None."""
    sources: Path | None = None
    """fairseq's manifest of S2UT's source recordings; the corpus' own recordings where None."""
    key: str | None = None
    """What speech-resynthesis calls the units; hubert where None."""

    @property
    def merges(self) -> bool:
        """Whether runs of a unit become one."""
        if self.deduplicate is not None:
            return self.deduplicate
        return self.format in KEEPS_DURATIONS | USUALLY_RUNS

    @property
    def naming(self) -> Naming:
        """What recordings are called."""
        if self.format == "fairseq":
            return "none"
        return self.names or ("basename" if self.format in _BY_BASENAME else "audio")


def export_corpus(
    corpus: Corpus, path: str | Path, settings: ExportSettings, progress: bool = True
) -> list[Path]:
    """Write a corpus' units as `settings.format` has them; gives the files.

    Nothing is left at `path` where it fails. Raises `UserError` where two recordings would share a
    name, the format cannot hold one or follow a setting, or there is no recording.
    """
    path = Path(path)
    if path.is_dir() or not path.name:
        raise UserError(f"{path}: a folder; name the file to write, such as {path / 'units'}")
    _check(settings)
    if settings.format == "fairseq":
        return _export_fairseq(corpus, path, settings, progress)
    return _write(path, _entries(corpus, settings, progress), settings)


def _check(settings: ExportSettings) -> None:
    """Raise a `UserError` for settings that the format cannot follow, or would pass over."""
    given = {name: getattr(settings, name) for name in ("dictionary", "key", "sources")}
    require_used(settings.format, given)
    if settings.naming == "none" and settings.format not in _NAMELESS:
        raise UserError(f"--names none: {settings.format} names every recording")
    if settings.format == "fairseq" and settings.names not in (None, "none"):
        raise UserError(f"--names {settings.names}: fairseq's data hold no names; leave it out")
    if settings.format == "dgslm" and settings.merges:
        raise UserError("dgslm holds a unit a frame of both channels; leave out --deduplicate")
    has_paths = settings.format == "manifest" or settings.naming == "audio"
    if settings.root and not has_paths and (settings.format != "s2ut" or settings.sources):
        raise UserError("--root goes before whole paths alone; leave it out, or use --names audio")


def _write(path: Path, entries: Iterator[Entry], settings: ExportSettings) -> list[Path]:
    match settings.format:
        case "text":
            write_quantized_text(path, entries)
        case "textless":
            return write_textless(path, entries)
        case "slamkit":
            write_slamkit_features(path, entries)
        case "slamkit-tokens":
            write_slamkit_tokens(path, entries)
        case "slamkit-preference":
            write_slamkit_preference(path, entries)
        case "unit-hifigan":
            write_unit_hifigan(path, entries)
        case "resynthesis":
            write_resynthesis(path, entries, settings.key or "hubert")
        case "dgslm":
            write_dgslm(path, entries)
        case "s2ut":
            sources = None if settings.sources is None else read_sources(settings.sources)
            write_s2ut(path, entries, sources, settings.root)
        case "manifest":
            write_audio_manifest(path, entries, settings.root)
    return [path]


def _entries(corpus: Corpus, settings: ExportSettings, progress: bool) -> Iterator[Entry]:
    # A manifest's root stands in its first line.
    root = "" if settings.format == "manifest" else settings.root
    rows = written_names(corpus.rows(settings.split), settings.naming, root)
    n_rows = 0
    for row, name in tqdm(
        rows,
        desc="exporting",
        unit="recording",
        total=len(corpus) if settings.split == "all" else None,
        disable=not progress,
    ):
        n_rows += 1
        yield _entry(row, name, settings)
    if not n_rows:
        part = "" if settings.split == "all" else f" in --split {settings.split}"
        raise UserError(f"{corpus.folder}: holds no recordings{part}; there is nothing to write")


def _entry(row: CorpusRow, name: str, settings: ExportSettings) -> Entry:
    if settings.merges:
        units, durations = deduplicate(row.units, row.durations)
    else:
        units = row.units if row.durations is None else np.repeat(row.units, row.durations)
        durations = np.ones_like(units)
    f0 = None
    if row.pitch is not None and settings.format == "textless":
        f0 = _mean_pitch(row, durations)
    return Entry(name, units, durations, row.n_samples, row.speaker, f0, row.id)


def _mean_pitch(row: CorpusRow, durations: NDArray[np.int32]) -> NDArray[np.float32]:
    """Mean over the voiced frames of each unit in Hz (n,), 0 where none is voiced."""
    pitch = row.pitch
    if pitch is None or len(pitch) != durations.sum():
        raise UserError(f"{row.id}: its pitch is not one value a frame; encode it again")
    starts = np.cumsum(durations) - durations
    total = np.add.reduceat(pitch.astype(np.float64), starts)
    voiced = np.add.reduceat((pitch > 0).astype(np.int64), starts)
    return (total / np.maximum(voiced, 1)).astype(np.float32)


def _export_fairseq(
    corpus: Corpus, path: Path, settings: ExportSettings, progress: bool
) -> list[Path]:
    if settings.dictionary is not None:
        dictionary = read_dictionary(settings.dictionary)
        return write_fairseq(path, _entries(corpus, settings, progress), dictionary)
    dictionary_path = new_dictionary_path(path)
    if dictionary_path.exists():
        raise UserError(
            f"{dictionary_path}: there is a dictionary already; use it with --dictionary "
            f"{dictionary_path}, or write to another folder"
        )
    entries = _entries(corpus, settings, progress)
    counts = unit_counts(entries, corpus.fingerprint.vocabulary_size)
    return write_fairseq_anew(path, _entries(corpus, settings, progress), counts)
