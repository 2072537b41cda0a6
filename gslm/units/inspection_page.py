"""What `gslm units inspect` finds as one HTML page that needs nothing else, in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gslm.bundle import write_text
from gslm.units.inspection import Inspection, UnitUsage, figures, most_used
from gslm.units.phone_agreement import PhoneCounts
from gslm.units.phone_labels import SILENCE
from gslm.units.svg_charts import bars, heat_map, ranks

# ARPAbet by manner, so that sounds that are alike stand together in the picture.
_ORDER = [
    "IY", "IH", "EY", "EH", "AE", "AA", "AO", "AH", "UH", "OW", "UW", "ER", "AY", "AW", "OY",
    "Y", "W", "R", "L", "M", "N", "NG", "V", "DH", "Z", "ZH", "F", "TH", "S", "SH", "HH",
    "JH", "CH", "B", "D", "G", "P", "T", "K",
]  # fmt: skip

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --panel: #f5f6f8; --text: #1c1f24;
  --soft: #5b6370; --line: #d9dce2; --first: #2f7de1; --second: #d9730d; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14161a; --panel: #1d2026; --text: #e7e9ed; --soft: #a0a7b4;
    --line: #363b45; --first: #5a9cf0; --second: #f0a04b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1040px; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 8px; }
p { margin: 6px 0 0; color: var(--soft); font-size: 13px; }
section { background: var(--panel); border-radius: 8px; padding: 14px 16px; margin-top: 16px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 0 16px; }
.top { align-items: start; }
.wide { overflow-x: auto; }
.wide svg { min-width: 640px; }
svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
td, th { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
table.facts td { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); }
.axis { stroke: var(--line); stroke-width: 1; fill: none; }
.label { fill: var(--soft); font: 11px system-ui, sans-serif; }
.mark-1 { fill: var(--first); }
.mark-2 { fill: var(--second); }
.line-1, .line-2 { fill: none; stroke-width: 2; stroke: var(--first); }
.line-2 { stroke: var(--second); }
"""


def write_page(path: str | Path, inspection: Inspection, title: str, top: int = 10) -> None:
    """Write the page, atomically: figures, pictures, and the `top` most frequent units.

    With phone labels there are the figures of each speaker, each phone, and the share of each
    phone in each unit as well.
    """
    write_text(path, page(inspection, title, top))


