"""The packaged Whisper tiny.en, where the cache already holds it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gslm.units.chunking import encode_stream
from gslm.units.encoders import load_encoder
from gslm.units.normalization import feature_statistics
from gslm.units.quantizers.kmeans import KMeansConfig, assign, fit_kmeans


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


def test_moving_the_chunk_grid_by_five_seconds_changes_few_units(encoder):
    """Dropping the first five seconds moves the grid by as much against the speech.

    The grid's step is five seconds, so the chunks are the same but for the first. A move that is
    no multiple of the step changes several percent of the units.
    """
    random = np.random.default_rng(0)
    loudness = np.repeat(random.uniform(0, 0.3, 600), 1600)
    samples = (random.standard_normal(60 * 16_000) * loudness).astype(np.float32)
    whole = torch.cat(list(encode_stream(encoder, [samples])))[250:]
    moved = torch.cat(list(encode_stream(encoder, [samples[5 * 16_000 :]])))
    statistics = feature_statistics([whole])
    whole, moved = statistics.normalize(whole), statistics.normalize(moved)
    centroids = fit_kmeans(lambda: [whole], KMeansConfig(50, passes=4, n_starts=1)).centroids
    changed = assign(whole, centroids) != assign(moved, centroids)
    # The first 2.5 seconds have lost the speech before them, which is no matter of the grid.
    assert changed[125:].float().mean() < 0.002
