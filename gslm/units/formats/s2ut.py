"""fairseq's S2UT tables: a source recording and its target units a line, after a line of names.

As prep_s2ut_data.py writes them: `id, src_audio, src_n_frames, tgt_audio, tgt_n_frames`, with
units under `tgt_audio` and frames of 160 samples for the source; or `id, audio, n_frames, tgt_text,
tgt_n_frames`, and `id, tgt_text` for multitasks. The target's own length in samples is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from gslm.audio import clip_id, resolve_inside
from gslm.errors import UserError
from gslm.units.formats.lines import (
    Entry,
    as_text,
    parse_ids,
    read_lines,
    writable_name,
    write_lines,
)
from gslm.units.formats.manifest import manifest_root, read_manifest

COLUMNS = ("id", "src_audio", "src_n_frames", "tgt_audio", "tgt_n_frames")
_SOURCE_HOP = 160
"""Samples at 16 kHz of a frame of the source."""


def read_s2ut(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line, with the target's units, named by the column `id`.

    Raises `UserError` for a table without units, or where `tgt_n_frames` is not their number.
    """
    lines = read_lines(path)
    columns = next(lines, ("", ""))[1].split("\t")
    units_column = next((name for name in ("tgt_audio", "tgt_text") if name in columns), None)
    if "id" not in columns or units_column is None:
        raise UserError(
            f"{path}: no S2UT table; its first line has to name the columns, such as "
            f"{' '.join(COLUMNS)}"
        )
    for where, line in lines:
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise UserError(f"{where}: {len(cells)} cells, but {len(columns)} columns are named")
        row = dict(zip(columns, cells, strict=True))
        units = parse_ids(row[units_column], where)
        if row.get("tgt_n_frames", str(len(units))) != str(len(units)):
            raise UserError(
                f"{where}: {len(units)} units, but tgt_n_frames says {row['tgt_n_frames'][:60]}"
            )
        yield Entry(row["id"], units, where=where)


def read_sources(path: str | Path) -> dict[str, tuple[str, int]]:
    """From the stem of each recording of an audio manifest to its path and samples.

    Raises `UserError` where two recordings share a stem, one leads out of the manifest's folder,
    or the manifest has no samples.
    """
    root = manifest_root(path)
    sources: dict[str, tuple[str, int]] = {}
    for name, n_samples in read_manifest(path):
        stem = PurePosixPath(clip_id(name)).name
        if n_samples is None:
            raise UserError(f"{path}: {name} has no number of samples; S2UT tables hold it")
        if stem in sources:
            raise UserError(f"{path}: two recordings are called {stem}; rename one")
        sources[stem] = (resolve_inside(root, name).as_posix(), n_samples)
    return sources


def write_s2ut(
    path: str | Path,
    entries: Iterable[Entry],
    sources: Mapping[str, tuple[str, int]] | None = None,
    root: str = "",
) -> None:
    """Write the table; durations are lost.

    sources: from the stem of an entry's name to its source recording's path and samples at
    16 kHz; the entry's own recording below `root` where None. Raises `UserError` for an entry
    without a source.
    """
    write_lines(Path(path), _lines(entries, sources, root))


def _lines(
    entries: Iterable[Entry], sources: Mapping[str, tuple[str, int]] | None, root: str
) -> Iterator[str]:
    yield "\t".join(COLUMNS) + "\n"
    for entry in entries:
        if sources is None:
            audio = f"{root.rstrip('/')}/{entry.where}" if root else entry.where
            n_samples = entry.n_samples or 0
        elif (source := sources.get(PurePosixPath(entry.name).name)) is not None:
            audio, n_samples = source
        else:
            raise UserError(f"{entry.name}: the manifest of --sources names no such recording")
        cells = [
            writable_name(entry.name, "\t"),
            writable_name(audio, "\t"),
            str(n_samples // _SOURCE_HOP),
            as_text(entry.units),
            str(len(entry.units)),
        ]
        yield "\t".join(cells) + "\n"
