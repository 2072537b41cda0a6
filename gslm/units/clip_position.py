"""How much of an encoder's features is the place in the clip, and what to do about it.

Whisper adds an embedding of the place to its input. Its first layers, and the last, still carry so
much of it that frames cluster by when they are, not by what is said: such units follow the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gslm.errors import UserError
from gslm.processes import copy_of_first
from gslm.units.chunking import encode_clips
from gslm.units.encoders import SpeechEncoder
from gslm.units.encoders.whisper import WhisperEncoder
from gslm.units.normalization import normalize_frames
from gslm.units.recordings import Clip, Reading, clip_groups

_MOST_PIECES = 120  # at most 20 minutes
_LEAST_PIECES = 10  # at one place, for its mean to say something
_TOO_MUCH = 0.15


def suited_normalization(
    encoder: SpeechEncoder, root: str | Path, ids: Sequence[str], reading: Reading
) -> str:
    """`frame`, `frame+global` or `global`: what suits an encoder's features of recordings.

    ids: by path relative to the root, in the order in which they are tried. A layer of a network
    is normalised by frame, and one that carries the place in the clip by dimension as well;
    fixed spectra by dimension. All processes of a run return the same.
    """
    if not encoder.layer:
        return "global"
    if not isinstance(encoder, WhisperEncoder):
        return "frame"
    pieces = islice(_pieces(encoder, clip_groups(root, ids, [], reading)), _MOST_PIECES)
    share = copy_of_first(torch.tensor(position_share(encoder, pieces)))
    return "frame+global" if float(share) > _TOO_MUCH else "frame"


def position_share(encoder: SpeechEncoder, pieces: Iterable[NDArray[np.float32]]) -> float:
    """Share, up to 1, of the variance of frames that their place in a piece explains.

    pieces: float32 (samples,) at 16 kHz, each no longer than a chunk of the encoder. Frames are
    normalised each over its dimensions. It is the adjusted R² of an analysis of variance by
    place, near 0 (or below) where the place says nothing, and 0 where there are too few pieces.
    """
    n_places = encoder.chunking.chunk_frames
    counts = torch.zeros(n_places, dtype=torch.float64)
    sums = torch.zeros(n_places, encoder.dim, dtype=torch.float64)
    squares = torch.zeros(n_places, dtype=torch.float64)
    chunking = replace(encoder.chunking, offset_frames=0)
    remaining = iter(pieces)
    while group := list(islice(remaining, 16)):
        for frames in encode_clips(encoder, group, chunking):
            rows = normalize_frames(frames).cpu().double()
            counts[: len(rows)] += 1
            sums[: len(rows)] += rows
            squares[: len(rows)] += rows.square().sum(dim=1)
    known = counts >= _LEAST_PIECES
    counts, sums, squares = counts[known], sums[known], squares[known]
    n_rows = float(counts.sum())
    if len(counts) < 2:
        return 0.0
    total = float(squares.sum() - sums.sum(dim=0).square().sum() / n_rows)
    within = float((squares - sums.square().sum(dim=1) / counts).sum())
    if total <= 0:
        return 0.0
    return 1 - (within / (n_rows - len(counts))) / (total / (n_rows - 1))


def _pieces(encoder: SpeechEncoder, groups: Iterable[list[Clip]]) -> Iterator[NDArray[np.float32]]:
    """Recordings cut into pieces no longer than a chunk; what cannot be read is left out."""
    length = encoder.chunking.chunk_frames * encoder.hop_length
    for group in groups:
        for clip in group:
            blocks = clip.blocks() if clip.waveform is None else [clip.waveform]
            pending = np.zeros(0, np.float32)
            try:
                for block in blocks:
                    pending = np.concatenate([pending, block])
                    while len(pending) >= length:
                        yield pending[:length]
                        pending = pending[length:]
            except UserError:  # damaged further on: fitting tells which
                continue
            if len(pending):
                yield pending
