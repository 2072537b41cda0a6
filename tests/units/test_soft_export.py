"""Soft units of a folder of audio as files: each whole or not there, of one maker, gone on with."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from gslm.audio import find_audio, read_audio, write_wav
from gslm.errors import UserError
from gslm.units.encoders import Chunking, MFCCEncoder
from gslm.units.fit import fit_units
from gslm.units.recordings import Reading
from gslm.units.soft import SoftConfig, SoftUnits, soft_blocks
from gslm.units.soft_export import export_soft, write_rows
from gslm.units.unit_encoder import UnitEncoder
from tests.units.tones import sound, write_recordings


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def hard(recordings) -> UnitEncoder:
    encoder = MFCCEncoder(Chunking(100, 20))
    return fit_units(recordings, find_audio(recordings), encoder, 12, progress=False)


@pytest.fixture(scope="module")
def units(hard) -> UnitEncoder:
    """Soft units that were never trained: what is written is theirs all the same."""
    units = UnitEncoder(hard.encoder, hard.centroids, hard.normalization, hard.statistics)
    torch.manual_seed(0)
    units.soft_units = SoftUnits(SoftConfig(39, 12, 16)).eval()
    return units


@pytest.mark.parametrize("kind", ["vectors", "distribution"])
def test_export_writes_a_file_a_recording_and_goes_on(units, recordings, tmp_path, kind):
    n_files, skipped = export_soft(units, recordings, tmp_path, kind, progress=False)
    assert n_files == 13
    assert [id_ for id_, _ in skipped] == ["text.wav"]
    assert "text.wav\t" in (tmp_path / "skipped.tsv").read_text()
    kept = tmp_path / "00.npy"
    changed_at = kept.stat().st_mtime_ns
    lost = np.load(tmp_path / "long.npy")
    (tmp_path / "long.npy").unlink()
    assert export_soft(units, recordings, tmp_path, kind, progress=False) == (13, skipped)
    assert kept.stat().st_mtime_ns == changed_at
    assert np.array_equal(np.load(tmp_path / "long.npy"), lost)
    for name in ("00", "long"):
        waveform = read_audio(recordings / f"{name}.wav")
        expected = np.concatenate(list(soft_blocks(units, lambda w=waveform: [w], kind)))
        found = np.load(tmp_path / f"{name}.npy")
        assert found.dtype == np.float32
        assert np.allclose(found, expected, atol=1e-4)
    other = "vectors" if kind == "distribution" else "distribution"
    with pytest.raises(UserError, match="another kind"):
        export_soft(units, recordings, tmp_path, other, progress=False)
    with pytest.raises(UserError, match="other recordings"):
        export_soft(units, recordings, tmp_path, kind, Reading(channel=0), progress=False)


def test_files_of_other_recordings_of_the_same_name_are_not_taken_for_done(units, tmp_path):
    for name, seconds in (("first", 1), ("second", 2)):
        write_wav(tmp_path / name / "a.wav", sound(seconds))
    export_soft(units, tmp_path / "first", tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="other recordings"):
        export_soft(units, tmp_path / "second", tmp_path / "out", progress=False)
    assert len(np.load(tmp_path / "out" / "a.npy")) == 50


def test_soft_units_are_made_of_one_channel(units, tmp_path):
    both = np.stack([sound(1), np.zeros(16_000, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 16_000)
    export_soft(units, tmp_path, tmp_path / "out", reading=Reading(channel=1), progress=False)
    found = np.load(tmp_path / "out" / "a.npy")
    silence = units.soft(np.zeros(16_000, np.float32))
    assert np.allclose(found, silence, atol=1e-4)


def test_export_refuses_recordings_that_differ_in_their_suffix_alone(units, tmp_path):
    for suffix in ("wav", "flac"):
        soundfile.write(tmp_path / f"a.{suffix}", sound(0.2), 16_000)
    with pytest.raises(UserError, match="would both be written"):
        export_soft(units, tmp_path, tmp_path / "out", progress=False)


def test_a_long_recording_damaged_further_on_is_recorded_and_leaves_no_file(units, tmp_path):
    waveform = sound(70)
    waveform[-100] = np.nan
    soundfile.write(tmp_path / "bad.wav", waveform, 16_000, subtype="FLOAT")
    write_wav(tmp_path / "good.wav", sound(1))
    n_files, skipped = export_soft(units, tmp_path, tmp_path / "out", progress=False)
    assert n_files == 1
    assert [id_ for id_, _ in skipped] == ["bad.wav"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "good.npy",
        "skipped.tsv",
        "soft.json",
    ]


def test_export_without_audio_or_soft_units_writes_nothing(units, hard, tmp_path):
    for made, message in ((units, "no such folder"), (hard, "gslm units soft")):
        with pytest.raises(UserError, match=message):
            export_soft(made, tmp_path / "none", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_rows_written_in_parts_are_one_array(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((123_456, 3)).astype(np.float32)
    write_rows(tmp_path / "rows.npy", np.array_split(rows, 11))
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows)
