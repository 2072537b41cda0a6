"""Lines that are the print of a Python dictionary: speech-resynthesis and dGSLM.

speech-resynthesis: `{'audio': …, 'hubert': '1 2 3', 'duration': 1.5}`, seconds at 16 kHz; the
units' key names their maker. dGSLM: `{'audio': …, 'unitA': '1 2', 'unitB': '3 4'}`, a unit a frame
in both channels. Lines are read as literals and never run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gslm.audio import SAMPLE_RATE
from gslm.errors import UserError
from gslm.units.formats.groups import grouped
from gslm.units.formats.lines import (
    Entry,
    as_text,
    parse_ids,
    read_lines,
    required_text,
    write_lines,
)

UNIT_KEYS = ("cpc_km100", "vqvae256", "hubert", "codes")
"""What speech-resynthesis calls the units, in the order in which it looks."""

CHANNELS = ("-channel1", "-channel2")
"""How the names of a stereo recording's channels end, after fairseq's quantize_with_kmeans.py."""


def read_resynthesis(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line, named by the audio's path."""
    for where, record in _read_dictionaries(path):
        key = next((key for key in UNIT_KEYS if key in record), None)
        if key is None:
            raise UserError(f"{where}: none of {', '.join(UNIT_KEYS)}; there are no units in it")
        seconds = record.get("duration")
        if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds < 1e9):
            raise UserError(f"{where}: a duration of {str(seconds)[:60]}; expected seconds")
        yield Entry(
            required_text(record, "audio", where),
            parse_ids(required_text(record, key, where), where),
            n_samples=None if seconds is None else round(seconds * SAMPLE_RATE),
            where=where,
        )


def write_resynthesis(path: str | Path, entries: Iterable[Entry], key: str = "hubert") -> None:
    """Write `audio`, the units under `key`, and `duration` in seconds; unit durations are lost."""
    if key not in UNIT_KEYS:
        raise UserError(f"--key {key}: speech-resynthesis knows {', '.join(UNIT_KEYS)}")
    write_lines(Path(path), (_resynthesis_line(entry, key) for entry in entries))


def _resynthesis_line(entry: Entry, key: str) -> str:
    record: dict[str, Any] = {"audio": entry.name, key: as_text(entry.units)}
    if entry.n_samples is not None:
        record["duration"] = entry.n_samples / SAMPLE_RATE
    return f"{record}\n"


def read_dgslm(path: str | Path) -> Iterator[Entry]:
    """Yield two entries a line, `name-channel1` and `name-channel2`.

    Raises `UserError` where the channels differ in length.
    """
    for where, record in _read_dictionaries(path):
        name = required_text(record, "audio", where)
        both = [parse_ids(required_text(record, key, where), where) for key in ("unitA", "unitB")]
        if len(both[0]) != len(both[1]):
            raise UserError(
                f"{where}: {len(both[0])} units in one channel, {len(both[1])} in the other; "
                "expected a unit a frame in both"
            )
        for channel, units in zip(CHANNELS, both, strict=True):
            yield Entry(name + channel, units, where=where)


def write_dgslm(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write a line for each pair of entries called `name-channel1` and `name-channel2`.

    Units have to be one a frame. Raises `UserError` for an entry without its other channel, or
    of another length.
    """
    write_lines(Path(path), _dgslm_lines(entries))


def _dgslm_lines(entries: Iterable[Entry]) -> Iterator[str]:
    for name, channels in grouped(entries, CHANNELS, "dgslm"):
        first, second = (channel.units for channel in channels)
        if len(first) != len(second):
            raise UserError(
                f"{name}: its channels hold {len(first)} and {len(second)} units; "
                "dgslm takes a unit a frame of both"
            )
        yield f"{ {'audio': name, 'unitA': as_text(first), 'unitB': as_text(second)} }\n"


def _read_dictionaries(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a dictionary as Python prints it, {{'audio': …}}")
        yield where, value
