"""Reading ahead, channels and trimming while a corpus is encoded."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gslm.audio import find_audio, read_audio, write_wav
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.eval.abx_sources import corpus_source
from gslm.units import commands, recordings, shards
from gslm.units.encode import encode_corpus
from gslm.units.encoders import MFCCEncoder
from gslm.units.fit import fit_units
from gslm.units.inertia import measure_inertia
from gslm.units.phone_agreement import corpus_clips
from gslm.units.quantizers.kmeans import inertia
from gslm.units.recordings import Reading, clip_groups, read_ahead
from gslm.units.shards import runs_of_shards
from gslm.units.trimming import speech_stretch
from gslm.vocoder.data import prepare_clips


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Stereo clips at 44.1 kHz with silence at both ends, speech-like sounds that differ a channel.

    One is long, one mono at 8 kHz, one silent.
    """
    root = tmp_path_factory.mktemp("stereo")
    rng = np.random.default_rng(1)
    for i, seconds in enumerate([1.0, 1.4, 2.0, 61.0]):
        write = rng.standard_normal((int(seconds * 44_100), 2))
        write *= 0.2 * np.abs(np.sin(np.arange(len(write)) / (3000 + 500 * i)))[:, None] + 0.02
        write = np.pad(write, ((30_000, 20_000), (0, 0))) + 1e-4 * rng.standard_normal(
            (len(write) + 50_000, 2)
        )
        soundfile.write(root / f"clip {i}.flac", write, 44_100)
    soundfile.write(root / "mono.wav", 0.1 * rng.standard_normal(8000), 8000)
    soundfile.write(root / "silent.wav", np.zeros((16_000, 2)), 16_000)
    return root


@pytest.fixture(scope="module")
def units(audio):
    return fit_units(audio, find_audio(audio), MFCCEncoder(), 16, progress=False)


def _encode(audio, folder, units, **settings) -> Corpus:
    return encode_corpus(audio, folder, units, shard_size=2, progress=False, **settings)


def _at_once(items, n_ahead=1):
    yield from items


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_reading_ahead_keeps_order_and_holds_two_items():
    made = 0

    def items():
        nonlocal made
        while made < 20:
            made += 1
            yield made

    seen = []
    for item in read_ahead(items()):
        time.sleep(0.002)
        assert made <= item + 1
        seen.append(item)
    assert seen == list(range(1, 21))
    assert not _readers()
    assert list(read_ahead([])) == []


def test_errors_while_reading_ahead_reach_the_one_who_reads():
    def items():
        yield 1
        raise KeyError("broken")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="broken"):
        next(ahead)
    assert not _readers()


def test_closing_early_stops_the_reader():
    def items():
        while True:
            yield 0

    ahead = read_ahead(items())
    next(ahead)
    assert len(_readers()) == 1
    ahead.close()
    assert not _readers()


def test_ctrl_c_leaves_no_reader_and_a_run_that_goes_on(audio, units, tmp_path, monkeypatch):
    whole = _encode(audio, tmp_path / "whole", units)

    def interrupted(self, waveforms):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(units), "encode_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _encode(audio, tmp_path / "c", units)
    assert not _readers()
    again = _encode(audio, tmp_path / "c", units)
    assert [row.id for row in again.rows()] == [row.id for row in whole.rows()]


def test_reading_ahead_changes_no_byte(audio, units, tmp_path, monkeypatch):
    _encode(audio, tmp_path / "ahead", units)
    monkeypatch.setattr(shards, "read_ahead", _at_once)
    _encode(audio, tmp_path / "plain", units)
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "ahead" / path.name).read_bytes()


def test_the_next_shard_is_read_while_the_model_runs(audio, units, tmp_path, monkeypatch):
    read, encode = recordings._read, type(units).encode_many
    ids = ["clip 0.flac", "clip 1.flac", "clip 2.flac"]
    n_read, more = 0, threading.Condition()

    def counted_read(*args):
        nonlocal n_read
        clip = read(*args)
        with more:
            n_read += 1
            more.notify()
        return clip

    n_encoded = 0

    def waiting_encode(self, waveforms):
        nonlocal n_encoded
        n_encoded += 1
        with more:
            assert more.wait_for(lambda: n_read > min(n_encoded, len(ids) - 1), timeout=20)
        return encode(self, waveforms)

    monkeypatch.setattr(recordings, "_read", counted_read)
    monkeypatch.setattr(type(units), "encode_many", waiting_encode)
    corpus = encode_corpus(audio, tmp_path / "c", units, ids=ids, shard_size=1, progress=False)
    assert len(corpus) == n_encoded == 3


