"""Syllables: boundaries against scipy's peaks, silence, pooling, and units fitted from them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from gslm.audio import read_audio, write_wav
from gslm.errors import UserError
from gslm.units.coarsening import chosen_coarsening
from gslm.units.encoders import MFCCEncoder
from gslm.units.fit import fit_units
from gslm.units.quantizers.smoothing import Smoothing
from gslm.units.syllables import (
    Segment,
    SyllableCutter,
    Syllables,
    frame_loudness,
    loud_level,
    pool_syllables,
)

HOP = 320


def _syllabic(seconds: float, rate: float = 5.0, seed: int = 0, gain: float = 0.3) -> np.ndarray:
    """Noise that swells and fades `rate` times a second; each swell has its own colour."""
    random = np.random.default_rng(seed)
    t = np.arange(round(16_000 * seconds)) / 16_000
    pitch = random.uniform(200, 2000, int(seconds * rate) + 1)[(t * rate).astype(int)]
    carrier = np.sin(2 * np.pi * pitch * t) + 0.2 * random.standard_normal(len(t))
    return (gain * (0.1 + np.abs(np.sin(np.pi * rate * t))) * carrier / 2).astype(np.float32)


def _cut(curve, settings: Syllables, loudness=None, portions=None) -> list[Segment]:
    curve = np.asarray(curve, dtype=float)
    loudness = np.zeros(len(curve)) if loudness is None else np.asarray(loudness, dtype=float)
    cutter = SyllableCutter(settings, 50.0, level=0.0)
    segments = []
    for part in np.array_split(np.arange(len(curve)), portions or [len(curve)]):
        segments += cutter.extend(loudness[part], curve[part])
    return segments + cutter.finish()


def _pool(waveform: np.ndarray, settings: Syllables, n_blocks: int = 1, n_parts: int = 1):
    """All segments of a waveform with MFCC frames, in one."""
    frames = MFCCEncoder()([torch.from_numpy(waveform)])[0]
    found = list(
        pool_syllables(
            lambda: np.array_split(waveform, n_blocks),
            lambda _: frames.tensor_split(n_parts),
            lambda part: part,
            settings,
            HOP,
        )
    )
    vectors = torch.cat([part.vectors for part in found])
    durations, silent = (np.concatenate([part[i] for part in found]) for i in (1, 2))
    return frames, vectors, durations, silent


@pytest.mark.parametrize("prominence", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(5))
def test_boundaries_are_scipys_peaks_of_the_curve_upside_down(prominence, seed):
    signal = pytest.importorskip("scipy.signal", reason="scipy comes with scikit-learn")
    curve = np.random.default_rng(seed).standard_normal(700)
    curve += 0.3 * np.random.default_rng(seed + 50).standard_normal(700).cumsum()
    settings = Syllables(prominence=prominence, smoothing_seconds=0, longest_seconds=100)
    peaks, _ = signal.find_peaks(-curve, prominence=prominence)
    assert len(peaks) > 5
    assert [segment.start for segment in _cut(curve, settings)] == [0, *peaks]


def test_the_curve_is_averaged_with_its_edges_repeated():
    signal = pytest.importorskip("scipy.signal", reason="scipy comes with scikit-learn")
    curve = np.random.default_rng(0).standard_normal(300)
    averaged = np.convolve(np.pad(curve, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    peaks, _ = signal.find_peaks(-averaged, prominence=0.3)
    settings = Syllables(prominence=0.3, smoothing_seconds=0.1, longest_seconds=100)
    assert [segment.start for segment in _cut(curve, settings)] == [0, *peaks]


@pytest.mark.parametrize("n_portions", [2, 17, 400])
def test_how_frames_are_parted_does_not_matter(n_portions):
    random = np.random.default_rng(1)
    curve = random.standard_normal(400).cumsum()
    loudness = 20 * random.standard_normal(400) - 25
    settings = Syllables(smoothing_seconds=0.1, silence_seconds=0.06, longest_seconds=0.5)
    whole = _cut(curve, settings, loudness)
    assert any(segment.silent for segment in whole)
    assert _cut(curve, settings, loudness, n_portions) == whole


def test_segments_follow_each_other_without_gaps():
    random = np.random.default_rng(2)
    for n in (1, 2, 3, 7, 500):
        curve, loudness = random.standard_normal(n), random.uniform(-60, 0, n)
        segments = _cut(curve, Syllables(smoothing_seconds=0.1, silence_seconds=0.04), loudness)
        assert [s.start for s in segments] == [0, *[s.end for s in segments[:-1]]]
        assert segments[-1].end == n
        assert all(s.end > s.start for s in segments)
        assert not any(a.silent and b.silent for a, b in pairwise(segments))


def test_quiet_stretches_are_silence_from_a_length_on():
    loudness = np.r_[[-20.0] * 20, [-50.0] * 4, [-20.0] * 20, [-50.0] * 5, [-20.0] * 20]
    settings = Syllables(smoothing_seconds=0, prominence=100)
    segments = _cut(loudness, settings, loudness)
    assert segments == [Segment(0, 44, False), Segment(44, 49, True), Segment(49, 69, False)]


def test_edges_of_a_recording_may_be_silent():
    loudness = np.r_[[-90.0] * 10, [-20.0] * 20, [-90.0] * 10]
    segments = _cut(loudness, Syllables(smoothing_seconds=0), loudness)
    assert segments == [Segment(0, 10, True), Segment(10, 30, False), Segment(30, 40, True)]


def test_a_sound_that_goes_on_is_cut_at_the_longest_syllable():
    segments = _cut(np.zeros(130), Syllables(longest_seconds=1.0))
    assert [s.end - s.start for s in segments] == [50, 50, 30]


def test_a_recording_of_no_frames_has_no_segments():
    for seconds in (0, 0.06):
        assert _cut([], Syllables(smoothing_seconds=seconds)) == []


def test_loudness_is_that_of_a_sine_wave():
    sine = 0.5 * np.sin(2 * np.pi * 400 * np.arange(3200) / 16_000).astype(np.float32)
    loudness = np.concatenate(list(frame_loudness([sine], HOP)))
    assert loudness == pytest.approx(np.full(10, 20 * np.log10(0.5 / np.sqrt(2))), abs=0.01)
    assert np.concatenate(list(frame_loudness([np.zeros(640, np.float32)], HOP))).tolist() == [
        -100,
        -100,
    ]


@pytest.mark.parametrize("n_samples", [1, 319, 320, 321, 5000])
@pytest.mark.parametrize("hop_length", [160, 320])
def test_loudness_has_a_value_for_each_begun_frame_in_any_blocks(n_samples, hop_length):
    waveform = _syllabic(1)[:n_samples]
    whole = np.concatenate(list(frame_loudness([waveform], hop_length)))
    assert len(whole) == -(-n_samples // hop_length)
    parted = np.concatenate(list(frame_loudness(np.array_split(waveform, 7), hop_length)))
    assert np.array_equal(parted, whole)


def test_the_loud_level_is_the_99th_percentile():
    loudness = np.random.default_rng(0).uniform(-80, -10, 5000)
    level = loud_level(np.array_split(loudness, 11))
    assert level == pytest.approx(np.percentile(loudness, 99), abs=0.2)
    assert loud_level([np.full(9, -100.0)]) == -100


@pytest.mark.parametrize("rate", [3.0, 5.0, 7.0])
def test_each_swell_of_a_sound_is_a_syllable(rate):
    _, _, durations, silent = _pool(_syllabic(10, rate), Syllables())
    assert not silent.any()
    assert len(durations) == pytest.approx(10 * rate, abs=2)


def test_vectors_are_the_means_of_their_frames():
    waveform = np.concatenate([_syllabic(2), np.zeros(8000, np.float32), _syllabic(2, seed=1)])
    frames, vectors, durations, silent = _pool(waveform, Syllables(), 5, 3)
    assert durations.sum() == len(frames)
    assert silent.sum() == 1
    ends = durations.cumsum()
    for vector, start, end, is_silent in zip(vectors, ends - durations, ends, silent, strict=True):
        expected = torch.zeros(39) if is_silent else frames[start:end].mean(0)
        torch.testing.assert_close(vector, expected)
    place = ends[silent] - durations[silent]
    assert place == pytest.approx([100], abs=2)
    assert durations[silent] == pytest.approx([25], abs=4)


@pytest.mark.parametrize(("n_blocks", "n_parts"), [(1, 40), (30, 1), (13, 7)])
@pytest.mark.parametrize("curve", ["loudness", "norm"])
def test_a_stream_gives_what_the_whole_gives(curve, n_blocks, n_parts):
    waveform = np.concatenate([_syllabic(3), np.zeros(9000, np.float32), _syllabic(4, seed=1)])
    settings = Syllables(curve, deviation=20.0 if curve == "norm" else 1.0)
    _, *whole = _pool(waveform, settings)
    _, *parted = _pool(waveform, settings, n_blocks, n_parts)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parted, strict=True))


def test_a_quieter_recording_has_the_same_syllables():
    waveform = np.concatenate([_syllabic(3), np.zeros(9000, np.float32), _syllabic(3, seed=1)])
    waveform += 1e-3 * np.random.default_rng(0).standard_normal(len(waveform), np.float32)
    whole, quieter = (_pool(gain * waveform, Syllables())[2:] for gain in (1.0, 0.05))
    assert all(np.array_equal(a, b) for a, b in zip(whole, quieter, strict=True))


def test_digital_silence_and_a_few_steps_of_noise_are_silent():
    noise = (np.random.default_rng(0).integers(-2, 3, 16_000) / 32768).astype(np.float32)
    for waveform in (np.zeros(16_000, np.float32), noise, np.zeros(2000, np.float32)):
        _, _, durations, silent = _pool(waveform, Syllables())
        assert silent.all()
        assert len(durations) == 1


def test_memory_stays_with_a_part_through_an_hour_of_silence():
    from gslm.units.syllables import _WaitingFrames

    held = []
    original = _WaitingFrames.drop_before

    def drop(self, frame):
        original(self, frame)
        held.append(len(self._frames))

    parts = 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_WaitingFrames, "drop_before", drop)
        found = list(
            pool_syllables(
                lambda: (np.zeros(60 * 16_000, np.float32) for _ in range(parts)),
                lambda read: (torch.zeros(len(block) // HOP, 4) for block in read),
                lambda part: part,
                Syllables(),
                HOP,
            )
        )
    assert sum(part.durations.sum() for part in found) == parts * 3000
    assert max(held) <= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curve": "pitch"}, "unknown"),
        ({"prominence": 0.0}, "prominence"),
        ({"silence_db": -3.0}, "silence_db"),
        ({"longest_seconds": float("nan")}, "longest_seconds"),
        ({"smoothing_seconds": -1.0}, "smoothing_seconds"),
    ],
)
def test_settings_that_make_no_sense_are_one_line_errors(settings, message):
    with pytest.raises(UserError, match=message) as error:
        Syllables(**settings)
    assert "\n" not in str(error.value)


def test_options_choose_one_way():
    assert chosen_coarsening() is None
    assert chosen_coarsening(smooth=1.5) == Smoothing(1.5)
    assert chosen_coarsening(syllables=True) == Syllables()
    assert chosen_coarsening(syllables=True, boundaries="norm") == Syllables("norm", 0.45)
    with pytest.raises(UserError, match="not both"):
        chosen_coarsening(smooth=1.0, syllables=True)
    with pytest.raises(UserError, match="syllables too"):
        chosen_coarsening(prominence=2.0)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Clips of swells with silence between them, one longer than a minute, one damaged."""
    root = tmp_path_factory.mktemp("swells")
    for i, seconds in enumerate([2, 3, 4, 5, 65]):
        half = np.concatenate([_syllabic(seconds / 2, 4 + i % 3, i), np.zeros(6400, np.float32)])
        write_wav(root / f"{i}.wav", np.concatenate([half, half]))
    (root / "bad.wav").write_text("no audio")
    return root


