"""The ways to units that are coarser than one a frame, as a folder's config.json holds them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gslm.bundle import config_from_json
from gslm.errors import UserError
from gslm.units.quantizers.smoothing import Smoothing
from gslm.units.syllables import Syllables

Coarsening = Smoothing | Syllables
"""Fewer changes between frame units, or one unit a syllable; both give units with durations."""


def coarsening_to_json(coarsening: Coarsening | None) -> dict[str, Any] | None:
    """Its settings under the name of the way; None for one unit a frame."""
    if coarsening is None:
        return None
    name = "smoothing" if isinstance(coarsening, Smoothing) else "syllables"
    return {name: asdict(coarsening)}


def coarsening_from_json(data: Any, where: str | Path) -> Coarsening | None:
    """Read what `coarsening_to_json` wrote; `where` names the file in the error of another."""
    match data:
        case None:
            return None
        case {"smoothing": settings}:
            return config_from_json(Smoothing, settings, where)
        case {"syllables": settings}:
            return config_from_json(Syllables, settings, where)
    raise UserError(f"{where}: unknown coarsening {data!r}; known are smoothing and syllables")


def chosen_coarsening(
    smooth: float = 0.0,
    syllables: bool = False,
    boundaries: str = "loudness",
    prominence: float | None = None,
) -> Coarsening | None:
    """What options ask for; None for one unit a frame.

    smooth: penalty of `Smoothing`, 0 for none. boundaries, prominence: of `Syllables`; what suits
    the curve where None. Raises `UserError` where both ways are asked for.
    """
    if syllables and smooth:
        raise UserError("units are smoothed or made of syllables, not both; choose one")
    if syllables:
        usual = 0.45 if boundaries == "norm" else Syllables().prominence
        return Syllables(boundaries, usual if prominence is None else prominence)
    if prominence is not None or boundaries != "loudness":
        raise UserError("boundaries and prominence are those of syllables; ask for syllables too")
    return Smoothing(smooth) if smooth else None
