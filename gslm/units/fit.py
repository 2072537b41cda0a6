"""Making a unit encoder: features of many recordings, then centroids by streaming k-means."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gslm.audio import stream_audio
from gslm.errors import UserError
from gslm.units.chunking import encode_clips, encode_stream
from gslm.units.encoders import FRAME_RATE, SpeechEncoder
from gslm.units.normalization import (
    FeatureStatistics,
    check_normalization,
    feature_statistics,
    normalize_frames,
)
from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans
from gslm.units.recordings import Skipped, clip_groups, reason_without_path
from gslm.units.unit_encoder import UnitEncoder

_BLOCK_ROWS = 20_000
MAX_FRAMES = 900_000
"""Frames that k-means sees by default: 5 hours, taken from recordings in random order."""


def frames_in_hours(max_hours: float) -> int:
    """Frames of so many hours of audio, at least one; raises `UserError` unless above 0."""
    if not (math.isfinite(max_hours) and max_hours > 0):
        raise UserError(f"max-hours {max_hours}: give a number of hours above 0, such as 5")
    return max(1, round(max_hours * 3600 * FRAME_RATE))


def fit_units(
    audio_root: str | Path,
    ids: Sequence[str],
    encoder: SpeechEncoder,
    k: int,
    seed: int = 0,
    *,
    normalization: str = "auto",
    max_frames: int = MAX_FRAMES,
    kmeans: KMeansConfig | None = None,
    progress: bool = True,
) -> UnitEncoder:
    """Fit k centroids to the frames of recordings.

    audio_root, ids: the recordings, by path relative to the root. They are visited in an order
    drawn from `seed` until `max_frames` frames are gathered. normalization: one of
    `NORMALIZATIONS`, or `auto`: `frame` for a layer of a network, else `global`. kmeans: finer
    settings; its k and seed take the place of `k` and `seed`.

    Features wait on disk (4 * dim bytes a frame) in a temporary folder, so that memory does not
    grow with the audio. Unreadable recordings are passed over; a `UserError` says so where none
    is left, where there are fewer frames than k, or where the disk is full.
    """
    if normalization == "auto":
        normalization = "frame" if encoder.layer else "global"
    check_normalization(normalization)
    config = kmeans or KMeansConfig(k=k, seed=seed)
    order = sorted(ids)
    random.Random(config.seed).shuffle(order)
    with tempfile.TemporaryDirectory(prefix="gslm-") as folder:
        store = _FeatureStore(Path(folder) / "features", encoder.dim)
        skipped = _gather(
            store,
            audio_root,
            order,
            encoder,
            normalization=normalization,
            max_frames=max_frames,
            progress=progress,
        )
        if store.n_rows == 0:
            reason = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
            raise UserError(f"{audio_root}: no readable recording to fit units to{reason}")
        statistics = feature_statistics(store.blocks()) if normalization == "global" else None

        def blocks() -> Iterator[Tensor]:
            for block in store.blocks():
                if normalization == "frame":
                    yield normalize_frames(block)
                else:
                    yield statistics.normalize(block) if statistics else block

        result = fit_kmeans(blocks, config, progress)
    return UnitEncoder(encoder, result.centroids, normalization, statistics)


class _FeatureStore:
    """Rows of float32 features in a file, read back in blocks of one size."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path = path
        self.dim = dim
        self.n_rows = 0

    def append(self, file: BinaryIO, frames: Tensor) -> None:
        file.write(frames.contiguous().cpu().numpy().tobytes())
        self.n_rows += len(frames)

    def blocks(self) -> Iterator[Tensor]:
        with self.path.open("rb") as file:
            while len(values := np.fromfile(file, np.float32, _BLOCK_ROWS * self.dim)):
                yield torch.from_numpy(values.reshape(-1, self.dim))


def _gather(
    store: _FeatureStore,
    root: str | Path,
    ids: Sequence[str],
    encoder: SpeechEncoder,
    *,
    normalization: str,
    max_frames: int,
    progress: bool,
) -> Skipped:
    """Encode recordings into the store until it holds `max_frames` frames."""
    skipped: Skipped = []
    bar = tqdm(total=len(ids), desc="features", unit="file", disable=not progress)
    try:
        with store.path.open("wb") as file:
            for group in clip_groups(root, ids, skipped):
                try:
                    parts = _features(
                        encoder, group[0].path, [c.waveform for c in group], normalization
                    )
                    for frames in parts:
                        store.append(file, frames[: max_frames - store.n_rows])
                        if store.n_rows >= max_frames:
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


def _features(
    encoder: SpeechEncoder,
    path: Path,
    waveforms: Sequence[np.ndarray | None],
    normalization: str,
) -> Iterator[Tensor]:
    """Frames (n, dim) of a group of clips, or of one long recording part by part."""
    clips = [waveform for waveform in waveforms if waveform is not None]
    statistics: FeatureStatistics | None = None
    if clips:
        for frames in encode_clips(encoder, clips):
            if normalization == "utterance":
                statistics = feature_statistics([frames])
            yield statistics.normalize(frames) if statistics else frames
        return
    if normalization == "utterance":
        statistics = feature_statistics(encode_stream(encoder, stream_audio(path)))
    for frames in encode_stream(encoder, stream_audio(path)):
        yield statistics.normalize(frames) if statistics else frames