NAMES = ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "bad.wav"]


@pytest.mark.parametrize("normalization", ["auto", "none", "frame", "utterance"])
def test_units_fitted_to_syllables_speak_them(audio, normalization):
    units = fit_units(
        audio,
        NAMES,
        MFCCEncoder(),
        20,
        normalization=normalization,
        coarsening=Syllables(),
        progress=False,
    )
    assert units.n_units == units.fingerprint.vocabulary_size == 20
    assert len(units.centroids) == 19
    torch.testing.assert_close(units.centroids.norm(dim=1), torch.ones(19))
    spoken = units.encode_file(audio / "1.wav")
    assert spoken.n_frames == -(-(3 * 16_000 + 12_800) // HOP)
    assert (spoken.ids == 19).sum() == 2
    assert 10 <= len(spoken) <= 20


def test_norms_are_measured_where_boundaries_are_their_peaks(audio):
    units = fit_units(
        audio, NAMES[:4], MFCCEncoder(), 20, coarsening=Syllables("norm", 0.45), progress=False
    )
    clips = [torch.from_numpy(read_audio(audio / name)) for name in NAMES[:4]]
    norms = torch.cat([frames.norm(dim=1) for frames in MFCCEncoder()(clips)])
    assert units.coarsening.deviation == pytest.approx(float(norms.std()), rel=1e-2)
    assert f"x {units.coarsening.deviation:.6g}" in units.fingerprint.coarsening


@pytest.mark.parametrize("k", [1, 5000])
def test_numbers_of_units_that_syllables_cannot_make_are_errors(audio, k):
    with pytest.raises(UserError, match=rf"syllables cannot make {k} units") as error:
        fit_units(audio, NAMES, MFCCEncoder(), k, coarsening=Syllables(), progress=False)
    assert "\n" not in str(error.value)
