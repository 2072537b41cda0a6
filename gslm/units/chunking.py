"""Recordings of any length as chunks that an encoder can take, and frames joined again.

A clip and a stream go the same way: blocks of samples come in, chunks with context on both sides
go to the encoder, and of each chunk's frames the middle is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.units.encoders.base import Chunking, NormalizesOverTime, SpeechEncoder

BATCH_FRAMES = 1500
"""Frames in a batch, 30 seconds: enough for full speed, small enough for the cache."""


@dataclass(frozen=True)
class Chunk:
    """A stretch of a recording and which of its frames to keep."""

    samples: NDArray[np.float32]
    """Float32 (samples,)."""
    keep: slice
    """Frames of this chunk that belong to the result; the rest is context."""


def cut(
    blocks: Iterable[NDArray[np.float32]], chunking: Chunking, hop_length: int
) -> Iterator[Chunk]:
    """Cut a recording, given as blocks of samples (n,) in order, into overlapping chunks.

    hop_length: the encoder's, in samples. The kept frames of all chunks, joined, are as many as
    the encoder gives for the whole recording. Memory is bounded by one block and one chunk.
    """
    context = chunking.overlap_frames // 2
    length = chunking.chunk_frames - chunking.offset_frames
    first_kept = 0
    pending = np.zeros(0, np.float32)
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) > length * hop_length:
            samples = pending[: length * hop_length]
            yield Chunk(samples, slice(first_kept, length - context))
            pending = pending[(length - chunking.overlap_frames) * hop_length :]
            first_kept = context
            length = chunking.chunk_frames
    yield Chunk(pending, slice(first_kept, None))


def encode_clips(
    encoder: SpeechEncoder, clips: Sequence[NDArray[np.float32]], chunking: Chunking | None = None
) -> list[Tensor]:
    """Frames of clips of any lengths, encoded in batches of similar length.

    clips: float32 (samples,) at 16 kHz. Returns float32 (frames, dim) for each. The batches
    depend on the clips' lengths and order alone, so the same list gives the same bits.
    """
    chunking = chunking or encoder.chunking
    longest = (chunking.chunk_frames - chunking.offset_frames) * encoder.hop_length
    parts: list[list[Tensor]] = [[] for _ in clips]
    chunks: list[tuple[int, Chunk]] = []
    for i, clip in enumerate(clips):
        if len(clip) > longest and isinstance(encoder, NormalizesOverTime):
            # Its chunks cannot share batches with others: they are normalised together.
            parts[i] = list(encode_stream(encoder.for_recording([clip]), [clip], chunking))
        else:
            chunks += [(i, chunk) for chunk in cut([clip], chunking, encoder.hop_length)]
    order = sorted(range(len(chunks)), key=lambda j: (len(chunks[j][1].samples), j))
    kept: dict[int, Tensor] = {}
    for batch in _batches(order, [encoder.n_frames(len(chunk.samples)) for _, chunk in chunks]):
        frames = encoder([torch.from_numpy(chunks[j][1].samples) for j in batch])
        kept |= {j: f[chunks[j][1].keep] for j, f in zip(batch, frames, strict=True)}
    for j, (i, _) in enumerate(chunks):
        parts[i].append(kept[j])
    return [torch.cat(part) for part in parts]


def for_recording(
    encoder: SpeechEncoder, blocks: Callable[[], Iterable[NDArray[np.float32]]]
) -> SpeechEncoder:
    """The encoder for the chunks of one recording, of which some encoders see the whole first.

    blocks: reads the recording, float32 (samples,) in order; called where it is needed.
    """
    return encoder.for_recording(blocks()) if isinstance(encoder, NormalizesOverTime) else encoder


def encode_stream(
    encoder: SpeechEncoder,
    blocks: Iterable[NDArray[np.float32]],
    chunking: Chunking | None = None,
) -> Iterator[Tensor]:
    """Frames (n, dim) of one recording in order, chunk by chunk, in bounded memory.

    blocks: float32 (samples,) at 16 kHz. Joined, the frames are those of `encode_clips`, up to
    rounding, if the encoder is the recording's own: see `for_recording`.
    """
    waiting: list[Chunk] = []
    n_waiting = 0
    for chunk in cut(blocks, chunking or encoder.chunking, encoder.hop_length):
        waiting.append(chunk)
        n_waiting += encoder.n_frames(len(chunk.samples))
        if n_waiting >= BATCH_FRAMES:
            yield from _encoded(encoder, waiting)
            waiting, n_waiting = [], 0
    if waiting:
        yield from _encoded(encoder, waiting)


def _encoded(encoder: SpeechEncoder, chunks: list[Chunk]) -> Iterator[Tensor]:
    frames = encoder([torch.from_numpy(chunk.samples) for chunk in chunks])
    for chunk, part in zip(chunks, frames, strict=True):
        yield part[chunk.keep]


def _batches(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    total = 0
    for j in order:
        if batch and total + lengths[j] > BATCH_FRAMES:
            yield batch
            batch, total = [], 0
        batch.append(j)
        total += lengths[j]
    if batch:
        yield batch
