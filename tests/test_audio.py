"""Audio of every kind that users bring: the right samples, or one line that says what is wrong."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from gslm import audio
from gslm.audio import (
    find_audio,
    output_paths,
    printable_name,
    read_audio,
    read_ids,
    require_utf8_name,
    resolve_inside,
    stream_audio,
    write_wav,
)
from gslm.errors import UserError


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """A sine at half scale, float32 (samples,)."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def write_av(path: Path, waveform: np.ndarray, rate: int, codec: str, container: str) -> None:
    """Encode 16-bit mono with FFmpeg's codecs."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.format or "s16", layout="mono", rate=rate)
        samples = np.round(waveform * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        for converted in resampler.resample(frame):
            for packet in stream.encode(converted):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)


def assert_sounds_like(found: np.ndarray, expected: np.ndarray, at_least: float) -> None:
    """Correlation at the best shift of up to 3,000 samples (codecs delay)."""
    middle = expected[4000:12000]
    scores = [
        float(np.corrcoef(found[4000 + shift : 12000 + shift], middle)[0, 1])
        for shift in range(-200, 3000)
    ]
    assert max(scores) > at_least


def chirp(seconds: float = 1.5, rate: int = 16_000) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 500 * t) * t)).astype(np.float32)


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "suffix"),
    [
        (8_000, 1, "PCM_16", ".wav"),
        (48_000, 2, "PCM_16", ".wav"),
        (44_100, 2, "PCM_24", ".wav"),
        (16_000, 1, "PCM_24", ".flac"),
        (16_000, 1, "FLOAT", ".wav"),
        (22_050, 1, "ULAW", ".au"),
    ],
)
def test_any_rate_depth_and_channels_become_16_khz_mono(tmp_path, rate, channels, subtype, suffix):
    path = tmp_path / f"clip{suffix}"
    source = np.stack([tone(1.0, rate)] * channels, axis=1)
    soundfile.write(path, source, rate, subtype=subtype)
    found = read_audio(path)
    assert found.dtype == np.float32
    assert found.shape == (16_000,)
    inside = slice(400, -400)
    tolerance = 0.02 if subtype == "ULAW" else 2e-3
    assert np.abs(found[inside] - tone(1.0, 16_000)[inside]).max() < tolerance


def test_channels_are_averaged_or_picked(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = tone(0.5, 16_000), tone(0.5, 16_000, 1000.0)
    soundfile.write(path, np.stack([left, right], 1), 16_000, subtype="FLOAT")
    assert np.allclose(read_audio(path), (left + right) / 2, atol=1e-6)
    assert np.allclose(read_audio(path, channel=1), right, atol=1e-6)
    with pytest.raises(UserError) as error:
        read_audio(path, channel=2)
    one_line(error, "2 channels")


def test_mp3(tmp_path):
    path = tmp_path / "clip.mp3"
    soundfile.write(path, chirp(), 16_000, format="MP3")
    assert_sounds_like(read_audio(path), chirp(), 0.98)


def test_g722_through_pyav(tmp_path):
    path = tmp_path / "clip.g722"
    write_av(path, chirp(), 16_000, "g722", "g722")
    found = read_audio(path)
    assert abs(len(found) - len(chirp())) < 400
    assert_sounds_like(found, chirp(), 0.98)


def test_formats_that_soundfile_cannot_read_go_through_pyav(tmp_path):
    path = tmp_path / "clip.mka"
    write_av(path, chirp(), 16_000, "pcm_s16le", "matroska")
    assert np.abs(read_audio(path)[: len(chirp())] - chirp()).max() < 1e-3


def test_one_sample(tmp_path):
    write_wav(tmp_path / "one.wav", np.array([0.25], np.float32))
    assert read_audio(tmp_path / "one.wav") == pytest.approx([0.25], abs=1e-4)
    soundfile.write(tmp_path / "one48.wav", np.array([0.25]), 48_000)
    # A third of a 16 kHz sample: no sound is left, and the reader says so or gives a sample.
    try:
        assert len(read_audio(tmp_path / "one48.wav")) <= 1
    except UserError as error:
        assert "no samples" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.wav", b"", "not readable as audio"),
        ("text.wav", b"I am no audio at all.\n" * 20, "not readable as audio"),
        ("text.mp3", b"I am no audio at all.\n" * 20, "text.mp3"),
        ("empty.g722", b"", "empty.g722"),
    ],
)
def test_files_that_are_no_audio_are_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_audio(tmp_path / name)
    one_line(error, name, reason)


def test_missing_zero_length_and_unfinite_audio_are_one_line(tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16_000)
    samples = tone(0.2, 16_000)
    samples[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    samples[7] = np.inf
    soundfile.write(tmp_path / "inf.wav", samples, 48_000, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    for name, reason in [
        ("zero.wav", "no samples"),
        ("nan.wav", "NaN"),
        ("inf.wav", "infinite"),
        ("missing.wav", "no such file"),
        ("folder.wav", "no such file"),
    ]:
        with pytest.raises(UserError) as error:
            read_audio(tmp_path / name)
        one_line(error, name, reason)


def test_a_truncated_file_gives_its_samples_or_one_line(tmp_path):
    for suffix in (".wav", ".flac", ".mp3"):
        path = tmp_path / f"clip{suffix}"
        soundfile.write(path, chirp(), 16_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        try:
            found = read_audio(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert 0 < len(found) < len(chirp()) + 2000


def test_float_samples_beyond_full_scale_are_clipped(tmp_path):
    soundfile.write(tmp_path / "loud.wav", 3 * tone(0.5, 16_000), 16_000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "loud.wav"), np.clip(3 * tone(0.5, 16_000), -1, 1))
    soundfile.write(tmp_path / "loud8.wav", 3 * tone(0.5, 8_000), 8_000, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "loud8.wav")).max() <= 1.0


def test_names_with_spaces_and_non_ascii_letters(tmp_path):
    names = ["Ünïcode/日本 語.wav", "a b/clip one.WAV", "a b/clip two.flac", "plain.ogg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, chirp(), 16_000)
    (tmp_path / "notes.txt").write_text("not listed")
    assert find_audio(tmp_path) == sorted(names)
    for name in names:
        assert len(read_audio(tmp_path / name)) == len(chirp())


def test_folders_without_audio_are_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        find_audio(tmp_path)
    one_line(error, "no audio files")
    with pytest.raises(UserError) as error:
        find_audio(tmp_path / "nowhere")
    one_line(error, "no such folder")


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000])
def test_streamed_blocks_equal_the_whole(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(audio, "_READ_SECONDS", 0.37)
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(rate).uniform(-0.5, 0.5, round(2.3 * rate)).astype(np.float32)
    soundfile.write(path, noise, rate, subtype="FLOAT")
    blocks = list(stream_audio(path, block_seconds=0.5))
    whole = read_audio(path)
    assert [len(block) for block in blocks[:-1]] == [8_000] * (len(blocks) - 1)
    assert np.array_equal(np.concatenate(blocks), whole)
    if rate == 16_000:
        assert np.array_equal(whole, noise)
    else:
        reference = np.clip(soxr.resample(noise, rate, 16_000), -1, 1)
        assert abs(len(whole) - len(reference)) <= 1
        n = min(len(whole), len(reference))
        assert np.abs(whole[:n] - reference[:n]).max() < 1e-3


def test_an_hour_is_streamed_in_bounded_memory(tmp_path):
    path = tmp_path / "hour.wav"
    block = np.round(tone(60.0, 8_000) * 32767).astype(np.int16)
    with soundfile.SoundFile(path, "w", 8_000, 1, subtype="PCM_16") as file:
        for _ in range(60):
            file.write(block)
    tracemalloc.start()
    n_samples = sum(len(part) for part in stream_audio(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_samples == 3600 * 16_000
    assert peak < 12e6  # the hour is 230 MB, a block of 30 s 1.9 MB


@pytest.mark.parametrize(
    "relative", ["../out.wav", "a/../../out.wav", "a/../b.wav", "/etc/passwd", "", "."]
)
def test_paths_that_leave_their_folder_are_refused(tmp_path, relative):
    with pytest.raises(UserError) as error:
        resolve_inside(tmp_path, relative)
    one_line(error, relative, "outside")


def test_paths_inside_their_folder_are_resolved(tmp_path):
    assert resolve_inside(tmp_path, "a/b c.wav") == tmp_path / "a" / "b c.wav"


def test_links_to_recordings_elsewhere_are_followed(tmp_path):
    write_wav(tmp_path / "archive" / "clip.wav", chirp())
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "link.wav").symlink_to(tmp_path / "archive" / "clip.wav")
    assert find_audio(tmp_path / "chosen") == ["link.wav"]
    assert len(read_audio(resolve_inside(tmp_path / "chosen", "link.wav"))) == len(chirp())


def test_wav_paths_replace_one_suffix_and_refuse_to_share(tmp_path):
    paths = output_paths(tmp_path, ["a/dot.one.flac", "a/dot.two.flac", "plain"])
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "a/dot.one.wav",
        "a/dot.two.wav",
        "plain.wav",
    ]
    with pytest.raises(UserError) as error:
        output_paths(tmp_path, ["a.flac", "b.wav", "a.wav"])
    one_line(error, "a.flac and a.wav", "rename")


def test_lists_of_ids_have_columns_and_comments(tmp_path):
    (tmp_path / "ids").write_text("\ufeff# made by hand\na/b c.flac\t0123\n\n größe.wav \n")
    assert read_ids(tmp_path / "ids") == ["a/b c.flac", "größe.wav"]
    (tmp_path / "latin").write_bytes(b"caf\xe9.wav\n")
    for name in ("latin", "missing"):
        with pytest.raises(UserError) as error:
            read_ids(tmp_path / name)
        one_line(error, name)


def test_names_that_are_not_utf8_are_found_and_told(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"audio")
    (name,) = find_audio(tmp_path)
    assert printable_name(name) == "caf\\xe9.wav"
    with pytest.raises(UserError) as error:
        require_utf8_name(name)
    one_line(error, "caf\\xe9.wav", "not valid UTF-8")
    for use in (lambda: read_audio(tmp_path / name), lambda: write_wav(tmp_path / name, chirp())):
        with pytest.raises(UserError) as error:
            use()
        one_line(error, "caf\\xe9.wav", "not valid UTF-8")
    require_utf8_name("größe \\xe9.wav")


def test_written_audio_reads_back_and_is_16_bit(tmp_path):
    path = tmp_path / "new folder" / "clip.wav"
    write_wav(path, np.array([0.0, 0.5, -2.0, 2.0], np.float32))
    assert soundfile.info(path).subtype == "PCM_16"
    assert read_audio(path) == pytest.approx([0.0, 0.5, -1.0, 1.0], abs=1e-4)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    write_wav(path, chirp())
    before = path.read_bytes()

    def full(target, *_args, **_settings):
        Path(target).write_bytes(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audio.soundfile, "write", full)
    with pytest.raises(UserError) as error:
        write_wav(path, chirp())
    one_line(error, "clip.wav", "No space left")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.wav"]


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        write_wav(tmp_path / "file" / "clip.wav", chirp())
    one_line(error, "clip.wav")
