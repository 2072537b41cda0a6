"""`name|1 2 3`, as fairseq's quantize_with_kmeans.py writes it.

Stereo recordings are called `name-channel1` and `name-channel2`. With its `--hide-fname` the lines
are units alone. The format holds no durations. uLM prompts (`id|units`) and samples
(`id__k|units`) are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gslm.errors import UserError
from gslm.units.formats.lines import (
    Entry,
    as_text,
    parse_ids,
    read_lines,
    writable_name,
    write_lines,
)


def read_quantized_text(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line; without a name where the line is units alone.

    Raises `UserError`, naming the line, for what is no unit.
    """
    for where, line in read_lines(path):
        name, bar, units = line.rpartition("|")
        if bar and not name:
            raise UserError(f"{where}: no name before the '|'")
        yield Entry(name, parse_ids(units, where), where=where)


def write_quantized_text(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write `name|units`, or the units alone of an entry without a name."""
    write_lines(Path(path), map(_line, entries))


def _line(entry: Entry) -> str:
    # Other readers than ours split at the first bar.
    name = writable_name(entry.name, "|")
    return f"{name}{'|' if name else ''}{as_text(entry.units)}\n"
