"""Rows of `results/unit_quality.jsonl`: appended one by one, and drawn up as a table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results" / "unit_quality.jsonl"


def add(
    results: Path, features: str, kind: str, k: int | None, seed: int, scores: dict[str, float]
) -> None:
    """Append one row to the results."""
    head = {"features": features, "kind": kind, "k": k, "seed": seed}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    rounded = {name: round(value, 5) for name, value in scores.items()}
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**head, **rounded, "commit": commit}) + "\n")
    print(f"{features}, {kind}, K={k}: {rounded}")


def read_rows(results: Path) -> list[dict]:
    """All rows so far."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def key_of(row: dict) -> tuple:
    """What tells rows apart."""
    return row["features"], row["kind"], row["k"], row["seed"]


def table(rows: list[dict], order: list[str]) -> str:
    """The rows as a Markdown table, ABX in percent; order: the features from top to bottom."""
    lines = [
        "| features | units | K | units/s | bits/s | PNMI | within | across | recorded: PNMI "
        "| within | synthetic: PNMI | within | across |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in sorted(
        rows, key=lambda row: (order.index(row["features"]), row["k"] or 0, row["kind"])
    ):
        cells = [row["features"], row["kind"], row["k"] or ""]
        cells += [_cell(row, "units_per_second", 1), _cell(row, "bits_per_second", 0)]
        for part in ("", "recorded_", "synthetic_"):
            cells += [_cell(row, f"{part}pnmi", 3), _cell(row, f"{part}within", 1, 100)]
            cells += [] if part == "recorded_" else [_cell(row, f"{part}across", 1, 100)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _cell(row: dict, name: str, digits: int, factor: float = 1) -> str:
    return f"{row[name] * factor:.{digits}f}" if name in row else ""