def page(inspection: Inspection, title: str, top: int = 10) -> str:
    """The page as text; `title` names the corpus."""
    usage, agreement = inspection.usage, inspection.agreement
    counts = agreement.all if agreement else None
    facts = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(figure)}</td></tr>"
        for name, figure in figures(inspection)
    )
    lengths = [_durations(usage), _mean_runs(usage)] if usage.has_durations else []
    parts = [
        _section("Figures", f'<div class="wide"><table class="facts">{facts}</table></div>'),
        f'<div class="pair">{_zipf(usage)}{"".join(lengths)}',
        _units_table(usage, counts, top),
        "</div>",
    ]
    if agreement and counts:
        parts += [_unit_by_phone(counts), '<div class="pair top">', _phones_table(counts)]
        speakers = agreement.by_speaker()
        if len(speakers) > 1:
            parts.append(_speakers_table(chain([("all", counts)], speakers.items())))
        parts.append("</div>")
    name = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Units of {name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Units of {name}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _zipf(usage: UnitUsage) -> str:
    series = {
        name: np.sort(counts[counts > 0])[::-1] / counts.sum()
        for name, counts in (("frames", usage.frames), ("runs", usage.runs))
        if name == "runs" or usage.has_durations
    }
    unused = len(usage.frames) - usage.n_used
    note = f"{unused} units are never used." if unused else "Every unit is used."
    return _section(
        "Use by rank (Zipf)", ranks(series, "rank", "share"), f"Both axes are logarithmic. {note}"
    )


def _durations(usage: UnitUsage) -> str:
    shares = usage.run_lengths[1:] / usage.run_lengths.sum() * 100
    shown = max(10, int(np.flatnonzero(np.cumsum(shares) >= 99.5)[0]) + 1)
    step = 1000 / usage.fingerprint.frame_rate
    # A run of n frames stands at n steps; what is longer than shown joins the last bar.
    heights = np.append(shares[: shown - 1], shares[shown - 1 :].sum())
    edges = (np.arange(len(heights) + 1) + 0.5) * step
    return _section(
        "Durations",
        bars(edges, heights, "length of a run (ms)", "share of runs (%)"),
        "The last bar holds all longer runs.",
    )


def _mean_runs(usage: UnitUsage) -> str:
    used = usage.frames > 0
    means = usage.frames[used] / usage.runs[used]
    bounds = (1.0, max(2.0, float(np.quantile(means, 0.99))))
    heights, edges = np.histogram(np.minimum(means, bounds[1]), bins=30, range=bounds)
    return _section(
        "Run length of each unit",
        bars(edges, heights, "mean frames a run", "units"),
        "The last bar holds units with longer runs, of which silence is often one.",
    )


def _units_table(usage: UnitUsage, counts: PhoneCounts | None, top: int) -> str:
    header = ["unit", "frames", "frames a run"] if usage.has_durations else ["unit", "share"]
    header += ["phone", "its share"] if counts else []
    rows = []
    for unit in most_used(usage)[:top]:
        row = [f"{unit}", f"{usage.frames[unit] / usage.frames.sum():.2%}"]
        if usage.has_durations:
            row.append(f"{usage.frames[unit] / usage.runs[unit]:.1f}")
        if counts:
            row += _commonest(counts.counts[unit], counts.phones)
        rows.append(row)
    return _section("Most used units", _table(header, rows))


def _unit_by_phone(counts: PhoneCounts) -> str:
    """Columns are units, those of one phone side by side; rows are phones."""
    order = _phone_order(counts)
    used = np.flatnonzero(counts.counts.any(1))
    shares = counts.counts[used][:, order] / counts.counts[used].sum(1, keepdims=True)
    columns = np.lexsort((-shares.max(1), shares.argmax(1)))
    picture = heat_map(
        shares[columns].T,
        [counts.phones[index] for index in order],
        f"{len(used)} units, in the order of their most frequent phone",
    )
    return _section(
        "Units by phone",
        f'<div class="wide">{picture}</div>',
        "Each column is a unit; the stronger the colour, the larger the share of its frames that "
        "are of the phone.",
    )


def _phones_table(counts: PhoneCounts) -> str:
    units_of = np.bincount(
        counts.counts[counts.counts.any(1)].argmax(1), minlength=len(counts.phones)
    )
    rows = []
    for index in _phone_order(counts):
        column = counts.counts[:, index]
        best = int(column.argmax())
        right = column[counts.counts.argmax(1) == index].sum() / column.sum()
        rows.append(
            [
                counts.phones[index],
                f"{column.sum() / counts.n_frames:.2%}",
                f"{units_of[index]}",
                f"{right:.0%}",
                f"{best}",
                f"{column[best] / column.sum():.0%}",
            ]
        )
    header = ["phone", "frames", "its units", "frames in them", "main unit", "its share"]
    note = "A phone's own units are those of which it is the most frequent phone."
    return _section("Phones", f'<div class="wide">{_table(header, rows)}</div>', note)


def _speakers_table(rows: Iterable[tuple[str, PhoneCounts]]) -> str:
    header = ["speaker", "PNMI", "phone purity", "cluster purity", "frames"]
    cells = [
        [
            name or "-",
            f"{counts.pnmi:.3f}",
            f"{counts.phone_purity:.3f}",
            f"{counts.cluster_purity:.3f}",
            f"{counts.n_frames}",
        ]
        for name, counts in rows
    ]
    return _section("Speakers", f'<div class="wide">{_table(header, cells)}</div>')


def _phone_order(counts: PhoneCounts) -> list[int]:
    """Indices of the phones that occur: ARPAbet by manner, then others by name, then silence."""
    place = {name: number for number, name in enumerate(_ORDER)}
    occurring = np.flatnonzero(counts.counts.any(0)).tolist()
    return sorted(
        occurring,
        key=lambda index: (
            counts.phones[index] == SILENCE,
            place.get(counts.phones[index], len(place)),
            counts.phones[index],
        ),
    )


def _commonest(counts: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Name and share of the largest count; nothing where all are 0."""
    if not counts.any():
        return ["", ""]
    return [names[int(counts.argmax())], f"{counts.max() / counts.sum():.0%}"]


def _section(heading: str, body: str, note: str = "") -> str:
    caption = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(heading)}</h2>{body}{caption}</section>"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
