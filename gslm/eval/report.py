"""Per-clip tables and one-line summaries of what a metric found."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gslm.bundle import write_atomically
from gslm.errors import CannotWriteError
from gslm.eval.bootstrap import Interval


def require_writable_table(table: Path | None) -> None:
    """Raise a `UserError` where a table could not be written, before the work that fills it."""
    if table is None:
        return
    folder = next(parent for parent in table.absolute().parents if parent.exists())
    if table.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        found = "a folder" if table.is_dir() else f"{folder} cannot be written to"
        raise CannotWriteError(f"{table}: {found}; name a file in a folder of your own")


def write_table(
    path: Path, rows: Sequence[Any], summary: dict[str, Any] | None = None, *, key: str = "clips"
) -> None:
    """Write dataclass rows, such as one a clip: JSON where the name ends so, else tab-separated.

    The JSON holds `summary` as well, the rows under `key`, and null for NaN. Written atomically;
    raises `UserError` where it can't be.
    """
    records = [dataclasses.asdict(row) for row in rows]
    if path.suffix.lower() == ".json":
        whole = {"summary": summary or {}, key: records}
        text = json.dumps(_without_nan(whole), indent=2, ensure_ascii=False) + "\n"
    else:
        header = list(records[0]) if records else []
        lines = [header, *([_cell(value) for value in record.values()] for record in records)]
        text = "".join("\t".join(line) + "\n" for line in lines)
    write_atomically(path, lambda target: _write(target, text))


def percent(interval: Interval) -> str:
    """A rate with its interval: `4.2 % [2.9, 5.6]`."""
    i = interval.scaled(100)
    return f"{i.estimate:.1f} % [{i.low:.1f}, {i.high:.1f}]"


def points(interval: Interval) -> str:
    """A difference of rates with its interval: `+1.3 points [-0.2, 2.9]`."""
    i = interval.scaled(100)
    return f"{i.estimate:+.1f} points [{i.low:+.1f}, {i.high:+.1f}]"


def as_json(interval: Interval) -> dict[str, float]:
    """An interval for the summary of a JSON table."""
    return dataclasses.asdict(interval)


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which is no JSON."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return " ".join(str(value).split())
