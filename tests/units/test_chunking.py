"""Cutting long recordings: every frame once, streams like clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gslm.errors import UserError
from gslm.units.chunking import cut, encode_clips, encode_stream
from gslm.units.encoders import Chunking, LogMelEncoder, begun_frames


@given(
    n_samples=st.integers(1, 40_000),
    block=st.integers(100, 9000),
    overlap=st.integers(0, 4),
    offset=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_kept_frames_cover_the_recording_once_and_in_order(n_samples, block, overlap, offset):
    samples = np.arange(n_samples, dtype=np.float32)
    blocks = [samples[i : i + block] for i in range(0, n_samples, block)]
    starts = []
    for chunk in cut(blocks, Chunking(14, 2 * overlap, offset), 320):
        assert len(chunk.samples) <= 14 * 320
        frames = range(begun_frames(len(chunk.samples)))[chunk.keep]
        starts += [chunk.samples[320 * i] for i in frames]
    assert starts == [320.0 * i for i in range(begun_frames(n_samples))]


def test_streamed_frames_equal_a_clip_encoded_whole():
    samples = np.random.default_rng(0).standard_normal(16_000 * 20).astype(np.float32) * 0.1
    whole = LogMelEncoder(Chunking(1500, 250))([torch.from_numpy(samples)])[0]
    encoder = LogMelEncoder(Chunking(200, 20))
    streamed = torch.cat(list(encode_stream(encoder, np.array_split(samples, 7))))
    assert torch.allclose(streamed, whole, atol=1e-3)
    assert torch.allclose(encode_clips(encoder, [samples])[0], whole, atol=1e-3)


def test_impossible_chunking_is_an_error():
    with pytest.raises(UserError, match="overlap"):
        Chunking(100, 100)
    with pytest.raises(UserError, match="offset"):
        Chunking(100, 50, 60)
