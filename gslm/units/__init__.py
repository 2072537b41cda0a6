"""Speech to units: encoders, quantisers, and the folder that holds both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gslm.errors import UserError
from gslm.hub import folder_from_hub

if TYPE_CHECKING:
    from gslm.units.unit_encoder import UnitEncoder

__all__ = ["UnitEncoder", "load"]


def load(name_or_folder: str | Path) -> UnitEncoder:
    """Load a unit encoder.

    name_or_folder: a folder that `UnitEncoder.save` wrote, a bundle (its `units/` is read), or
    the name of a bundle on the Hugging Face Hub. Raises `UserError` where there is none.

    Example: `gslm.units.load("bundle")(waveform, 16_000).ids`
    """
    from gslm.units.unit_encoder import UnitEncoder

    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = folder_from_hub(str(name_or_folder), ["bundle.json", "units/*"], "bundle", "units")
    if (folder / "units" / "config.json").is_file():
        folder = folder / "units"
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name_or_folder}: holds no units (no config.json); make some with `gslm units fit`"
        )
    return UnitEncoder.load(folder)


def __getattr__(name: str) -> Any:
    # torch is imported only by those who use it, so that `gslm --help` stays quick.
    if name == "UnitEncoder":
        from gslm.units.unit_encoder import UnitEncoder

        return UnitEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
