"""Per-clip tables and one-line summaries of what a metric found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gslm.bundle import write_atomically
from gslm.eval.bootstrap import Interval


def write_table(path: Path, rows: Sequence[Any], summary: dict[str, Any] | None = None) -> None:
    """Write dataclass rows, one a clip: JSON where the name ends so, else tab-separated.

    The JSON holds `summary` as well. Written atomically; raises `UserError` where it can't be.
    """
    records = [dataclasses.asdict(row) for row in rows]
    if path.suffix.lower() == ".json":
        whole = {"summary": summary or {}, "clips": records}
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
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


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return " ".join(str(value).split())
