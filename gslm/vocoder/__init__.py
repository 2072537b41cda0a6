"""Units to speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gslm.vocoder.vocoder import Vocoder

__all__ = ["Vocoder"]


def __getattr__(name: str) -> Any:
    # torch is imported only by those who use it, so that `gslm --help` stays quick.
    if name == "Vocoder":
        from gslm.vocoder.vocoder import Vocoder

        return Vocoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
