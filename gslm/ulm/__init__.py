"""The unit language model: it learns which units follow which, scores speech and continues it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gslm.ulm.unit_lm import UnitLM

__all__ = ["UnitLM"]


def __getattr__(name: str) -> Any:
    # torch is imported only by those who use it, so that `gslm --help` stays quick.
    if name == "UnitLM":
        from gslm.ulm.unit_lm import UnitLM

        return UnitLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
