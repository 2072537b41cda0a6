"""Small charts as SVG text, coloured by the page that they stand in.

Classes: `axis` for lines and grid, `label` for text, `mark-1` and `mark-2` for data. A page gives
them colours, so that one chart suits light and dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]] | NDArray[np.int64]

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 44
_HEAT_RGB = (0x2F, 0x7D, 0xE1)  # stands out on white and on black


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels along one side."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high, v = self.low, self.high, value
        if self.logarithmic:
            low, high, v = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 2, 5)):
                ticks = [step * 10.0**n for n in decades for step in steps]
                ticks = [tick for tick in ticks if self.low <= tick <= self.high]
                if len(ticks) > 1:
                    break
            return ticks
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def bars(edges: Numbers, heights: Numbers, x_label: str, y_label: str) -> str:
    """A histogram: edges (n + 1,) in ascending order, heights (n,) from 0."""
    x = _Axis(float(edges[0]), float(edges[-1]), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(0.0, float(heights.max()) * 1.05 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    marks = []
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        a, b, top = x.at(float(left)), x.at(float(right)), y.at(float(height))
        gap = min(1.0, (b - a) * 0.15)
        marks.append(
            f'<rect class="mark-1" x="{a + gap / 2:.1f}" y="{top:.1f}" '
            f'width="{b - a - gap:.1f}" height="{y.start - top:.1f}">'
            f"<title>{left:g} to {right:g}: {height:.3g}</title></rect>"
        )
    return _chart(x, y, marks, x_label, y_label)


def ranks(series: dict[str, Numbers], x_label: str, y_label: str) -> str:
    """Up to two descending series, each above 0 (n,), against their rank, both logarithmic."""
    n = max(len(values) for values in series.values())
    least = min(float(values.min()) for values in series.values())
    most = max(float(values.max()) for values in series.values())
    x = _Axis(1, max(n, 2), _LEFT, _WIDTH - _RIGHT, logarithmic=True)
    y = _Axis(least * 0.8, most * 1.25, _HEIGHT - _BOTTOM, _TOP, logarithmic=True)
    marks = []
    for number, (name, values) in enumerate(series.items(), start=1):
        points = " ".join(
            f"{x.at(rank):.1f},{y.at(float(value)):.1f}"
            for rank, value in enumerate(values, start=1)
        )
        marks.append(f'<polyline class="line-{number}" points="{points}"/>')
        row = y.start - 14 * (len(series) - number) - 12
        marks.append(
            f'<rect class="mark-{number}" x="{_LEFT + 10}" y="{row - 8:.0f}" width="16" '
            f'height="3"/><text class="label" x="{_LEFT + 32}" y="{row - 3:.0f}">'
            f"{escape(name)}</text>"
        )
    return _chart(x, y, marks, x_label, y_label)


def heat_map(shares: Numbers, row_names: Sequence[str], x_label: str, width: int = 960) -> str:
    """A picture of shares from 0 to 1, (rows, columns), one name for each row.

    Opacity is the square root of the share, so that small shares can be seen.
    """
    row_height, left = 15, 56
    height = row_height * len(row_names)
    names = "".join(
        f'<text class="label" text-anchor="end" x="{left - 6}" '
        f'y="{row_height * (i + 0.75):.1f}">{escape(name)}</text>'
        for i, name in enumerate(row_names)
    )
    picture = base64.b64encode(_png(np.sqrt(shares))).decode("ascii")
    legend = "".join(
        f'<rect class="axis" x="{left + 62 * i}" y="{height + 8}" width="14" height="12" '
        f'style="fill:rgb{_HEAT_RGB};fill-opacity:{math.sqrt(share):.3f}"/>'
        f'<text class="label" x="{left + 62 * i + 19}" y="{height + 18}">{share:.0%}</text>'
        for i, share in enumerate((0.01, 0.1, 0.25, 0.5, 1.0))
    )
    return (
        f'<svg viewBox="0 0 {width} {height + 28}" role="img" '
        f'aria-label="{escape(x_label)}">{names}'
        f'<image x="{left}" y="0" width="{width - left}" height="{height}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{picture}"/>'
        f'<rect class="axis" x="{left}" y="0" width="{width - left}" height="{height}"/>{legend}'
        f'<text class="label" text-anchor="end" x="{width}" y="{height + 18}">'
        f"{escape(x_label)}</text></svg>"
    )


def _png(opacity: Numbers) -> bytes:
    """One pixel a value, (rows, columns) from 0 to 1, as a PNG of one colour."""
    from matplotlib.image import imsave

    pixels = np.zeros((*opacity.shape, 4), np.uint8)
    pixels[..., :3] = _HEAT_RGB
    pixels[..., 3] = np.round(opacity * 255)
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return file.getvalue()


def _chart(x: _Axis, y: _Axis, marks: list[str], x_label: str, y_label: str) -> str:
    """Axes, grid and names around the marks."""
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="label" text-anchor="end" x="{_LEFT - 6}" y="{at + 4:.1f}">{tick:g}'
            "</text>"
        )
    for tick in x.ticks():
        parts.append(
            f'<text class="label" text-anchor="middle" x="{x.at(tick):.1f}" '
            f'y="{y.start + 16:.1f}">{tick:g}</text>'
        )
    middle = (y.start + y.end) / 2
    parts += marks
    parts.append(
        f'<text class="label" text-anchor="middle" x="{(x.start + x.end) / 2:.0f}" '
        f'y="{_HEIGHT - 8}">{escape(x_label)}</text>'
        f'<text class="label" text-anchor="middle" transform="translate(13 {middle:.0f}) '
        f'rotate(-90)">{escape(y_label)}</text></svg>'
    )
    return "".join(parts)
