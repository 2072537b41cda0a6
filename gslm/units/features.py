"""Features of many recordings, on disk until k-means or a training reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gslm.errors import UserError
from gslm.units.chunking import encode_clips, encode_stream, for_recording
from gslm.units.coarsening import Coarsening
from gslm.units.encoders import SpeechEncoder
from gslm.units.normalization import by_frame, feature_statistics, normalize_frames
from gslm.units.recordings import (
    Clip,
    Reading,
    Skipped,
    clip_groups,
    read_ahead,
    reason_without_path,
)
from gslm.units.syllables import Syllables, pool_syllables

_BLOCK_ROWS = 20_000


class FeatureStore:
    """Rows of float32 features in a file, read back in blocks of one size."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path = path
        self.dim = dim
        self.n_rows = 0

    def append(self, file: BinaryIO, frames: Tensor) -> None:
        """Write frames (n, dim) to the end of the open file."""
        file.write(frames.contiguous().cpu().numpy().tobytes())
        self.n_rows += len(frames)

    def blocks(self) -> Iterator[Tensor]:
        """Read the rows in order, (rows, dim) at a time."""
        with self.path.open("rb") as file:
            while len(values := np.fromfile(file, np.float32, _BLOCK_ROWS * self.dim)):
                yield torch.from_numpy(values.reshape(-1, self.dim))


def gather_features(
    store: FeatureStore,
    root: str | Path,
    ids: Sequence[str],
    rows_of: Callable[[list[Clip]], Iterable[tuple[Tensor, int]]],
    *,
    max_frames: int,
    reading: Reading,
    progress: bool,
) -> Skipped:
    """Put into the store the rows of recordings that span `max_frames` frames, or of all.

    Returns the recordings that could not be read. Raises `UserError` where the disk is full.
    """
    skipped: Skipped = []
    n_frames = 0
    bar = tqdm(total=len(ids), desc="features", unit="file", disable=not progress)
    try:
        with (
            store.path.open("wb") as file,
            closing(read_ahead(clip_groups(root, ids, skipped, reading))) as groups,
        ):
            for group in groups:
                try:
                    for rows, n_spanned in rows_of(group):
                        store.append(file, rows[: max_frames - n_frames])
                        n_frames += n_spanned
                        if n_frames >= max_frames:
                            return skipped
                except UserError as error:
                    skipped.append((group[0].id, reason_without_path(error, root, group[0].id)))
                bar.update(len(group))
    except OSError as error:
        raise UserError(
            f"{store.path}: cannot keep features ({error}); free some space, set TMPDIR to "
            "another folder, or lower max_frames"
        ) from None
    finally:
        bar.close()
    return skipped


Blocks = Callable[[], Iterable[np.ndarray]]
"""Reads a recording: samples (n,) in order."""
Encode = Callable[[Iterable[np.ndarray]], Iterable[Tensor]]
"""Takes what was read to frames (n, dim)."""


def each_recording(encoder: SpeechEncoder, group: list[Clip]) -> Iterator[tuple[Blocks, Encode]]:
    """How each clip of a group is read and encoded, or the one long recording.

    What is yielded is to be used before the next one is asked for.
    """
    waveforms = [clip.waveform for clip in group if clip.waveform is not None]
    clips = (frames.cpu() for frames in encode_clips(encoder, waveforms))
    for waveform, frames in zip(waveforms, clips, strict=True):
        yield lambda: [waveform], lambda _: [frames]  # noqa: B023  (used before the next one)
    if not waveforms:

        def blocks() -> Iterator[np.ndarray]:
            return group[0].blocks()

        own = for_recording(encoder, blocks)
        yield blocks, lambda read: (frames.cpu() for frames in encode_stream(own, read))


def feature_rows(
    encoder: SpeechEncoder,
    group: list[Clip],
    normalization: str,
    coarsening: Coarsening | None = None,
) -> Iterator[tuple[Tensor, int]]:
    """Rows (n, dim) to cluster, with the number of frames that they span.

    What a normalisation needs all rows for is still to be done.
    """
    for blocks, encode in each_recording(encoder, group):
        normalize = _normalizer(normalization, blocks, encode)
        if isinstance(coarsening, Syllables):
            for found in pool_syllables(blocks, encode, normalize, coarsening, encoder.hop_length):
                yield found.vectors[torch.from_numpy(~found.silent)], int(found.durations.sum())
        else:
            for frames in encode(blocks()):
                yield normalize(frames), len(frames)


def _normalizer(normalization: str, blocks: Blocks, encode: Encode) -> Callable[[Tensor], Tensor]:
    """What happens to one recording's frames before all of them are known."""
    if by_frame(normalization):
        return normalize_frames
    if normalization == "utterance":
        return feature_statistics(encode(blocks())).normalize
    return lambda frames: frames
