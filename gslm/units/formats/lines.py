"""What the formats share: an entry, numbered lines, unit ids in text, files written together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslm.bundle import write_atomically
from gslm.errors import UserError

MAX_ID = 2**31 - 1
_NUMBERS = re.compile(r"[0-9\s]+", re.ASCII)
_MOST_DIGITS = 18
"""Python refuses to read numbers of some thousand digits; no unit or length has so many."""


@dataclass(frozen=True)
class Entry:
    """One recording's units as a file gives them, or is to hold them."""

    name: str
    """What the file calls the recording: a stem, or a path; empty where it gives none."""
    units: NDArray[np.int32]
    """Unit ids (n,)."""
    durations: NDArray[np.int32] | None = None
    """Frames of each unit (n,); None where the file gives none."""
    n_samples: int | None = None
    """Samples of the recording at 16 kHz; None where unknown."""
    speaker: str = ""
    """Name of the speaker; empty where unknown."""
    f0: NDArray[np.float32] | None = None
    """Mean fundamental frequency of each unit in Hz (n,), 0 where unvoiced; None where unknown."""
    where: str = ""
    """File and line that it was read from, or the id of a corpus' row."""


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (`file, line 12`, text without its end of line) of a UTF-8 file, line by line.

    Raises `UserError` where the file is missing or not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}, line {number}", line.rstrip("\r\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; is this the format that you named?") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error})") from None


def parse_ids(text: str, where: str) -> NDArray[np.int32]:
    """Unit ids (n,), n at least 1, of decimal numbers between blanks."""
    parts = text.split()
    if not parts:
        raise UserError(f"{where}: holds no units; remove it")
    if not _NUMBERS.fullmatch(text):
        bad = next(part for part in parts if not _NUMBERS.fullmatch(part))
        raise UserError(f"{where}: {_short(bad)!r} is no unit; expected numbers such as 0 12 7")
    longest = max(parts, key=len)
    if len(longest) > _MOST_DIGITS:
        raise UserError(f"{where}: {_short(longest)} among the units; expected 0, 1, 2, …")
    return checked_ids([int(part) for part in parts], where)


def checked_ids(values: Any, where: str, what: str = "units") -> NDArray[np.int32]:
    """A list of whole numbers from 0, as JSON gives it, as int32 (n,), n at least 1."""
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: holds no {what}; expected a list of whole numbers")
    if set(map(type, values)) != {int} or min(values) < 0 or max(values) > MAX_ID:
        bad = next(v for v in values if type(v) is not int or not 0 <= v <= MAX_ID)
        raise UserError(f"{where}: {_short(repr(bad))} among the {what}; expected 0, 1, 2, …")
    return np.array(values, dtype=np.int32)


def as_text(values: NDArray[Any]) -> str:
    """Numbers between blanks."""
    return " ".join(map(str, values.tolist()))


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file, line 12`, object) of a JSONL file; blank lines are passed over."""
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); expected an object a line") from None
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
        yield where, value


def json_line(**fields: Any) -> str:
    """A line of JSONL, its end included."""
    return json.dumps(fields, ensure_ascii=False) + "\n"


def required(record: dict[str, Any], key: str, where: str) -> Any:
    """The value of `key`; `UserError` where the record lacks it."""
    if key not in record:
        raise UserError(f"{where}: lacks {key!r}; it holds {_short(', '.join(map(str, record)))}")
    return record[key]


def required_text(record: dict[str, Any], key: str, where: str) -> str:
    """The text under `key`; `UserError` where the record lacks it or it is no text."""
    value = required(record, key, where)
    if not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is {_short(repr(value))}; expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # JSON and Python spell halves of characters, which no file or corpus can hold.
        raise UserError(
            f"{where}: {key!r} is {_short(repr(value))}, which holds half a character; rename it"
        ) from None
    return value


def parse_count(text: str) -> int | None:
    """A whole number from 0 in decimal digits; None where the text is none."""
    digits = text.strip()
    good = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    return int(digits) if good else None


def first_few(items: Iterable[str], most: int = 5) -> str:
    """The first few, and how many more there are."""
    found = list(items)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def writable_name(name: str, forbidden: str) -> str:
    """The name, or a `UserError` where a character of it would break the line."""
    if bad := next((character for character in name if character in forbidden + "\r\n"), None):
        raise UserError(f"{name!r}: this format cannot hold a name with {bad!r}; rename it")
    return name


def write_together(paths: Sequence[Path], write: Callable[[list[Path]], None]) -> None:
    """Let `write` fill a temporary file for each path; all are renamed once it is done."""

    def fill(temporary: list[Path]) -> None:
        if len(temporary) == len(paths):
            write(temporary)
        else:
            path = paths[len(temporary)]
            write_atomically(path, lambda target: fill([*temporary, target]))

    fill([])


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write lines, each with its end, as UTF-8, atomically and one by one."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)

    write_atomically(path, write)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
