"""The packaged Whisper tiny.en, where the cache holds it, and the embedded bundle's copy of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import gslm
import gslm.units
from gslm.audio import SAMPLE_RATE, read_audio
from gslm.pretrained import EMBEDDED_BUNDLE, has_embedded_bundle
from gslm.units.encoders import load_encoder


@pytest.fixture(scope="module")
def encoder():
    cache = Path(os.environ.get("GSLM_CACHE", Path.home() / ".cache" / "gslm"))
    models = sorted(cache.glob("**/*tiny.en*/**/model.bin"))
    if not models:
        pytest.skip("Whisper tiny.en is not in the cache; `gslm units fit` fetches it")
    return load_encoder(models[0].parent, 3)


def test_the_cut_encoder_has_the_size_that_is_known(encoder):
    n_parameters = sum(tensor.numel() for tensor in encoder.tensors().values())
    assert encoder.dim == 384
    assert 5.5e6 < n_parameters - encoder.tensors()["embed_positions.weight"].numel() < 6.2e6


@pytest.fixture(scope="module")
def speech():
    """About 40 s of speech: the demo's clip again and again, each time as loud as a new take."""
    if not has_embedded_bundle():
        pytest.skip("this copy of the package carries no bundle")
    clip = read_audio(Path(gslm.__file__).parent / "demo" / "clip.flac")
    gains = np.random.default_rng(0).uniform(0.3, 1.0, 10)
    return np.concatenate([clip * gain for gain in gains]).astype(np.float32)


@pytest.mark.parametrize(("seconds", "limit"), [(5.0, 0.02), (2.5, 0.10)])
def test_moving_the_chunk_grid_changes_few_units_of_speech(speech, seconds, limit):
    """Dropping the first seconds moves the grid by as much against the speech.

    The grid's step is 5 s: moved by that, all chunks but the first are the same. Moved by half a
    step, every chunk is another, and still most units must stay.
    """
    units = gslm.units.load(EMBEDDED_BUNDLE)
    n_dropped = round(seconds * SAMPLE_RATE)
    whole, moved = (
        units.encode_many([samples])[0].expanded().ids for samples in (speech, speech[n_dropped:])
    )
    changed = whole[round(seconds * 50) :][: len(moved)] != moved
    # The first 2.5 seconds have lost the speech before them, which is no matter of the grid.
    assert changed[round(2.5 * 50) :].mean() < limit
