"""Options that several commands of `gslm units` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Audio = Annotated[Path, Parameter(help="Folder of audio files, of any format and depth.")]

Channel = Annotated[
    int | None,
    Parameter(help="Channel to read, counted from 0; the mean of all if not given."),
]

Precision = Annotated[
    Literal["float32", "bfloat16", "auto"],
    Parameter(
        help="bfloat16 computes HuBERT's kin faster where the processor has instructions for it; "
        "some of the units are others. auto: bfloat16 there, float32 elsewhere. Not stored."
    ),
]

TrimSilence = Annotated[
    bool, Parameter(help="Leave out silence before the first speech and after the last.")
]
