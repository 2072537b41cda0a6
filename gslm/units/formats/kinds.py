"""The formats by name, and what the toolkits usually keep in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gslm.errors import UserError

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

KEEPS_DURATIONS = frozenset({"textless", "slamkit"})
"""Formats that hold the durations of units."""

USUALLY_RUNS = frozenset({"slamkit-tokens", "slamkit-preference", "fairseq", "s2ut"})
"""Formats without durations in which runs of a unit are usually merged to one."""

Naming = Literal["basename", "path", "audio", "none"]
"""basename: the stem alone; path: the path without its suffix; audio: the path; none: no name."""

REPEATS = frozenset({"slamkit-preference"})
"""Formats that hold a recording again wherever it is used: a prompt in each of its pairs."""

_ONLY_FOR: dict[str, frozenset[str]] = {
    "dictionary": frozenset({"fairseq"}),
    "key": frozenset({"resynthesis"}),
    "sources": frozenset({"s2ut"}),
}
"""The formats that an option is of use for."""


def require_used(format_: Format, options: Mapping[str, object]) -> None:
    """Raise a `UserError` for an option that is given, not None, and of no use for the format."""
    for name, value in options.items():
        if value is not None and format_ not in _ONLY_FOR[name]:
            formats = ", ".join(sorted(_ONLY_FOR[name]))
            raise UserError(f"--{name} is for --format {formats}, not {format_}; leave it out")
