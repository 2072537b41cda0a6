"""Fitting and encoding folders: bad files, resume, any number of workers, the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gslm.audio import find_audio, write_wav
from gslm.corpus import Corpus, CorpusWriter
from gslm.errors import UserError
from gslm.units import commands, encode
from gslm.units.encode import encode_corpus
from gslm.units.encoders import LogMelEncoder, MFCCEncoder
from gslm.units.fit import MAX_FRAMES, fit_units, frames_in_hours
from gslm.units.inspection import Inspection, report, unit_usage


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Twelve good clips in folders, one of them long, and two bad files."""
    root = tmp_path_factory.mktemp("audio files")
    random = np.random.default_rng(0)
    seconds = [0.3, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 0.4, 0.6, 0.9, 1.1, 65.0]
    for i, length in enumerate(seconds):
        n = int(length * 16_000)
        tone = np.sin(np.arange(n) * (0.02 + 0.01 * i)) * np.abs(np.sin(np.arange(n) / 4000))
        waveform = 0.2 * tone + 0.01 * random.standard_normal(n)
        write_wav(root / f"spéaker {i % 2}" / f"clip {i}.wav", waveform.astype(np.float32))
    (root / "spéaker 0" / "text.wav").write_text("not audio")
    (root / "spéaker 1" / "zero.wav").touch()
    return root


@pytest.fixture(scope="module")
def units(audio):
    return fit_units(audio, find_audio(audio), MFCCEncoder(), 16, progress=False)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _encode(audio, folder, units, **settings) -> Corpus:
    return encode_corpus(audio, folder, units, shard_size=4, progress=False, **settings)


def test_corpus_holds_every_good_file_and_names_the_bad(audio, units, tmp_path):
    corpus = _encode(audio, tmp_path / "c", units, speaker_from="folder")
    assert len(corpus) == 12
    assert [id_ for id_, _ in corpus.skipped()] == ["spéaker 0/text.wav", "spéaker 1/zero.wav"]
    assert not any(str(audio) in reason for _, reason in corpus.skipped())
    for row in corpus.rows():
        assert row.durations.sum() == -(-row.n_samples // 320)
        assert row.speaker == row.id.split("/")[0]
        expected = units.encode_file(audio / row.id, deduplicate=True)
        if row.n_samples < 30 * 16_000:
            assert np.array_equal(row.units, expected.ids)


def test_an_interrupted_run_goes_on(audio, units, tmp_path, monkeypatch):
    _encode(audio, tmp_path / "whole", units)
    write = CorpusWriter.write_shard

    def stops(self, index, rows, skipped=()):
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, rows, skipped)

    monkeypatch.setattr(CorpusWriter, "write_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        _encode(audio, tmp_path / "resumed", units)
    monkeypatch.undo()
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "resumed").glob("units-*.parquet")}
    assert len(written) == 2
    _encode(audio, tmp_path / "resumed", units)
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert _bytes(tmp_path / "whole") == _bytes(tmp_path / "resumed")


def test_a_run_removes_what_a_killed_one_left(audio, units, tmp_path):
    (tmp_path / "c").mkdir()
    for name in ("units-00000.parquet", "skipped-00001.jsonl", "plan.json", "corpus.json"):
        (tmp_path / "c" / f".{name}.1.tmp").write_bytes(b"PAR1")
    (tmp_path / "c" / ".notes.tmp").write_text("of the user's own")
    _encode(audio, tmp_path / "c", units)
    assert [path.name for path in (tmp_path / "c").glob(".*")] == [".notes.tmp"]


def test_other_settings_do_not_mix_into_a_corpus(audio, units, tmp_path):
    _encode(audio, tmp_path / "c", units)
    with pytest.raises(UserError, match="other audio, units or settings"):
        _encode(audio, tmp_path / "c", units, deduplicate=False)
    with pytest.raises(UserError, match="other audio, units or settings"):
        _encode(audio, tmp_path / "c", units, speaker_from="folder")


