"""Prepared clips: audio, pitch and units of one place belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gslm.corpus as corpus_module
from gslm.audio import read_audio, write_wav
from gslm.bundle import read_json
from gslm.corpus import CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.vocoder import data
from gslm.vocoder.data import prepare_clips
from gslm.vocoder.pitch_tracker import track_pitch


def test_a_whole_clip_is_the_recording_its_pitch_and_its_units(recordings, clips, whole_clip):
    corpus, audio_root = recordings
    for index, row in enumerate(corpus.rows()):
        crops = whole_clip(clips, index)
        waveform = read_audio(audio_root / row.id)
        n_frames = -(-len(waveform) // 320)
        padded = np.pad(waveform, (0, n_frames * 320 - len(waveform)))
        assert crops.audio.shape == (1, n_frames * 320)
        assert np.abs(crops.audio[0].numpy() - padded).max() < 1e-4
        assert np.array_equal(crops.f0[0].numpy(), track_pitch(padded))
        assert np.array_equal(crops.units[0].numpy(), corpus.units(row).expanded().ids)


def test_the_split_is_the_corpus(recordings, clips):
    corpus, _ = recordings
    held_out = [i for i, row in enumerate(corpus.rows()) if corpus.is_held_out(row.id)]
    assert clips.select(held_out=True).tolist() == held_out
    assert set(held_out) | set(clips.select(held_out=False)) == set(range(20))


def test_crops_keep_audio_pitch_and_units_of_one_place(clips, whole_clip):
    rng = np.random.default_rng(0)
    crops = clips.sample(np.arange(20), 32, 12, rng)
    wholes = [whole_clip(clips, i) for i in range(20)]
    for units, f0, audio in zip(crops.units, crops.f0, crops.audio, strict=True):
        places = [
            (whole, first)
            for whole in wholes
            for first in range(max(1, whole.units.shape[1] - 11))
            if torch.equal(whole.audio[0, 320 * first : 320 * (first + 12)], audio)
        ]
        # Silence occurs in many places; one of them has this crop's units and pitch.
        assert any(
            torch.equal(whole.units[0, first : first + 12], units)
            and torch.equal(whole.f0[0, 2 * first : 2 * (first + 12)], f0)
            for whole, first in places
        )


def test_short_clips_are_padded(clips, whole_clip):
    shortest = int(np.argmin(clips.lengths))
    n_frames = int(clips.lengths[shortest])
    crops = clips.sample(np.array([shortest]), 2, n_frames + 7, np.random.default_rng(0))
    assert crops.units.shape == (2, n_frames + 7)
    assert (crops.units[:, n_frames:] == clips.n_units).all()
    assert not crops.f0[:, 2 * n_frames :].any()
    assert not crops.audio[:, 320 * n_frames :].any()
    assert torch.equal(crops.units[0, :n_frames], whole_clip(clips, shortest).units[0])


def test_pitch_is_finite_and_units_are_in_range(clips):
    assert np.isfinite(clips.f0).all()
    assert clips.f0.min() == 0
    assert 0 <= clips.units.min() <= clips.units.max() < clips.n_units
    assert len(clips.audio) == 320 * len(clips.units) == 160 * len(clips.f0)


def test_preparing_again_reuses_and_a_changed_corpus_does_not(recordings, tmp_path, monkeypatch):
    corpus, audio_root = recordings
    prepare_clips(corpus, audio_root, tmp_path / "clips")
    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "read_audio", None)
        prepare_clips(corpus, audio_root, tmp_path / "clips")
    rows = list(corpus.rows())
    writer = CorpusWriter(tmp_path / "other", corpus.fingerprint, corpus.source)
    writer.write_shard(0, rows)
    other = writer.finish(1, {rows[1].id})
    again = prepare_clips(other, audio_root, tmp_path / "clips")
    assert again.select(held_out=True).tolist() == [1]


def test_an_interrupted_preparation_starts_again(recordings, clips, tmp_path, monkeypatch):
    corpus, audio_root = recordings
    before = prepare_clips(corpus, audio_root, tmp_path)
    marker = tmp_path / "clips.json"
    marker.write_text("{}", encoding="utf-8")
    calls = []

    def interrupted(waveform):
        calls.append(len(waveform))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return track_pitch(waveform)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data, "track_pitch", interrupted)
        prepare_clips(corpus, audio_root, tmp_path)
    assert not marker.exists()
    # What another run has mapped stays whole.
    assert np.array_equal(before.audio, clips.audio)
    again = prepare_clips(corpus, audio_root, tmp_path)
    for name in ("audio", "f0", "units", "lengths", "held_out"):
        assert np.array_equal(getattr(again, name), getattr(clips, name))
    assert read_json(marker) == read_json(corpus.folder / "corpus.json")


def test_audio_that_changed_or_is_missing_is_named(recordings, tmp_path):
    corpus, _ = recordings
    row = next(iter(corpus.rows()))
    write_wav(tmp_path / "audio" / row.id, np.zeros(row.n_samples + 400, np.float32))
    with pytest.raises(UserError, match=r"clip-00\.wav: has .* changed after it was encoded"):
        prepare_clips(corpus, tmp_path / "audio", tmp_path / "clips")
    with pytest.raises(UserError, match=r"clip-00\.wav: no such file"):
        prepare_clips(corpus, tmp_path / "nowhere", tmp_path / "clips")


def test_a_corpus_without_recordings_and_a_folder_that_is_none_are_refused(
    fingerprint, recordings, tmp_path
):
    writer = CorpusWriter(tmp_path / "empty", fingerprint, {})
    writer.write_shard(0, [])
    with pytest.raises(UserError, match="no recordings"):
        prepare_clips(writer.finish(1), tmp_path, tmp_path / "clips")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        prepare_clips(*recordings, tmp_path / "file")


def test_samples_over_full_scale_do_not_wrap_around(fingerprint, tmp_path, monkeypatch, whole_clip):
    loud = np.full(640, 1.2, np.float32)
    monkeypatch.setattr(corpus_module, "read_audio", lambda path, channel: loud)
    ids = np.zeros(2, np.int32)
    writer = CorpusWriter(tmp_path / "corpus", fingerprint, {})
    writer.write_shard(0, [CorpusRow("a.wav", ids, None, 640, "")])
    clips = prepare_clips(writer.finish(1), tmp_path, tmp_path / "clips")
    assert float(whole_clip(clips, 0).audio.min()) == 1
