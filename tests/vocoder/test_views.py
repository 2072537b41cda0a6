"""Other views of the audio: units of shifted, louder and noisier copies, over the true sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.vocoder import views
from gslm.vocoder.data import Clips, prepare_clips
from gslm.vocoder.views import add_views


@pytest.fixture
def own_clips(recordings, tmp_path) -> Clips:
    corpus, audio_root = recordings
    return prepare_clips(corpus, audio_root, tmp_path / "clips")


class _Encoder:
    """Calls a frame by its number in the clip, and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []
        self.groups: list[list[int]] = []

    def __call__(self, waveforms):
        self.heard += waveforms
        self.groups.append([len(w) // 320 for w in waveforms])
        return [np.arange(-(-len(w) // 320), dtype=np.int32) for w in waveforms]


def test_views_hear_each_clip_begun_later_at_another_loudness(own_clips, tmp_path, whole_clip):
    encoder = _Encoder()
    add_views(own_clips, encoder, 3, tmp_path / "views")
    assert [shift for shift, _ in own_clips.views] == [80, 160, 240]
    assert len(encoder.heard) == 3 * 20
    for number, heard in enumerate(encoder.heard):
        shift = 80 * (number // 20 + 1)
        sound = whole_clip(own_clips, number % 20).audio[0].numpy()
        assert heard.dtype == np.float32
        assert len(heard) == len(sound)
        assert np.abs(heard).max() <= 1
        later = np.pad(sound[shift:], (0, shift))
        if np.abs(later).max() > 0.05:
            assert np.corrcoef(heard, later)[0, 1] > 0.97


def test_crops_of_a_view_keep_the_sound_and_pitch_of_its_units(own_clips, tmp_path, whole_clip):
    add_views(own_clips, _Encoder(), 1, tmp_path / "views")
    (shift, _), n_frames = own_clips.views[0], 8
    assert shift == 160
    chosen = np.arange(20)
    crops = own_clips.sample(chosen, 40, n_frames, np.random.default_rng(0), any_view=True)
    plain = own_clips.sample(chosen, 40, n_frames, np.random.default_rng(0))
    viewed = [i for i in range(40) if not torch.equal(crops.units[i], plain.units[i])]
    assert 5 < len(viewed) < 35
    for i in viewed:
        first = int(crops.units[i, 0])
        found = [
            whole
            for whole in (whole_clip(own_clips, number) for number in range(20))
            if torch.equal(whole.audio[0, 320 * first : 320 * (first + n_frames)], plain.audio[i])
        ]
        sound = crops.audio[i]
        assert any(
            torch.equal(sound[: len(part)], part) and not sound[len(part) :].any()
            for whole in found
            for part in [whole.audio[0, 320 * first + shift :][: 320 * n_frames]]
        )
        assert torch.equal(crops.f0[i, :-1], plain.f0[i, 1:])


def test_views_are_kept_for_a_run_that_goes_on(own_clips, tmp_path):
    add_views(own_clips, _Encoder(), 2, tmp_path / "views")
    kept = [frames.copy() for _, frames in own_clips.views]

    def interrupted(_):
        raise KeyboardInterrupt

    add_views(own_clips, interrupted, 2, tmp_path / "views")
    assert all(np.array_equal(a, b) for a, (_, b) in zip(kept, own_clips.views, strict=True))
    with pytest.raises(KeyboardInterrupt):
        add_views(own_clips, interrupted, 3, tmp_path / "views")
    add_views(own_clips, _Encoder(), 3, tmp_path / "views")
    assert len(own_clips.views) == 3


def test_what_is_heard_at_once_does_not_grow_with_the_clips(
    own_clips, tmp_path, whole_clip, monkeypatch
):
    monkeypatch.setattr(views, "_STRETCH_FRAMES", 25)
    monkeypatch.setattr(views, "_GROUP_FRAMES", 60)
    monkeypatch.setattr(views, "_GROUP_STRETCHES", 4)
    encoder = _Encoder()
    add_views(own_clips, encoder, 1, tmp_path / "views")
    lengths = own_clips.lengths.tolist()
    assert max(lengths) > 60
    assert all(sum(group) <= 60 and len(group) <= 4 for group in encoder.groups)
    assert max(map(max, encoder.groups)) == 25
    # The file holds each clip's frames, its stretches one after the other.
    ((shift, frames),) = own_clips.views
    expected = [np.arange(length) % 25 for length in lengths]
    assert np.array_equal(frames, np.concatenate(expected))
    # What was heard, joined, is the clip begun later, also over the seams.
    heard = iter(encoder.heard)
    for number, length in enumerate(lengths):
        sound = whole_clip(own_clips, number).audio[0].numpy()
        later = np.pad(sound[shift:], (0, shift))
        for first in range(0, length, 25):
            part, stretch = later[320 * first : 320 * (first + 25)], next(heard)
            assert len(stretch) == len(part)
            if np.abs(part).max() > 0.05:
                assert np.corrcoef(stretch, part)[0, 1] > 0.97


def test_the_first_stretch_of_a_long_clip_sounds_as_that_of_a_short_one(
    own_clips, tmp_path, monkeypatch
):
    whole, parts = _Encoder(), _Encoder()
    add_views(own_clips, whole, 1, tmp_path / "whole")
    monkeypatch.setattr(views, "_STRETCH_FRAMES", int(own_clips.lengths.min()))
    add_views(own_clips, parts, 1, tmp_path / "parts")
    shortest = int(own_clips.lengths.argmin())
    place = sum(-(-int(n) // int(own_clips.lengths.min())) for n in own_clips.lengths[:shortest])
    assert np.array_equal(whole.heard[shortest], parts.heard[place])


def test_a_folder_that_cannot_be_written_is_named(own_clips, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        add_views(own_clips, _Encoder(), 1, tmp_path / "file")
