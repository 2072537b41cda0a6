"""What an encoder's products are computed in: a choice of the run, never of the units.

A folder of units remembers no precision: read again, its encoder computes in float32 until
another is asked for. In bfloat16 sums, normalisations and weights stay float32; the fingerprint
is the same, and some of the units are others.
"""

from __future__ import annotations

from typing import Literal, Protocol, cast, runtime_checkable

import torch

from gslm.errors import UserError
from gslm.processes import this_process
from gslm.units.encoders.base import SpeechEncoder

Precision = Literal["float32", "bfloat16", "auto"]
"""`auto`: bfloat16 where the encoder can and the processor has instructions for it."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What an encoder can be told; `auto` becomes one of these."""


@runtime_checkable
class LowersPrecision(Protocol):
    """An encoder that computes in bfloat16 as well."""

    precision: str
    """`float32` or `bfloat16`."""

    def with_precision(self, precision: str) -> SpeechEncoder:
        """The encoder, its weights shared, that computes in `precision`."""


def in_precision(encoder: SpeechEncoder, precision: str) -> SpeechEncoder:
    """The encoder, its weights shared, that computes in `precision`.

    precision: one of `Precision`. Raises `UserError` for another, and for bfloat16 where the
    encoder knows float32 alone.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise UserError(f"precision {precision!r}; choose from {', '.join(PRECISIONS)}, auto")
    lowers = isinstance(encoder, LowersPrecision)
    if precision == "auto":
        from gslm.training import has_bfloat16

        # The encoder is still to be put there.
        device = this_process().device
        precision = "bfloat16" if lowers and has_bfloat16(device) else "float32"
    if lowers:
        return cast(LowersPrecision, encoder).with_precision(precision)
    if precision != "float32":
        raise UserError(
            f"{encoder.name}: computes in float32 alone; {precision} is for HuBERT, wav2vec 2.0 "
            "and transformers' speech encoders"
        )
    return encoder


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which products are computed in `precision`."""
    lower = precision != "float32"
    return torch.autocast(device.type, PRECISIONS[precision], enabled=lower)


def precision_of(encoder: SpeechEncoder) -> str:
    """`float32` or `bfloat16`."""
    return encoder.precision if isinstance(encoder, LowersPrecision) else "float32"
