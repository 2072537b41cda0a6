"""Waveforms to units: every kind of input, and folders that come back the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import gslm.units
from gslm.audio import write_wav
from gslm.errors import UserError
from gslm.units.encode import encode_corpus
from gslm.units.encoders import Chunking, LogMelEncoder, MFCCEncoder
from gslm.units.encoders.whisper import WhisperConfig, WhisperEncoder, WhisperModel
from gslm.units.normalization import (
    NORMALIZATIONS,
    FeatureStatistics,
    by_frame,
    by_training_set,
    feature_statistics,
    normalize_frames,
)
from gslm.units.quantizers.spherical import unit_length
from gslm.units.recordings import Reading
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder


def _speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    n = int(seconds * 16_000)
    loudness = np.abs(np.sin(np.arange(n) / 3000))
    return (random.standard_normal(n) * loudness * 0.1).astype(np.float32)


def _unit_encoder(normalization: str = "none", encoder=None) -> UnitEncoder:
    encoder = encoder or MFCCEncoder(Chunking(100, 20))
    frames = encoder([torch.from_numpy(_speechlike(2))])[0]
    if by_frame(normalization):
        frames = normalize_frames(frames)
    statistics = feature_statistics([frames]) if by_training_set(normalization) else None
    centroids = (statistics.normalize(frames) if statistics else frames)[::5]
    return UnitEncoder(encoder, centroids, normalization, statistics)


def _whisper() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(WhisperModel(WhisperConfig(32, 2, 64, 80, 1500, 4, 2)))


@pytest.mark.parametrize("n_samples", [1, 319, 320, 321, 16_000, 50_001])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_frame_has_a_unit(n_samples, normalization):
    units = _unit_encoder(normalization)(_speechlike(4)[:n_samples])
    assert len(units) == -(-n_samples // 320)
    assert units.ids.dtype == np.int32
    assert units.durations is None


def test_silence_is_one_unit():
    for normalization in NORMALIZATIONS:
        ids = _unit_encoder(normalization)(np.zeros(16_000, np.float32)).ids
        assert len(set(ids.tolist())) == 1


def test_deduplicated_units_expand_to_the_frames():
    encoder = _unit_encoder()
    plain = encoder(_speechlike(3))
    runs = encoder(_speechlike(3), deduplicate=True)
    assert np.array_equal(runs.expanded().ids, plain.ids)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.zeros((2, 100), np.float32), "mono"),
    ],
)
def test_bad_waveforms_are_one_line_errors(waveform, message):
    with pytest.raises(UserError, match=message) as error:
        _unit_encoder()(waveform)
    assert "\n" not in str(error.value)


def test_another_sample_rate_is_resampled():
    assert len(_unit_encoder()(_speechlike(1), sample_rate=8000)) == 100


@pytest.mark.parametrize("normalization", ["none", "frame", "utterance"])
def test_a_file_read_in_blocks_gives_the_units_of_its_waveform(tmp_path, normalization):
    encoder = _unit_encoder(normalization)
    waveform = _speechlike(70)
    write_wav(tmp_path / "long.wav", waveform)
    rounded = (np.round(waveform * 32768) / 32768).astype(np.float32)
    from_file = encoder.encode_file(tmp_path / "long.wav").ids
    assert np.mean(from_file != encoder(rounded).ids) < 0.01


@pytest.mark.parametrize("half", [False, True])
def test_a_folder_comes_back_the_same(tmp_path, half):
    for name, encoder, normalization in (
        ("mel", LogMelEncoder(), "global"),
        ("whisper", _whisper(), "frame+global"),
    ):
        first = _unit_encoder(normalization, encoder)
        first.save(tmp_path / name / "units", half=half)
        loaded = gslm.units.load(tmp_path / name)
        assert loaded.fingerprint == first.fingerprint
        waveform = _speechlike(2, seed=1)
        assert np.mean(loaded(waveform).ids != first(waveform).ids) <= (0.05 if half else 0)


def test_a_folder_that_held_other_units_keeps_none_of_their_weights(tmp_path):
    _unit_encoder("none", _whisper()).save(tmp_path)
    _unit_encoder("none", MFCCEncoder()).save(tmp_path)
    assert not (tmp_path / "encoder.safetensors").exists()
    assert gslm.units.load(tmp_path).encoder.name == "mfcc"


def test_damaged_folders_are_one_line_errors(tmp_path):
    with pytest.raises(UserError, match="no units"):
        gslm.units.load(tmp_path)
    _unit_encoder("none", _whisper()).save(tmp_path)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        gslm.units.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="do not fit"):
        gslm.units.load(tmp_path)


def test_parts_that_do_not_fit_are_errors():
    with pytest.raises(UserError, match="do not fit"):
        UnitEncoder(MFCCEncoder(), torch.zeros(5, 38))
    with pytest.raises(UserError, match="unknown"):
        UnitEncoder(MFCCEncoder(), torch.zeros(5, 39), "zscore")
    with pytest.raises(UserError, match="statistics"):
        UnitEncoder(MFCCEncoder(), torch.zeros(5, 39), "global")


def test_statistics_equal_numpys_over_blocks():
    rows = torch.randn(1000, 4) * 3 + 7
    statistics = feature_statistics(rows.split(77))
    assert isinstance(statistics, FeatureStatistics)
    assert torch.allclose(statistics.mean, rows.mean(0), atol=1e-4)
    assert torch.allclose(statistics.deviation, rows.std(0, correction=0), atol=1e-4)


def test_each_frame_is_normalised_over_its_own_dimensions():
    frames = 5 + 3 * torch.randn(7, 39, generator=torch.Generator().manual_seed(0))
    normalized = _unit_encoder("frame").normalize(frames)
    expected = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(normalized, expected, rtol=1e-4, atol=1e-4)


def test_frames_are_normalised_by_themselves_and_then_over_the_corpus(tmp_path):
    from gslm.units.fit import fit_units

    waveforms = [_speechlike(2, seed) for seed in range(3)]
    for i, waveform in enumerate(waveforms):
        write_wav(tmp_path / f"{i}.wav", waveform)
    ids = [f"{i}.wav" for i in range(3)]
    units = fit_units(tmp_path, ids, MFCCEncoder(), 4, normalization="frame+global", progress=False)
    frames = torch.cat(MFCCEncoder()([torch.from_numpy(waveform) for waveform in waveforms]))
    rows = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True, correction=0)
    expected = (rows - rows.mean(0)) / rows.std(0, correction=0)
    torch.testing.assert_close(units.normalize(frames), expected, rtol=1e-2, atol=2e-2)
    nearest = torch.cdist(expected, units.centroids).argmin(1).numpy()
    assert np.mean(units.quantize(frames) != nearest) < 0.01


def test_fitting_uses_the_channel_that_it_is_told_and_names_what_it_cannot_read(tmp_path):
    import soundfile

    from gslm.units.fit import fit_units

    noise = _speechlike(2)
    soundfile.write(tmp_path / "a.wav", np.stack([noise, np.zeros_like(noise)], axis=1), 16_000)
    write_wav(tmp_path / "mono.wav", noise)
    (tmp_path / "bad.wav").write_text("no audio")
    skipped: list[tuple[str, str]] = []
    left = fit_units(
        tmp_path, ["a.wav", "bad.wav"], MFCCEncoder(), 4, reading=Reading(channel=0),
        skipped=skipped, progress=False,
    )  # fmt: skip
    mono = fit_units(tmp_path, ["mono.wav"], MFCCEncoder(), 4, progress=False)
    assert torch.allclose(left.centroids, mono.centroids, atol=1e-3)
    assert [id_ for id_, _ in skipped] == ["bad.wav"]


def test_layers_of_a_network_are_normalised_by_frame_and_spectra_over_the_corpus(tmp_path):
    from gslm.units.encoders import MFCCEncoder
    from gslm.units.fit import fit_units

    write_wav(tmp_path / "a.wav", _speechlike(2))
    assert (
        fit_units(tmp_path, ["a.wav"], MFCCEncoder(), 4, progress=False).normalization == "global"
    )
    layered = MFCCEncoder()
    layered.layer = 3
    assert fit_units(tmp_path, ["a.wav"], layered, 4, progress=False).normalization == "frame"


def _coarse(kind: str, normalization: str = "none") -> UnitEncoder:
    """Units that are smoothed, or syllables, by the same centroids."""
    hard = _unit_encoder(normalization)
    if kind == "smoothed":
        return hard.smoothed(1.0)
    centroids = unit_length(hard.centroids)
    return UnitEncoder(
        hard.encoder, centroids, normalization, hard.statistics, coarsening=Syllables()
    )


KINDS = ["smoothed", "syllables"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("n_samples", [1, 320, 321, 50_001])
def test_coarse_units_span_every_frame(kind, normalization, n_samples):
    units = _coarse(kind, normalization)(_speechlike(4)[:n_samples])
    assert units.ids.dtype == units.durations.dtype == np.int32
    assert units.n_frames == -(-n_samples // 320)
    assert (units.durations > 0).all()


def test_smoothing_makes_fewer_runs_of_the_same_vocabulary():
    hard, smoothed = _unit_encoder(), _coarse("smoothed")
    waveform = _speechlike(10, seed=3)
    runs, smooth_runs = hard(waveform, deduplicate=True), smoothed(waveform)
    assert len(smooth_runs) < 0.8 * len(runs)
    assert (smooth_runs.ids[1:] != smooth_runs.ids[:-1]).all()
    assert smoothed.n_units == hard.n_units
    undone = smoothed.smoothed(0)
    assert undone.fingerprint == hard.fingerprint
    assert np.array_equal(undone(waveform).ids, hard(waveform).ids)


def test_syllables_of_one_unit_merge_only_where_units_are_deduplicated():
    encoder = MFCCEncoder()
    one_unit = unit_length(torch.ones(1, 39))
    units = UnitEncoder(encoder, one_unit, coarsening=Syllables())
    t = np.arange(32_000) / 16_000
    swells = (np.sin(2000 * t) * (0.05 + np.abs(np.sin(4 * np.pi * t)))).astype(np.float32) / 2
    waveform = np.concatenate([swells, np.zeros(16_000, np.float32)])
    apart, merged = units(waveform), units(waveform, deduplicate=True)
    assert units.n_units == 2
    assert len(apart) == pytest.approx(9, abs=1)
    assert merged.ids.tolist() == [0, 1]
    assert merged.durations.sum() == apart.durations.sum() == 150


@pytest.mark.parametrize("kind", KINDS)
def test_coarse_units_of_clips_encoded_together_are_those_of_each(kind):
    encoder = _coarse(kind, "utterance")
    clips = [_speechlike(seconds, seed) for seed, seconds in enumerate([0.3, 2, 9.5])]
    for clip, units in zip(clips, encoder.encode_many(clips), strict=True):
        alone = encoder(clip)
        assert np.mean(units.expanded().ids != alone.expanded().ids) < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalization", ["none", "utterance"])
def test_coarse_units_of_a_file_read_in_blocks_are_those_of_its_waveform(
    tmp_path, kind, normalization
):
    encoder = _coarse(kind, normalization)
    waveform = _speechlike(70)
    write_wav(tmp_path / "long.wav", waveform)
    rounded = (np.round(waveform * 32768) / 32768).astype(np.float32)
    from_file, whole = encoder.encode_file(tmp_path / "long.wav"), encoder(rounded)
    assert from_file.n_frames == whole.n_frames
    assert np.mean(from_file.expanded().ids != whole.expanded().ids) < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_of_coarse_units_expands_to_the_frames(tmp_path, kind):
    encoder = _coarse(kind)
    for i in range(3):
        write_wav(tmp_path / "audio" / f"{i}.wav", _speechlike(1 + i, seed=i))
    for deduplicate in (True, False):
        folder = tmp_path / f"corpus {deduplicate}"
        corpus = encode_corpus(
            tmp_path / "audio", folder, encoder, deduplicate=deduplicate, progress=False
        )
        assert corpus.fingerprint == encoder.fingerprint
        for row in corpus.rows():
            units = encoder.encode_file(tmp_path / "audio" / row.id, deduplicate)
            assert np.array_equal(row.units, units.ids)
            assert np.array_equal(row.durations, units.durations)
            assert row.durations.sum() == -(-row.n_samples // 320)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_coarse_units_comes_back_the_same(tmp_path, kind):
    first = _coarse(kind)
    first.save(tmp_path)
    loaded = gslm.units.load(tmp_path)
    assert loaded.coarsening == first.coarsening
    assert loaded.fingerprint == first.fingerprint
    waveform = _speechlike(2, seed=1)
    assert np.array_equal(loaded(waveform).ids, first(waveform).ids)
    with pytest.raises(UserError, match="units do not match"):
        first.fingerprint.require_same(_unit_encoder().fingerprint, "one", "other")


def test_smoothing_by_different_penalties_does_not_mix():
    hard = _unit_encoder()
    fingerprints = {hard.smoothed(penalty).fingerprint for penalty in (0, 0.5, 1, 1.0)}
    assert len(fingerprints) == 3


def test_folders_of_before_there_were_coarser_units_load(tmp_path):
    _unit_encoder().save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["coarsening"], config["fingerprint"]["coarsening"]
    path.write_text(json.dumps(config))
    assert gslm.units.load(tmp_path).coarsening is None


@pytest.mark.parametrize(
    ("coarsening", "message"),
    [
        (None, "is not the fingerprint's"),
        ({"smoothing": {"penalty": 2.0}}, "is not the fingerprint's"),
        ({"smoothing": {"penalty": -1.0}}, "penalty"),
        ({"smoothing": {}}, "missing settings penalty"),
        ({"words": {}}, "unknown coarsening"),
        ([1], "unknown coarsening"),
    ],
)
def test_a_coarsening_that_was_tampered_with_is_a_one_line_error(tmp_path, coarsening, message):
    _coarse("smoothed").save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"coarsening": coarsening}))
    with pytest.raises(UserError, match=message) as error:
        gslm.units.load(tmp_path)
    assert "\n" not in str(error.value)


def test_syllables_are_not_smoothed():
    with pytest.raises(UserError, match="cannot be smoothed"):
        _coarse("syllables").smoothed(1.0)
