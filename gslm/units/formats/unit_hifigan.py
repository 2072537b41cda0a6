"""unit-hifigan's JSONL manifests: `audio`, `units`, and where known `speaker` and `style`.

Units are one a frame. A corpus has no styles: they are passed over on reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gslm.units.formats.lines import (
    Entry,
    checked_ids,
    json_line,
    read_json_lines,
    required,
    required_text,
    write_lines,
)


def read_unit_hifigan(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line, named by the audio's path."""
    for where, record in read_json_lines(path):
        units = checked_ids(required(record, "units", where), where)
        speaker = required_text(record, "speaker", where) if "speaker" in record else ""
        yield Entry(required_text(record, "audio", where), units, speaker=speaker, where=where)


def write_unit_hifigan(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write `audio`, `units`, and `speaker` where it is known; durations are lost."""
    write_lines(Path(path), map(_line, entries))


def _line(entry: Entry) -> str:
    speaker = {"speaker": entry.speaker} if entry.speaker else {}
    return json_line(audio=entry.name, units=entry.units.tolist(), **speaker)
