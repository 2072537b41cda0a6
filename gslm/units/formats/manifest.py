"""fairseq's audio manifest: the root folder, then `relative path<TAB>samples` a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gslm.errors import UserError
from gslm.units.formats.lines import (
    Entry,
    parse_count,
    read_lines,
    writable_name,
    write_lines,
)


def manifest_root(path: str | Path) -> Path:
    """The folder that a manifest's first line names."""
    first = next(read_lines(path), None)
    if first is None or not first[1].strip() or "\t" in first[1]:
        raise UserError(f"{path}: no manifest; its first line has to name the folder of the audio")
    return Path(first[1].strip())


def read_manifest(path: str | Path) -> Iterator[tuple[str, int | None]]:
    """Yield each recording's path below the root, and its samples where the manifest has them.

    Raises `UserError`, naming the line, for what is no such line.
    """
    manifest_root(path)
    lines = read_lines(path)
    next(lines)
    for where, line in lines:
        if not line.strip():
            continue
        name, tab, samples = line.partition("\t")
        n_samples = parse_count(samples) if tab else None
        if not name or (tab and n_samples is None):
            raise UserError(f"{where}: expected a path, a tab and a number of samples")
        yield name, n_samples


def recordings_of(
    folder: str | Path | None, manifest: str | Path | None
) -> tuple[Path, list[str] | None]:
    """Folder of the audio, and the paths that a manifest lists; None where there is no manifest.

    The folder is the manifest's own where None. Raises `UserError` where neither is given, or the
    manifest lists nothing.
    """
    if manifest is None:
        if folder is None:
            raise UserError("name a folder of audio, or a --manifest")
        return Path(folder), None
    paths = [path for path, _ in read_manifest(manifest)]
    if not paths:
        raise UserError(f"{manifest}: lists no recordings")
    return Path(folder or manifest_root(manifest)), paths


def write_audio_manifest(path: str | Path, entries: Iterable[Entry], root: str) -> None:
    """Write the manifest of recordings named by their path below `root`."""
    if not root:
        raise UserError("a manifest names the folder of the audio; give it with --root")
    root = writable_name(root, "\t")

    def lines() -> Iterator[str]:
        yield f"{root}\n"
        for entry in entries:
            yield f"{writable_name(entry.name, chr(9))}\t{entry.n_samples}\n"

    write_lines(Path(path), lines())
