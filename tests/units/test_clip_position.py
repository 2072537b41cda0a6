"""Whisper's layers that carry the place in the clip are told from those that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gslm.audio import write_wav
from gslm.units.clip_position import position_share, suited_normalization
from gslm.units.encoders import Chunking, MFCCEncoder
from gslm.units.encoders.whisper import WhisperConfig, WhisperEncoder, WhisperModel
from gslm.units.fit import fit_units
from gslm.units.normalization import normalize_frames
from gslm.units.recordings import Reading


class GivenFrames(MFCCEncoder):
    """Gives frames made beforehand, by the first sample of a clip."""

    dim = 6

    def __init__(self, frames: list[torch.Tensor], chunk_frames: int) -> None:
        super().__init__(Chunking(chunk_frames, 0))
        self.frames = frames

    def __call__(self, clips):
        return [self.frames[int(clip[0])] for clip in clips]


def _frames(strength: float, n_clips: int, longest: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    places = strength * torch.randn(longest, 6, generator=rng)
    lengths = torch.randint(5, longest + 1, (n_clips,), generator=rng).tolist()
    return [places[:n] + torch.randn(n, 6, generator=rng) for n in lengths]


def _share(frames: list[torch.Tensor], chunk_frames: int) -> float:
    clips = [np.full(320 * len(rows), i, np.float32) for i, rows in enumerate(frames)]
    return position_share(GivenFrames(frames, chunk_frames), clips)


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_the_share_is_the_adjusted_r_squared_of_a_regression_on_places(strength):
    frames = _frames(strength, 60, 25)
    rows = [normalize_frames(clip).double().numpy() for clip in frames]
    longest = sum(sum(len(clip) > place for clip in frames) >= 10 for place in range(25))
    y = np.concatenate([clip[:longest] for clip in rows])
    x = np.concatenate([np.eye(longest)[: len(clip)] for clip in rows])
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    n = len(y)
    within = ((y - fitted) ** 2).sum() / (n - longest)
    expected = 1 - within / (((y - y.mean(0)) ** 2).sum() / (n - 1))
    assert _share(frames, 25) == pytest.approx(expected, abs=1e-5)
    assert (expected > 0.5) == (strength == 3.0)
    assert (abs(expected) < 0.02) == (strength == 0.0)


def test_a_few_clips_and_equal_frames_tell_nothing():
    assert _share(_frames(3.0, 9, 25), 25) == 0
    assert _share([], 25) == 0
    assert _share([torch.ones(20, 6)] * 12, 25) == 0


@pytest.mark.parametrize(("strength", "expected"), [(0.0, "frame"), (30.0, "frame+global")])
def test_whispers_layer_is_normalised_by_how_much_of_it_is_the_place(tmp_path, strength, expected):
    torch.manual_seed(0)
    model = WhisperModel(WhisperConfig(32, 2, 64, 80, 1500, 4, 2)).requires_grad_(False)
    model.embed_positions.weight.mul_(strength)
    encoder = WhisperEncoder(model)
    rng = np.random.default_rng(0)
    # Of three short clips and a long one there are pieces enough only where that is cut.
    for i, seconds in enumerate([1, 2, 3, 130]):
        loudness = np.abs(np.sin(np.arange(16_000 * seconds) / (2000 + 300 * i)))
        noise = 0.1 * loudness * rng.standard_normal(16_000 * seconds)
        write_wav(tmp_path / f"{i}.wav", noise.astype(np.float32))
    (tmp_path / "bad.wav").write_text("no audio")
    ids = ["bad.wav", *(f"{i}.wav" for i in range(4))]
    assert suited_normalization(encoder, tmp_path, ids, Reading()) == expected
    units = fit_units(tmp_path, ids, encoder, 8, progress=False)
    assert units.normalization == expected
    assert (units.statistics is not None) == (expected == "frame+global")