def test_a_small_corpus_has_shards_for_many_workers_but_none_too_small(
    audio, units, tmp_path, monkeypatch
):
    def n_shards(name: str) -> int:
        encode_corpus(audio, tmp_path / name, units, progress=False)
        return len(list((tmp_path / name).glob("units-*.parquet")))

    n_files = len(find_audio(audio))
    n_bytes = sum((audio / id_).stat().st_size for id_ in find_audio(audio))
    monkeypatch.setattr(encode, "_LEAST_IN_SHARD", n_bytes // n_files)
    assert n_shards("one each") == n_files
    monkeypatch.setattr(encode, "_LEAST_IN_SHARD", n_bytes)
    assert n_shards("all in one") == 1


@pytest.mark.parametrize("setting", ["workers", "shard_size"])
def test_no_workers_and_empty_shards_are_errors(audio, units, tmp_path, setting):
    with pytest.raises(UserError, match="give at least 1"):
        encode_corpus(audio, tmp_path / "c", units, progress=False, **{setting: 0})
    assert not (tmp_path / "c").exists()


def test_folders_without_audio_are_errors(units, tmp_path):
    with pytest.raises(UserError):
        encode_corpus(tmp_path, tmp_path / "c", units)
    (tmp_path / "bad.wav").write_text("no")
    with pytest.raises(UserError, match="no readable recording"):
        _encode(tmp_path, tmp_path / "c", units)
    with pytest.raises(UserError, match="no readable recording"):
        fit_units(tmp_path, ["bad.wav"], MFCCEncoder(), 4, progress=False)


def test_fit_depends_on_the_seed_alone(audio, units):
    again = fit_units(audio, find_audio(audio)[::-1], MFCCEncoder(), 16, progress=False)
    assert torch.equal(again.centroids, units.centroids)
    other = fit_units(audio, find_audio(audio), MFCCEncoder(), 16, seed=1, progress=False)
    assert not torch.equal(other.centroids, units.centroids)


def test_more_units_than_frames_is_an_error(audio):
    ids = find_audio(audio)
    with pytest.raises(UserError, match="cannot make 500 units"):
        fit_units(audio, ids, LogMelEncoder(), 500, max_frames=300, progress=False)


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), 0.0, -1.0])
def test_hours_that_are_no_length_are_told_before_any_work(hours, tmp_path):
    with pytest.raises(UserError, match=r"max-hours .*above 0"):
        commands.fit(tmp_path, output=tmp_path / "u", encoder="mfcc", max_hours=hours)


def test_hours_are_counted_in_frames():
    assert frames_in_hours(5) == MAX_FRAMES == 900_000
    assert frames_in_hours(1e-9) == 1


def test_why_nothing_can_be_fitted_names_the_recording_once(tmp_path):
    with pytest.raises(UserError) as error:
        fit_units(tmp_path, ["../11.flac"], MFCCEncoder(), 4, progress=False)
    assert str(error.value).count("11.flac") == 1
    assert "leads outside" in str(error.value)


def test_usage_counts_by_hand(units):
    from gslm.types import Units

    ids = np.array([0, 0, 1, 1, 1, 1, 0, 0], dtype=np.int32)
    usage = unit_usage([Units(ids, None, units.fingerprint)])
    assert usage.frames[:2].tolist() == [4, 4]
    assert usage.runs[:2].tolist() == [2, 1]
    assert usage.frame_entropy == pytest.approx(1.0)
    assert usage.runs_per_second == pytest.approx(3 / 8 * 50)
    assert usage.run_lengths[2] == 2
    assert "in use     2 of 16" in report(Inspection(usage))


def test_commands_run_one_after_another(audio, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    for line in (
        [
            "fit",
            str(audio),
            "-o",
            "u",
            "--encoder",
            "mfcc",
            "--k",
            "16",
            "--normalization",
            "utterance",
        ],
        ["encode", str(audio), "--units", "u", "-o", "c"],
        ["bpe", "c", "-o", "b", "--vocabulary-size", "18"],
        ["inspect", "c", "--png", "use.png"],
    ):
        commands.app(line, result_action="return_value")
    assert (tmp_path / "use.png").stat().st_size > 1000
    assert "bits a second" in capsys.readouterr().out
    assert (tmp_path / "b" / "bpe.model").is_file()
