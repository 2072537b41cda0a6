"""How far frames lie from the centroids of their units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gslm.corpus import Corpus, CorpusRow
from gslm.errors import UserError
from gslm.units.chunking import encode_clips, encode_stream, for_recording
from gslm.units.normalization import feature_statistics
from gslm.units.recordings import Clip, Reading, Skipped, clip_groups
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder

_ROWS = 256  # recordings whose units are held at once


@dataclass(frozen=True)
class Inertia:
    """Distances over all frames that could be looked at."""

    per_frame: float
    """Mean squared distance of a normalised frame to the centroid of its unit."""
    variance: float
    """Mean squared distance of a normalised frame to the mean of all."""
    n_frames: int
    """Frames."""
    n_missing: int
    """Recordings of the corpus whose audio is missing or not readable."""

    @property
    def explained(self) -> float:
        """Share of the variance that units explain, at most 1; below 0 for units of no use."""
        return 1 - self.per_frame / self.variance if self.variance else 0.0


def measure_inertia(
    corpus: Corpus, root: str | Path, encoder: UnitEncoder, progress: bool = True
) -> Inertia:
    """Encode a corpus' audio again and measure how far its frames lie from their centroids.

    root: the folder that the corpus was encoded from. encoder: the one that made the corpus.
    Recordings that are not there are counted and passed over. Raises `UserError` for another
    encoder, for units of syllables, for audio of another length, and where none is readable.
    """
    encoder.fingerprint.require_same(corpus.fingerprint, "the encoder", str(corpus.folder))
    if isinstance(encoder.coarsening, Syllables):
        raise UserError(
            f"{corpus.folder}: its units are syllables, whose frames have no centroid; inspect it "
            "without audio and units"
        )
    sums = _Sums(encoder.encoder.dim)
    bar = tqdm(total=corpus.n_rows, desc="inertia", unit="file", disable=not progress)
    skipped: Skipped = []
    for rows in _batches(corpus.rows()):
        groups = clip_groups(root, list(rows), skipped, Reading.of_corpus(corpus.source))
        for clip, frames in normalized_frames(groups, encoder):
            ids = corpus.units(rows[clip.id]).expanded().ids
            sums.add(clip.id, ids, frames, encoder.centroids)
            bar.update(1)
    bar.close()
    if not sums.n_frames:
        reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{root}: holds none of the corpus' recordings{reason}")
    return sums.result(len(skipped))


class _Sums:
    """What is added up over frames."""

    def __init__(self, dim: int) -> None:
        self.n_frames = 0
        self.distances = 0.0
        self.squares = 0.0
        self.total = torch.zeros(dim, dtype=torch.float64)

    def add(
        self, id_: str, ids: NDArray[np.int32], parts: Iterator[Tensor], centroids: Tensor
    ) -> None:
        """Add a recording: its units (n,) and its frames (n, dim) in parts."""
        position = 0
        for frames in parts:
            known = ids[position : position + len(frames)]
            position += len(frames)
            if len(known) == len(frames):
                rows = frames.double()
                nearest = centroids[torch.from_numpy(known).long()].double()
                self.distances += float((rows - nearest).square().sum())
                self.squares += float(rows.square().sum())
                self.total += rows.sum(0)
        if position != len(ids):
            raise UserError(
                f"{id_}: {position} frames of audio, but {len(ids)} in the corpus; give the "
                "audio that it was encoded from"
            )
        self.n_frames += position

    def result(self, n_missing: int) -> Inertia:
        mean = self.total / self.n_frames
        variance = self.squares / self.n_frames - float(mean.square().sum())
        return Inertia(self.distances / self.n_frames, max(variance, 0.0), self.n_frames, n_missing)


def normalized_frames(
    groups: Iterable[list[Clip]], encoder: UnitEncoder
) -> Iterator[tuple[Clip, Iterator[Tensor]]]:
    """Recordings with their frames (n, dim) as k-means sees them, in parts that are made lazily."""
    for group in groups:
        waveforms = [clip.waveform for clip in group if clip.waveform is not None]
        if not waveforms:
            yield group[0], _long_frames(group[0], encoder)
            continue
        for clip, frames in zip(group, encode_clips(encoder.encoder, waveforms), strict=True):
            yield clip, iter([encoder.normalize(frames.cpu())])


def _long_frames(clip: Clip, encoder: UnitEncoder) -> Iterator[Tensor]:
    own = for_recording(encoder.encoder, clip.blocks)
    statistics = None
    if encoder.normalization == "utterance":
        statistics = feature_statistics(encode_stream(own, clip.blocks()))
    for frames in encode_stream(own, clip.blocks()):
        yield encoder.normalize(frames.cpu(), statistics)


def _batches(rows: Iterator[CorpusRow]) -> Iterator[dict[str, CorpusRow]]:
    while batch := {row.id: row for row in islice(rows, _ROWS)}:
        yield batch
