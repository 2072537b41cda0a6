"""The formats by name, and what the toolkits usually keep in them."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal[
    "text",
    "textless",
    "slamkit",
    "slamkit-tokens",
    "slamkit-preference",
    "unit-hifigan",
    "resynthesis",
    "dgslm",
    "fairseq",
    "s2ut",
    "manifest",
]
"""Formats of unit files; `manifest` lists recordings alone."""

FORMATS: tuple[Format, ...] = get_args(Format)

KEEPS_DURATIONS = frozenset({"textless", "slamkit"})
"""Formats that hold the durations of units."""

USUALLY_RUNS = frozenset({"slamkit-tokens", "slamkit-preference", "fairseq", "s2ut"})
"""Formats without durations in which runs of a unit are usually merged to one."""

Naming = Literal["basename", "path", "audio", "none"]
"""basename: the stem alone; path: the path without its suffix; audio: the path; none: no name."""