def test_a_channel_is_read_recorded_and_found_by_the_vocoder(audio, units, tmp_path):
    left, right, mix = (
        _encode(audio, tmp_path / str(channel), units, channel=channel) for channel in (0, 1, None)
    )
    assert (left.source["channel"], right.source["channel"]) == (0, 1)
    assert "channel" not in mix.source
    assert right.skipped() == [("mono.wav", "has 1 channels, none numbered 1")]
    for row in left.rows():
        sound = read_audio(audio / row.id, channel=0)
        assert np.array_equal(left.waveform(row, audio), sound)
        if row.n_samples < 30 * 16_000:
            assert np.array_equal(units(sound, deduplicate=True).ids, row.units)
    first = next(iter(right.rows()))
    assert not np.array_equal(first.units, next(iter(mix.rows())).units)
    clips = prepare_clips(right, audio, tmp_path / "clips")
    expected = np.round(read_audio(audio / first.id, channel=1) * 32767)
    assert np.array_equal(clips.audio[: len(expected)], expected)


def test_trimmed_rows_say_where_they_begin(audio, units, tmp_path):
    corpus = _encode(audio, tmp_path / "c", units, trim_silence=True)
    assert corpus.source["trimmed"] is True
    rows = {row.id: row for row in corpus.rows()}
    assert len(rows) == 6
    assert (rows["silent.wav"].first_sample, rows["silent.wav"].n_samples) == (0, 16_000)
    for id_, row in rows.items():
        whole = read_audio(audio / id_)
        first, end = speech_stretch([whole])
        assert (row.first_sample, row.n_samples) == (first, end - first)
        assert row.durations.sum() == -(-row.n_samples // 320)
        assert np.array_equal(corpus.waveform(row, audio), whole[first:end])
        if row.n_samples < 30 * 16_000:
            assert np.array_equal(units(whole[first:end], deduplicate=True).ids, row.units)
        if "clip" in id_:
            assert 0.3 * 16_000 < first < 30_000 / 44_100 * 16_000
            assert len(whole) - end > 0.1 * 16_000


def test_the_vocoder_reads_trimmed_audio(audio, units, tmp_path):
    corpus = _encode(audio, tmp_path / "c", units, trim_silence=True)
    clips = prepare_clips(corpus, audio, tmp_path / "clips")
    for index, row in enumerate(corpus.rows()):
        start = int(clips.starts[index]) * 320
        expected = np.round(corpus.waveform(row, audio) * 32767)
        assert np.array_equal(clips.audio[start : start + row.n_samples], expected)
        frames = clips.units[clips.starts[index] : clips.starts[index + 1]]
        assert np.array_equal(frames, corpus.units(row).expanded().ids)


def test_inertia_reads_what_was_encoded(audio, units, tmp_path):
    corpus = _encode(audio, tmp_path / "c", units, channel=1, trim_silence=True)
    found = measure_inertia(corpus, audio, units, progress=False)
    assert (found.n_missing, found.n_frames) == (0, corpus.n_frames)
    clip = read_audio(audio / "clip 0.flac", channel=1)
    frames = units.normalize(units.encoder([torch.from_numpy(clip)])[0])
    one = _encode(audio, tmp_path / "one", units, channel=1, ids=["clip 0.flac"])
    alone = measure_inertia(one, audio, units, progress=False)
    assert alone.per_frame == pytest.approx(inertia(frames, units.centroids) / len(frames))


def test_labelled_times_are_refused_for_trimmed_units(audio, units, tmp_path):
    corpus = _encode(audio, tmp_path / "c", units, trim_silence=True)
    with pytest.raises(UserError, match="encode without --trim-silence"):
        list(corpus_clips(corpus))
    with pytest.raises(UserError, match="encode without --trim-silence"):
        corpus_source(corpus, None)


def test_the_command_takes_a_channel_and_trims(audio, units, tmp_path, capsys):
    units.save(tmp_path / "u")
    line = [audio, "--units", tmp_path / "u", "-o", tmp_path / "c", "--workers", "1"]
    options = ["--channel", "1", "--trim-silence"]
    commands.app(["encode", *map(str, line), *options], result_action="return_value")
    corpus = Corpus.open(tmp_path / "c")
    assert (corpus.source["channel"], corpus.source["trimmed"]) == (1, True)
    assert "skipped mono.wav: has 1 channels" in capsys.readouterr().out


def test_groups_are_the_same_for_any_reading_of_mono(tmp_path):
    write_wav(tmp_path / "a.wav", np.full(16_000, 0.1, np.float32))
    skipped: list[tuple[str, str]] = []
    plain, first = (
        next(clip_groups(tmp_path, ["a.wav"], skipped, reading))[0]
        for reading in (None, Reading(channel=0))
    )
    assert np.array_equal(plain.waveform, first.waveform)
    assert skipped == []


@pytest.mark.parametrize(("n", "workers"), [(0, 2), (1, 2), (7, 2), (100, 3), (1000, 4)])
def test_runs_cover_all_shards_and_leave_enough_for_all(n, workers):
    runs = runs_of_shards(range(n), workers)
    assert [index for run in runs for index in run] == list(range(n))
    assert all(1 <= len(run) <= 4 for run in runs)
    assert len(runs) >= min(n, 2 * workers)
