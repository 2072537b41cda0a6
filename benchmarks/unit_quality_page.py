"""Draw up docs/unit-scores.md and its picture from the rows of `benchmarks/unit_quality.py`.

python benchmarks/unit_quality_page.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unit_quality import LAYERS
from unit_quality_rows import RESULTS, read_rows

PAGE = Path(__file__).parent.parent / "docs" / "unit-scores.md"
MARKS = {"hard": "o", "smoothed 1": "v", "smoothed 2": "s", "syllables": "*"}
SHOWN = (
    "MFCC, per file",
    "tiny.en 2, per frame and dimension",
    "tiny.en 3, per frame",
    "base 4, per frame",
)
"""Features that the picture shows."""
ABOUT = """# Units, scored

Every row of `results/unit_quality.jsonl`: ABX errors in percent on triphones, PNMI from 0 to 1,
units and bits of de-duplicated units a second. *Within*: the speaker of X is that of A and B;
*across*: another one. The first figures are of all 49 minutes; then those of the recorded woman and
of flite's three voices by themselves. k-means saw other speech. [units.md](units.md#which-units)
says what follows from it, [eval.md](eval.md) what the scores are.

    gslm eval make abx -o abx-sets
    python benchmarks/unit_quality.py abx-sets --work WORK
    python benchmarks/unit_quality_page.py

![ABX error across speakers against bits a second](unit-scores.png)

Units: *continuous*, the features themselves; *hard*, one a frame; *smoothed*, with the penalty for
a change; *syllables*; *soft*, by the angles between them.
"""


def main() -> None:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    rows = read_rows(arguments.results)
    arguments.page.write_text(f"{ABOUT}\n{table(rows)}\n", encoding="utf-8")
    draw(rows, arguments.page.with_suffix(".png"))


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table, ABX in percent."""
    lines = [
        "| features | units | K | units/s | bits/s | PNMI | within | across | recorded: PNMI "
        "| within | synthetic: PNMI | within | across |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    order = [layer.name for layer in LAYERS]
    for row in sorted(
        rows, key=lambda row: (order.index(row["features"]), row["kind"], row["k"] or 0)
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


def draw(rows: list[dict], path: Path) -> None:
    """Errors across speakers against bits a second, one line for each K from 50 to 500."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for color, name in zip(colormaps["tab10"].colors, SHOWN, strict=False):
        for kind, mark in MARKS.items():
            chosen = [row for row in rows if (row["features"], row["kind"]) == (name, kind)]
            chosen.sort(key=lambda row: row["k"])
            if chosen:
                axes.plot(
                    [row["bits_per_second"] for row in chosen],
                    [100 * row["across"] for row in chosen],
                    mark + "-",
                    color=color,
                    label=f"{name}: {kind}",
                )
    axes.set(
        xlabel="bits a second", ylabel="ABX error across speakers, %", xscale="log", yscale="log"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside right upper", fontsize="x-small")
    axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
