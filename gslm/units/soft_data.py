"""What soft units learn from: features of recordings on disk, split as a corpus is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.bundle import read_json_object, write_json
from gslm.corpus import held_out_by_hash
from gslm.errors import UserError
from gslm.processes import use_own_device
from gslm.units.encoders import SpeechEncoder
from gslm.units.features import FeatureStore, feature_rows, gather_features
from gslm.units.recordings import Reading

DATA_MARKER = "data.json"
"""File that says that a folder of features is whole."""
_BLOCK_ROWS = 10_000
_HELD_OUT_PART = 10  # one in so many frames at most


@dataclass(frozen=True)
class SoftData:
    """Features that hold for any number of units, normalised but by a training set's statistics."""

    train: NDArray[np.float32]
    """What is learned from (n, dim), on disk."""
    held_out: NDArray[np.float32]
    """Of recordings that are not learned from (n, dim), on disk."""


def prepare_soft_data(
    encoder: SpeechEncoder,
    normalization: str,
    audio_root: str | Path,
    ids: Sequence[str],
    folder: str | Path,
    *,
    max_frames: int = 360_000,
    seed: int = 0,
    reading: Reading | None = None,
    progress: bool = True,
) -> SoftData:
    """Encode recordings into `folder`.

    normalization: of the hard units. ids: the recordings, relative to the root; taken in an order
    drawn from `seed` until `max_frames` frames to learn from are gathered. reading: which part of
    a recording is used. What an earlier,
    finished call left in the folder is used again, whatever it was made of. Raises `UserError`
    where no recording is readable, where there is but one, or where the disk is full.
    """
    folder = Path(folder)
    marker = folder / DATA_MARKER
    use_own_device(encoder)
    if not marker.is_file():
        order = sorted(ids)
        random.Random(seed).shuffle(order)
        held_out = held_out_by_hash(order)
        counts = {}
        folder.mkdir(parents=True, exist_ok=True)
        for side, limit in (("train", max_frames), ("held_out", max_frames // _HELD_OUT_PART)):
            store = FeatureStore(folder / f"{side}.f32", encoder.dim)
            skipped = gather_features(
                store,
                audio_root,
                [id_ for id_ in order if (id_ in held_out) == (side == "held_out")],
                lambda group: feature_rows(encoder, group, normalization),
                max_frames=max(1, limit),
                reading=reading or Reading(),
                progress=progress,
            )
            if not store.n_rows:
                reason = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else "; give more audio"
                name = side.replace("_", "-")
                raise UserError(f"{audio_root}: no readable {name} recording{reason}")
            counts[side] = store.n_rows
        write_json(marker, counts)
    try:
        return SoftData(
            **{
                side: np.memmap(folder / f"{side}.f32", np.float32, "r", 0, (n, encoder.dim))
                for side, n in read_json_object(marker).items()
            }
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete this folder") from None


def in_blocks(features: NDArray[np.float32]) -> Iterator[Tensor]:
    """Features (n, dim) from disk, in order, as tensors (rows, dim)."""
    for first in range(0, len(features), _BLOCK_ROWS):
        yield torch.from_numpy(np.array(features[first : first + _BLOCK_ROWS]))
