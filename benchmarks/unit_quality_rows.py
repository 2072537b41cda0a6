"""Rows of `results/unit_quality.jsonl`: appended one by one, and read."""

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
