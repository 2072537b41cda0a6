"""Making a unit encoder: features of many recordings, then centroids by streaming k-means."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from gslm.audio import SAMPLE_RATE
from gslm.errors import UserError
from gslm.processes import add_over_processes, this_process, use_own_device
from gslm.units.clip_position import suited_normalization
from gslm.units.coarsening import Coarsening
from gslm.units.encoders import HOP_LENGTH, SpeechEncoder
from gslm.units.features import FeatureStore, each_recording, feature_rows, gather_features
from gslm.units.normalization import (
    FeatureStatistics,
    by_training_set,
    check_normalization,
    feature_statistics,
)
from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans
from gslm.units.quantizers.spherical import fit_spherical
from gslm.units.recordings import Reading, Skipped, clip_groups
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder

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
    reading: Reading | None = None,
    skipped: Skipped | None = None,
    progress: bool = True,
) -> UnitEncoder:
    """Fit k units to the frames of recordings, or to their syllables.

    audio_root, ids: the recordings, by path relative to the root. They are visited in an order
    drawn from `seed` until `max_frames` frames are gathered. normalization: one of
    `NORMALIZATIONS`, or `auto`: what `suited_normalization` finds, and `global` for syllables,
    whose own mean and deviation that is. kmeans: finer settings; its k and seed take the place of
    `k` and `seed`. coarsening: `Smoothing`, which changes nothing here, or `Syllables`: k - 1
    centroids by spherical k-means, and the unit of silence. reading: which part of a recording is
    used. skipped: a list that takes the recordings that could not be read, and why.

    Features wait on disk (4 * dim bytes a frame) in a temporary folder, so that memory does not
    grow with the audio. Unreadable recordings are passed over; a `UserError` says so where none
    is left, where there are fewer frames than k, or where the disk is full.

    Where torchrun or `accelerate launch` started several processes, all call this function: each
    encodes a share of the recordings on its own device and keeps their features on its own disk.
    All return the same units: where all recordings are used those of one process, to rounding;
    else each process takes its part of `max_frames` from its share.
    """
    use_own_device(encoder)
    reading = reading or Reading()
    progress = progress and this_process().is_main_process
    config = kmeans or KMeansConfig(k=k, seed=seed, n_starts=3 if k <= _MANY_UNITS else 1)
    order = sorted(ids)
    random.Random(config.seed).shuffle(order)
    if normalization == "auto" and isinstance(coarsening, Syllables):
        normalization = "global"
    elif normalization == "auto":
        normalization = suited_normalization(encoder, audio_root, order, reading)
    check_normalization(normalization)
    if isinstance(coarsening, Syllables):
        coarsening = _with_deviation(coarsening, encoder, audio_root, order, reading)
    with tempfile.TemporaryDirectory(prefix="gslm-") as folder:
        store = FeatureStore(Path(folder) / "features", encoder.dim)
        unreadable = gather_features(
            store,
            audio_root,
            order[_own_part(len(order))],
            lambda group: feature_rows(encoder, group, normalization, coarsening),
            max_frames=len(range(max_frames)[_own_part(max_frames)]),
            reading=reading,
            progress=progress,
        )
        if skipped is not None:
            skipped += unreadable
        n_rows = _over_processes(store.n_rows)
        if n_rows == 0:
            reason = f": {unreadable[0][0]}: {unreadable[0][1]}" if unreadable else ""
            raise UserError(f"{audio_root}: no readable recording to fit units to{reason}")
        statistics = None
        if by_training_set(normalization):
            statistics = feature_statistics(store.blocks(), over_processes=True, dim=encoder.dim)
        if isinstance(coarsening, Syllables):
            centroids = _fit_syllables(_blocks(store, statistics), n_rows, config, progress)
        else:
            centroids = fit_kmeans(_blocks(store, statistics), config, progress).centroids
    return UnitEncoder(encoder, centroids, normalization, statistics, coarsening=coarsening)


def _over_processes(number: int) -> int:
    total = torch.tensor(number)
    add_over_processes(total)
    return int(total)


def _blocks(
    store: FeatureStore, statistics: FeatureStatistics | None
) -> Callable[[], Iterator[Tensor]]:
    """Reads the rows of a store, normalised where there are statistics."""

    def blocks() -> Iterator[Tensor]:
        for block in store.blocks():
            yield statistics.normalize(block) if statistics else block

    return blocks


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


def _with_deviation(
    settings: Syllables,
    encoder: SpeechEncoder,
    root: str | Path,
    ids: Sequence[str],
    reading: Reading,
) -> Syllables:
    """Measure how far norms deviate, on about ten minutes, where boundaries are their peaks."""
    if settings.curve != "norm":
        return settings
    for group in clip_groups(root, ids, [], reading):
        ways = each_recording(encoder, group)
        frames = (part for blocks, encode in ways for part in encode(blocks()))
        norms = (torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in frames)
        try:
            deviation = feature_statistics(islice(norms, _NORM_PARTS)).deviation
        except UserError:  # damaged further on: fitting tells which
            continue
        return replace(settings, deviation=float(deviation))
    return settings
