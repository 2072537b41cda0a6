"""textlesslib's streams: `out.units`, `out.durations` and `out.f0s`, a line for each recording.

As its tools/distributed_transcribe writes them: numbers between blanks; with `--preserve_name`
each line begins with the stem and a tab. F0 is in whole Hz, one value a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from gslm.errors import UserError
from gslm.units.formats.lines import (
    Entry,
    as_text,
    parse_ids,
    read_lines,
    writable_name,
    write_together,
)


def streams(path: str | Path) -> dict[str, Path]:
    """The files of a triple by stream, from the name of `out.units` or from `out`."""
    prefix = str(path).removesuffix(".units")
    return {name: Path(f"{prefix}.{name}") for name in ("units", "durations", "f0s")}


def read_textless(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line of `out.units`, with durations and F0 where those files are there.

    path: `out.units`, or `out`. Raises `UserError` where the streams differ in lines, names or
    numbers a line.
    """
    files = streams(path)
    present = [name for name in files if name == "units" or files[name].is_file()]
    for lines in zip_longest(*(read_lines(files[name]) for name in present)):
        if None in lines:
            raise UserError(
                f"{files['units']}: the files beside it have another number of lines; copy "
                f"{', '.join(files[name].name for name in present)} from one run"
            )
        yield _entry(dict(zip(present, lines, strict=True)))


def _entry(lines: dict[str, tuple[str, str]]) -> Entry:
    """An entry from (place, text) of each stream."""
    names, numbers = {}, {}
    for stream, (where, line) in lines.items():
        names[stream], _, text = line.rpartition("\t")
        numbers[stream] = parse_ids(text, where)
    where = lines["units"][0]
    if len(set(names.values())) > 1:
        raise UserError(
            f"{where}: the streams name different recordings, {', '.join(names.values())}"
        )
    if len({len(values) for values in numbers.values()}) > 1:
        found = ", ".join(f"{len(values)} {stream}" for stream, values in numbers.items())
        raise UserError(f"{where}: the streams differ in length ({found})")
    durations = numbers.get("durations")
    if durations is not None and not durations.all():
        raise UserError(
            f"{lines['durations'][0]}: a duration of 0; each unit takes a frame or more"
        )
    f0 = numbers["f0s"].astype(np.float32) if "f0s" in numbers else None
    return Entry(names["units"], numbers["units"], durations, f0=f0, where=where)


def write_textless(path: str | Path, entries: Iterable[Entry]) -> list[Path]:
    """Write the units, the durations, and F0 where the first entry has it; gives the files.

    An entry without durations has a frame a unit. An F0 file of before is removed where there is no
    F0. Raises `UserError` where some entries have F0
    and others have none.
    """
    remaining = iter(entries)
    first = next(remaining, None)
    with_f0 = first is not None and first.f0 is not None
    paths = [file for name, file in streams(path).items() if name != "f0s" or with_f0]

    def write(targets: list[Path]) -> None:
        with ExitStack() as stack:
            files = [
                stack.enter_context(target.open("w", encoding="utf-8", newline="\n"))
                for target in targets
            ]
            for entry in _chained(first, remaining):
                for file, line in zip(files, _lines(entry, with_f0), strict=True):
                    file.write(line)

    write_together(paths, write)
    if not with_f0:
        # An older one would be read as the pitch of these units.
        streams(path)["f0s"].unlink(missing_ok=True)
    return paths


def _chained(first: Entry | None, rest: Iterator[Entry]) -> Iterator[Entry]:
    if first is not None:
        yield first
    yield from rest


def _lines(entry: Entry, with_f0: bool) -> list[str]:
    if with_f0 != (entry.f0 is not None):
        raise UserError(f"{entry.name}: only some recordings have a pitch; give it to all or none")
    if entry.durations is None:
        entry = replace(entry, durations=np.ones_like(entry.units))
    assert entry.durations is not None
    columns = [entry.units, entry.durations]
    if entry.f0 is not None:
        columns.append(np.rint(entry.f0).astype(np.int32))
    name = writable_name(entry.name, "\t")
    return [f"{name}{chr(9) if name else ''}{as_text(column)}\n" for column in columns]
