"""The data that flows between the stages: unit sequences and the fingerprint of their maker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslm.errors import UserError


@dataclass(frozen=True)
class Fingerprint:
    """What made a unit sequence; two stages may only meet if theirs are equal."""

    encoder: str
    """Name of the encoder: `log-mel`, `mfcc`, `whisper`, …"""
    weights_hash: str
    """First 16 hex digits of the SHA-256 of the encoder's weights; empty where it has none."""
    layer: int
    """Layer whose output is quantised, counted from 1; 0 for encoders without layers."""
    frame_rate: float
    """Frames per second."""
    normalization: str
    """How features are normalised before quantisation: `none`, `utterance`, …"""
    centroids_hash: str
    """First 16 hex digits of the SHA-256 of the float32 centroids."""
    vocabulary_size: int
    """Number of distinct units; ids run from 0 to vocabulary_size - 1."""
    coarsening: str = ""
    """How units were made coarser than one a frame, such as `smoothed 0.3`; empty where not."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for `corpus.json` and `bundle.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str) -> Fingerprint:
        """Read what `to_json` wrote; `where` names the file in the error of a damaged one."""
        names = {field.name for field in fields(cls)}
        # Files of before there were coarser units do not name this one.
        if not isinstance(data, dict) or set(data) | {"coarsening"} != names:
            raise UserError(f"{where}: the unit fingerprint is damaged; expected {sorted(names)}")
        return cls(**data)

    def __str__(self) -> str:
        layer = f" layer {self.layer}" if self.layer else ""
        return (
            f"{self.encoder}{layer} at {self.frame_rate:g} Hz, K={self.vocabulary_size}, "
            f"weights {self.weights_hash or '-'}, centroids {self.centroids_hash or '-'}, "
            f"normalisation {self.normalization}"
            f"{', ' if self.coarsening else ''}{self.coarsening}"
        )

    def require_same(self, other: Fingerprint, this_name: str, other_name: str) -> None:
        """Raise a `UserError` that names both sides unless `other` is the same fingerprint."""
        if self != other:
            raise UserError(
                f"units do not match: {this_name} has [{self}] but {other_name} has [{other}]; "
                "use stages trained on the same units"
            )


@dataclass(frozen=True)
class Units:
    """A sequence of discrete units, as one encoder and quantiser made it."""

    ids: NDArray[np.int32]
    """Unit ids, shape (n,)."""
    durations: NDArray[np.int32] | None
    """Length of each unit in frames, shape (n,); None where one id is one frame."""
    fingerprint: Fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_frames(self) -> int:
        """Number of frames that the sequence spans."""
        return len(self.ids) if self.durations is None else int(self.durations.sum())

    def deduplicated(self) -> Units:
        """Merge runs of one unit; ids (m,) and durations in frames (m,)."""
        ids, durations = deduplicate(self.ids, self.durations)
        return Units(ids, durations, self.fingerprint)

    def expanded(self) -> Units:
        """One id a frame, without durations; the inverse of `deduplicated`."""
        if self.durations is None:
            return self
        return Units(np.repeat(self.ids, self.durations), None, self.fingerprint)


def deduplicate(
    ids: NDArray[np.int32], durations: NDArray[np.int32] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Merge runs of equal ids and add up their durations.

    ids: (n,); durations: frames (n,), or None for one frame each. Returns ids (m,) and
    durations in frames (m,), with m <= n and the same total.
    """
    ids = np.asarray(ids, dtype=np.int32)
    if durations is None:
        durations = np.ones(len(ids), dtype=np.int32)
    if len(ids) == 0:
        return ids, np.zeros(0, dtype=np.int32)
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    return ids[starts], np.add.reduceat(durations, starts).astype(np.int32)
