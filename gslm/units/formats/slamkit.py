"""SlamKit's JSONL: features (`units`, `duration`, `file_name`), tokens (`<Un3><Un49>`), pairs.

As its extract_features.py, prepare_tokens.py and preference_alignment_feature_extractor.py write
them. `file_name` is the audio's path. Features hold durations in frames; tokens are usually of
merged runs and hold none. A line of pairs (for DPO) holds a prompt and two continuations, the
chosen and the rejected one, as tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslm.errors import UserError
from gslm.units.formats.groups import grouped
from gslm.units.formats.lines import (
    Entry,
    checked_ids,
    json_line,
    read_json_lines,
    required,
    required_text,
    write_lines,
)

_TOKENS = re.compile(r"(?:<Un[0-9]{1,9}>)+")
_TOKEN = re.compile(r"[0-9]+")
_ROLES = ("prompt", "chosen", "rejected")
_ENDINGS = ("_prompt", "_chosen", "_rejected")
"""How the recordings of a line of pairs end, after SlamKit's own data sets."""


def read_slamkit_features(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line, with its durations where it has them."""
    for where, record in read_json_lines(path):
        units = checked_ids(required(record, "units", where), where)
        durations = None
        if "duration" in record:
            durations = checked_ids(record["duration"], where, "durations")
            if len(durations) != len(units) or not durations.all():
                raise UserError(
                    f"{where}: {len(units)} units, {len(durations)} durations; expected as many, "
                    "each of a frame or more"
                )
        yield Entry(required_text(record, "file_name", where), units, durations, where=where)


def write_slamkit_features(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write `units`, `duration` and `file_name`; a frame a unit where there are no durations."""
    write_lines(Path(path), map(_features, entries))


def _features(entry: Entry) -> str:
    durations = np.ones_like(entry.units) if entry.durations is None else entry.durations
    return json_line(units=entry.units.tolist(), duration=durations.tolist(), file_name=entry.name)


def read_slamkit_tokens(path: str | Path) -> Iterator[Entry]:
    """Yield an entry a line. Raises `UserError` for tokens that are no units, such as text."""
    for where, record in read_json_lines(path):
        yield Entry(required_text(record, "file_name", where), _units(record, where), where=where)


def write_slamkit_tokens(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write `file_name` and `audio_repr`; durations are lost."""
    write_lines(
        Path(path), (json_line(file_name=entry.name, **_tokens(entry)) for entry in entries)
    )


def read_slamkit_preference(path: str | Path) -> Iterator[Entry]:
    """Yield three entries a line, named by `prompt_path`, `chosen_path` and `rejected_path`."""
    for where, record in read_json_lines(path):
        for role in _ROLES:
            tokens = required(record, role, where)
            if not isinstance(tokens, dict):
                raise UserError(f"{where}: {role!r} is no object; expected {{'audio_repr': …}}")
            name = required_text(record, f"{role}_path", where)
            yield Entry(name, _units(tokens, where), where=where)


def write_slamkit_preference(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write a line for entries called `name_prompt`, `name_chosen` and `name_rejected`.

    Durations are lost. Raises `UserError` where one of the three is missing.
    """
    write_lines(Path(path), map(_preference, grouped(entries, _ENDINGS, "slamkit-preference")))


def _preference(group: tuple[str, list[Entry]]) -> str:
    members = dict(zip(_ROLES, group[1], strict=True))
    paths = {f"{role}_path": entry.name for role, entry in members.items()}
    return json_line(**paths, **{role: _tokens(entry) for role, entry in members.items()})


def _units(record: dict[str, Any], where: str) -> NDArray[np.int32]:
    text = required_text(record, "audio_repr", where)
    if not _TOKENS.fullmatch(text):
        raise UserError(
            f"{where}: audio_repr holds more than units, or none; expected <Un3><Un49>, "
            "without text between them"
        )
    return np.array([int(token) for token in _TOKEN.findall(text)], dtype=np.int32)


def _tokens(entry: Entry) -> dict[str, str]:
    return {"audio_repr": "".join(f"<Un{unit}>" for unit in entry.units.tolist())}
