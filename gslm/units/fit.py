"""Making a unit encoder: features of many recordings, then centroids by streaming k-means."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gslm.audio import SAMPLE_RATE
from gslm.errors import UserError
from gslm.processes import add_over_processes, this_process, use_own_device
from gslm.units.chunking import encode_clips, encode_stream, for_recording
from gslm.units.clip_position import suited_normalization
from gslm.units.coarsening import Coarsening
from gslm.units.encoders import HOP_LENGTH, SpeechEncoder
from gslm.units.normalization import (
    by_frame,
    by_training_set,
    check_normalization,
    feature_statistics,
    normalize_frames,
)
from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans
from gslm.units.quantizers.spherical import fit_spherical
from gslm.units.recordings import (
    Clip,
    Skipped,
    clip_groups,
    read_ahead,
    reason_without_path,
)
from gslm.units.syllables import Syllables, pool_syllables
from gslm.units.unit_encoder import UnitEncoder

_BLOCK_ROWS = 20_000
_MANY_UNITS = 2000  # above, k-means++ takes minutes and further starts gain little
_NORM_PARTS = 500  # clips, or parts of one long recording, whose norms are measured
MAX_FRAMES = 900_000
"""Frames that k-means sees by default: 5 hours, taken from recordings in random order."""


def frames_in_hours(max_hours: float, hop_length: int = HOP_LENGTH) -> int:
    """Frames of so many hours of audio, at least one; raises `UserError` unless above 0.

    hop_length: the encoder's, in samples at 16 kHz.
    """
    if not (math.isfinite(max_hours) and max_hours > 0):
        raise UserError(f"max-hours {max_hours}: give a number of hours above 0, such as 5")
    return max(1, round(max_hours * 3600 * SAMPLE_RATE / hop_length))


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
    coarsening: Coarsening | None = None,
    progress: bool = True,
) -> UnitEncoder:
    """Fit k units to the frames of recordings, or to their syllables.

    audio_root, ids: the recordings, by path relative to the root. They are visited in an order
    drawn from `seed` until `max_frames` frames are gathered. normalization: one of
    `NORMALIZATIONS`, or `auto`: what `suited_normalization` finds, and `global` for syllables,
    whose own mean and deviation that is. kmeans: finer settings; its k and seed
    take the place of `k` and `seed`. coarsening: `Smoothing`, which changes nothing here, or
    `Syllables`: k - 1 centroids by spherical k-means, and the unit of silence.

    Features wait on disk (4 * dim bytes a frame) in a temporary folder, so that memory does not
    grow with the audio. Unreadable recordings are passed over; a `UserError` says so where none
    is left, where there are fewer frames than k, or where the disk is full.

    Where torchrun or `accelerate launch` started several processes, all call this function: each
    encodes a share of the recordings on its own device and keeps their features on its own disk.
    All return the same units: where all recordings are used those of one process, to rounding;
    else each process takes its part of `max_frames` from its share.
    """
    use_own_device(encoder)
    progress = progress and this_process().is_main_process
    config = kmeans or KMeansConfig(k=k, seed=seed, n_starts=3 if k <= _MANY_UNITS else 1)
    order = sorted(ids)
    random.Random(config.seed).shuffle(order)
    if normalization == "auto":
        syllables = isinstance(coarsening, Syllables)
        normalization = "global" if syllables else suited_normalization(encoder, audio_root, order)
    check_normalization(normalization)
    if isinstance(coarsening, Syllables):
        coarsening = _with_deviation(coarsening, encoder, audio_root, order)
    with tempfile.TemporaryDirectory(prefix="gslm-") as folder:
        store = FeatureStore(Path(folder) / "features", encoder.dim)
        skipped = gather_features(
            store,
            audio_root,
            order[_own_part(len(order))],
            lambda group: feature_rows(encoder, group, normalization, coarsening),
            max_frames=len(range(max_frames)[_own_part(max_frames)]),
            progress=progress,
        )
        total = torch.tensor(store.n_rows)
        add_over_processes(total)
        n_rows = int(total)
        if n_rows == 0:
            reason = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
            raise UserError(f"{audio_root}: no readable recording to fit units to{reason}")
        statistics = None
        if by_training_set(normalization):
            statistics = feature_statistics(store.blocks(), over_processes=True, dim=encoder.dim)

        def blocks() -> Iterator[Tensor]:
            for block in store.blocks():
                yield statistics.normalize(block) if statistics else block

        if isinstance(coarsening, Syllables):
            centroids = _fit_syllables(blocks, n_rows, config, progress)
        else:
            centroids = fit_kmeans(blocks, config, progress).centroids
    return UnitEncoder(encoder, centroids, normalization, statistics, coarsening=coarsening)


def _own_part(n: int) -> slice:
    """This process' part of n things in order."""
    process = this_process()
    ends = [i * n // process.num_processes for i in range(process.num_processes + 1)]
    return slice(ends[process.process_index], ends[process.process_index + 1])


def _fit_syllables(
    blocks: Callable[[], Iterable[Tensor]], n_syllables: int, config: KMeansConfig, progress: bool
) -> Tensor:
    """Directions (k - 1, dim): the last of the k units is silence, which needs none."""
    if not 2 <= config.k <= n_syllables + 1:
        raise UserError(
            f"{n_syllables} syllables cannot make {config.k} units, one of them silence; give "
            f"more audio, or a k from 2 to {n_syllables + 1}"
        )
    return fit_spherical(blocks, replace(config, k=config.k - 1), progress).centroids


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
    progress: bool,
) -> Skipped:
    """Put into the store the rows of recordings that span `max_frames` frames, or of all."""
    skipped: Skipped = []
    n_frames = 0
    bar = tqdm(total=len(ids), desc="features", unit="file", disable=not progress)
    try:
        with (
            store.path.open("wb") as file,
            closing(read_ahead(clip_groups(root, ids, skipped))) as groups,
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


def _recordings(encoder: SpeechEncoder, group: list[Clip]) -> Iterator[tuple[Blocks, Encode]]:
    """How each clip of a group is read and encoded, or the one long recording."""
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
    for blocks, encode in _recordings(encoder, group):
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


def _with_deviation(
    settings: Syllables, encoder: SpeechEncoder, root: str | Path, ids: Sequence[str]
) -> Syllables:
    """Measure how far norms deviate, on about ten minutes, where boundaries are their peaks."""
    if settings.curve != "norm":
        return settings
    for group in clip_groups(root, ids, []):
        frames = (part for read, encode in _recordings(encoder, group) for part in encode(read()))
        norms = (torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in frames)
        try:
            deviation = feature_statistics(islice(norms, _NORM_PARTS)).deviation
        except UserError:  # damaged further on: fitting tells which
            continue
        return replace(settings, deviation=float(deviation))
    return settings
