"""Which clips share a batch, and how a long recording is cut at any frame rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gslm.audio import SAMPLE_RATE
from gslm.units.encoders.base import Chunking

MAX_PADDING = 0.05
"""Largest share of a batch that is padding, where padding does no harm."""


def like_lengths(lengths: Sequence[int], max_padding: float) -> Iterator[list[int]]:
    """Indices in groups, longest first; of each group at most `max_padding` is padding.

    lengths: of the clips, in frames. max_padding: a share; with 0 only equal lengths meet.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    group: list[int] = []
    filled = 0
    for i in order:
        full = (len(group) + 1) * lengths[group[0]] if group else 0
        if group and full - filled - lengths[i] > max_padding * full:
            yield group
            group, filled = [], 0
        group.append(i)
        filled += lengths[i]
    if group:
        yield group


def half_minute_chunks(hop_length: int) -> Chunking:
    """Chunks of about 30 seconds that begin every 25, in frames of `hop_length` samples."""
    step, overlap = 25 * SAMPLE_RATE // hop_length, 5 * SAMPLE_RATE // hop_length
    overlap -= overlap % 2
    return Chunking(chunk_frames=step + overlap, overlap_frames=overlap)


def ten_second_chunks(hop_length: int) -> Chunking:
    """Chunks of about 10 seconds that begin every 5, in frames of `hop_length` samples."""
    step = 5 * SAMPLE_RATE // hop_length
    overlap = step - step % 2
    return Chunking(chunk_frames=step + overlap, overlap_frames=overlap)
