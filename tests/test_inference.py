"""A bundle at work on folders of good and bad recordings, and on damaged bundles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gslm import audio
from gslm.audio import find_audio, read_audio
from gslm.bundle import read_json, read_tensors, write_json, write_manifest, write_tensors
from gslm.errors import UserError
from gslm.inference import continue_files, resynthesize_files
from gslm.speech_lm import SpeechLM
from gslm.types import Units
from gslm.ulm import UnitLM
from gslm.ulm.model import Decoder
from gslm.units.encode import encode_corpus
from tests.conftest import N_UNITS, save_vocoder, sweep

GOOD = {
    "ann/one.wav": 0.6,
    "bob/one.wav": 0.8,
    "größe 日本/clip one.wav": 0.5,
    "narrow.wav": 1.0,
    "wide.wav": 0.5,
    "packed.wav": 0.7,
    "silent.wav": 0.5,
    "loud.wav": 0.5,
    "sample.wav": 0.02,
}
"""Outputs of the good recordings and their seconds."""
BAD = {
    "zero.wav": "holds no samples",
    "empty.wav": "not readable as audio",
    "text.wav": "not readable as audio",
    "nan.wav": "holds NaN",
}
"""Bad recordings and why."""


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "copy"))


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_mixed_folder_is_resynthesised(mixed_audio, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "spoken"
    resynthesize_files(mixed_audio, out, tiny_bundle, durations="recorded")
    assert find_audio(out) == sorted(GOOD)
    for name, seconds in GOOD.items():
        info = soundfile.info(out / name)
        assert (info.samplerate, info.channels) == (16_000, 1)
        assert abs(info.frames / 320 - seconds * 50) <= 4  # MP3 pads a little
        assert np.isfinite(read_audio(out / name)).all()
    told = capsys.readouterr().out
    for name, reason in BAD.items():
        lines = [line for line in told.splitlines() if name in line]
        assert len(lines) == 1
        assert lines[0].startswith("skipped ")
        assert reason in lines[0]
    assert f"{len(GOOD)} of {len(GOOD) + len(BAD)} files done" in told


def test_what_was_spoken_before_is_kept_and_counted(mixed_audio, tiny_bundle, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("# first\nann/one.wav\n\n")
    resynthesize_files(mixed_audio, tmp_path, tiny_bundle, tmp_path / "list.txt")
    assert "kept" not in capsys.readouterr().out
    (tmp_path / "ann" / "one.wav").write_bytes(b"mine")
    (tmp_path / "list.txt").write_text("ann/one.wav\n\nbob/one.wav\tcolumn\n")
    resynthesize_files(mixed_audio, tmp_path, tiny_bundle, tmp_path / "list.txt")
    assert "2 of 2 files done, 1 of them kept from before" in capsys.readouterr().out
    assert (tmp_path / "ann" / "one.wav").read_bytes() == b"mine"
    assert (tmp_path / "bob" / "one.wav").stat().st_size > 1000
    assert len(find_audio(tmp_path)) == 2


def test_speech_made_otherwise_is_not_kept(mixed_audio, tiny_bundle, tmp_path):
    (tmp_path / "list.txt").write_text("ann/one.wav\n")
    out, ids = tmp_path / "out", tmp_path / "list.txt"
    resynthesize_files(mixed_audio, out, tiny_bundle, ids)
    other = copy_of(tiny_bundle, tmp_path)
    save_vocoder(other / "vocoder", SpeechLM.load(other).fingerprint)
    for bundle, settings in [
        (other, {}),
        (tiny_bundle, {"seed": 1}),
        (tiny_bundle, {"durations": "predicted"}),
    ]:
        with pytest.raises(UserError) as error:
            resynthesize_files(mixed_audio, out, bundle, ids, **settings)
        one_line(error, str(out), "another bundle, durations or seed")
    resynthesize_files(mixed_audio, out, copy_of(tiny_bundle, tmp_path / "moved"), ids)
    (out / ".gslm.json").unlink()
    with pytest.raises(UserError) as error:
        resynthesize_files(mixed_audio, out, tiny_bundle, ids)
    one_line(error, "one.wav", "nothing says")


def test_names_with_dots_stay_apart(tiny_bundle, tmp_path):
    for name in ("dot.one.flac", "dot.two.flac"):
        soundfile.write(tmp_path / name, sweep(0.2, 0), 16_000)
    resynthesize_files(tmp_path, tmp_path / "spoken", tiny_bundle)
    assert find_audio(tmp_path / "spoken") == ["dot.one.wav", "dot.two.wav"]
    continue_files(tmp_path / "dot.one.flac", tmp_path / "on", tiny_bundle, max_seconds=0.2)
    continue_files(tmp_path / "dot.one.flac", tmp_path / "on", tiny_bundle, n=2, max_seconds=0.2)
    assert find_audio(tmp_path / "on") == ["dot.one-0.wav", "dot.one-1.wav", "dot.one.wav"]


def test_a_continuation_never_takes_the_place_of_its_prompt(tiny_bundle, tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(0.2, 0), 16_000)
    before = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(UserError) as error:
        continue_files(tmp_path / "a.wav", tmp_path, tiny_bundle, max_seconds=0.2)
    one_line(error, "a.wav", "written over")
    continue_files(tmp_path / "a.wav", tmp_path, tiny_bundle, n=2, max_seconds=0.2)
    assert find_audio(tmp_path) == ["a-0.wav", "a-1.wav", "a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_links_are_followed_and_bad_names_are_skipped(tiny_bundle, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "elsewhere.wav", sweep(0.2, 0), 16_000)
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "elsewhere.wav")
    shutil.copy(tmp_path / "elsewhere.wav", tmp_path / "in" / os.fsdecode(b"caf\xe9.wav"))
    resynthesize_files(tmp_path / "in", tmp_path / "out", tiny_bundle)
    assert find_audio(tmp_path / "out") == ["link.wav"]
    told = capsys.readouterr().out
    assert "skipped caf\\xe9.wav: its name is not valid UTF-8; rename it" in told
    assert "1 of 2 files done" in told
    unit_encoder = SpeechLM.load(tiny_bundle).unit_encoder
    corpus = encode_corpus(tmp_path / "in", tmp_path / "corpus", unit_encoder, progress=False)
    assert corpus.skipped() == [("caf\\xe9.wav", "its name is not valid UTF-8; rename it")]
    assert [row.id for row in corpus.rows()] == ["link.wav"]


def test_lists_may_not_leave_the_folder(mixed_audio, tiny_bundle, tmp_path):
    (tmp_path / "list.txt").write_text("../elsewhere.wav\n")
    with pytest.raises(UserError) as error:
        resynthesize_files(mixed_audio, tmp_path / "out", tiny_bundle, tmp_path / "list.txt")
    one_line(error, "outside")


def test_two_inputs_of_one_output_are_refused(tiny_bundle, tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, sweep(0.2, 0), 16_000)
    with pytest.raises(UserError) as error:
        resynthesize_files(tmp_path, tmp_path / "out", tiny_bundle)
    one_line(error, "a.flac", "a.wav", "rename")


def test_a_folder_of_bad_files_alone_fails(tiny_bundle, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.wav").write_text("not audio")
    with pytest.raises(UserError) as error:
        resynthesize_files(tmp_path / "in", tmp_path / "out", tiny_bundle)
    one_line(error, "text.wav", "not readable")
    assert not (tmp_path / "out").exists()


def test_a_mixed_folder_is_continued(mixed_audio, tiny_bundle, tmp_path, capsys):
    continue_files(mixed_audio, tmp_path, tiny_bundle, n=2, max_seconds=0.5, seed=1)
    expected = {f"{name.removesuffix('.wav')}-{i}.wav" for name in GOOD for i in range(2)}
    assert set(find_audio(tmp_path)) == expected
    assert f"{len(GOOD)} of {len(GOOD) + len(BAD)} files done" in capsys.readouterr().out
    assert all(np.isfinite(read_audio(tmp_path / name)).all() for name in expected)


def test_continuations_repeat_with_their_seed(mixed_audio, tiny_bundle, tmp_path):
    clip = mixed_audio / "ann" / "one.wav"
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        continue_files(clip, tmp_path / name, tiny_bundle, seed=seed, min_seconds=0.5)
    first, again, other = (read_audio(tmp_path / name / "one.wav") for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_continuation_alone_is_the_rest(mixed_audio, tiny_bundle):
    model = SpeechLM.load(tiny_bundle)
    made = model.continue_(mixed_audio / "ann" / "one.wav", min_seconds=0.3)[0]
    prompt = model.encode(mixed_audio / "ann" / "one.wav")
    assert np.array_equal(made.units.ids[: made.n_prompt_units], prompt.ids)
    assert len(made.units) > made.n_prompt_units
    assert 0 < made.prompt_samples < len(made.waveform)
    assert len(made.waveform) == 320 * made.units.n_frames


def test_prompts_longer_than_the_context_are_one_line(tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    noise = np.concatenate([rng.uniform(0, 0.9) * sweep(0.04, i) for i in range(600)])
    soundfile.write(tmp_path / "long.wav", noise, 16_000)
    with pytest.raises(UserError) as error:
        continue_files(tmp_path / "long.wav", tmp_path / "out", tiny_bundle)
    one_line(error, "context")


def test_only_the_prompt_of_a_long_file_is_read(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_READ_SECONDS", 0.5)
    waveform = sweep(4.0, 3)
    waveform[48_000:] = np.nan  # reading this far would be an error
    soundfile.write(tmp_path / "long.wav", waveform, 16_000, subtype="FLOAT")
    model = SpeechLM.load(tiny_bundle)
    settings = {"prompt_seconds": 0.7, "max_seconds": 0.2}
    from_file = model.continue_(tmp_path / "long.wav", **settings)[0]
    from_samples = model.continue_(waveform, **settings)[0]
    assert from_file.prompt_samples == 35 * 320
    assert np.array_equal(from_file.waveform, from_samples.waveform)
    with pytest.raises(UserError, match="NaN"):
        model.continue_(tmp_path / "long.wav", prompt_seconds=3.5)


@pytest.mark.parametrize("name", ["prompt_seconds", "max_seconds", "min_seconds"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_lengths_that_are_none_are_refused(tiny_bundle, name, value):
    with pytest.raises(UserError) as error:
        SpeechLM.load(tiny_bundle).continue_(sweep(0.2, 0), **{name: value})
    one_line(error, name)


def test_waveforms_that_are_wrong_are_one_line(tiny_bundle):
    model = SpeechLM.load(tiny_bundle)
    for wrong, word in [
        (np.zeros(0, np.float32), "no samples"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.zeros((2, 100), np.float32), "mono"),
    ]:
        with pytest.raises(UserError) as error:
            model.resynthesize(wrong)
        one_line(error, word)
    for right in (np.zeros(1, np.float32), np.zeros(16_000, np.float32)):
        spoken = model.resynthesize(right, predict_durations=False)
        assert len(spoken) == 320 * -(-len(right) // 320)
        assert np.isfinite(spoken).all()


def test_units_of_another_fingerprint_are_refused(tiny_bundle):
    model = SpeechLM.load(tiny_bundle)
    other = replace(model.fingerprint, centroids_hash="f" * 16)
    with pytest.raises(UserError) as error:
        model.decode(Units(np.zeros(3, np.int32), None, other))
    one_line(error, "f" * 16, model.fingerprint.centroids_hash)


def test_a_bundle_whose_stages_disagree_is_refused(tiny_bundle, tmp_path):
    bundle = copy_of(tiny_bundle, tmp_path)
    fingerprint = SpeechLM.load(bundle).fingerprint
    save_vocoder(bundle / "vocoder", replace(fingerprint, encoder="log-mel"))
    write_manifest(bundle, {})
    with pytest.raises(UserError) as error:
        SpeechLM.load(bundle)
    one_line(error, "/units", "/vocoder", "log-mel", "mfcc")


def test_a_tokenizer_or_centroids_of_another_bundle_are_refused(tiny_bundle, tmp_path):
    fingerprint = SpeechLM.load(tiny_bundle).fingerprint
    bundle = copy_of(tiny_bundle, tmp_path)
    config = replace(SpeechLM.load(bundle).ulm.config, n_pieces=N_UNITS + 4)
    UnitLM(config, Decoder(config), fingerprint).save(bundle / "ulm")
    with pytest.raises(UserError) as error:
        SpeechLM.load(bundle)
    one_line(error, "12 tokens", "makes 8")
    bundle = copy_of(tiny_bundle, tmp_path / "second")
    centroids = read_tensors(bundle / "units" / "centroids.safetensors")
    write_tensors(bundle / "units" / "centroids.safetensors", centroids, torch.float16)
    assert SpeechLM.load(bundle).fingerprint == fingerprint
    centroids["centroids"] = centroids["centroids"].flip(0)
    write_tensors(bundle / "units" / "centroids.safetensors", centroids)
    with pytest.raises(UserError) as error:
        SpeechLM.load(bundle)
    one_line(error, "centroids.safetensors", fingerprint.centroids_hash)


@pytest.mark.parametrize(
    "name",
    ["units/centroids.safetensors", "ulm/model.safetensors", "vocoder/model.safetensors"],
)
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_weights_are_one_line(tiny_bundle, tmp_path, name, damage):
    path = copy_of(tiny_bundle, tmp_path) / name
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        SpeechLM.load(tmp_path / "copy")
    one_line(error, name)


@pytest.mark.parametrize("stage", ["units", "tokenizer", "ulm", "vocoder"])
def test_damaged_configurations_are_one_line(tiny_bundle, tmp_path, stage):
    path = copy_of(tiny_bundle, tmp_path) / stage / "config.json"
    for data in ({"fingerprint": read_json(path)["fingerprint"]}, [], {}):
        write_json(path, data)
        with pytest.raises(UserError) as error:
            SpeechLM.load(tmp_path / "copy")
        one_line(error, f"{stage}/config.json")


def test_bundles_without_a_stage_say_what_is_missing(tiny_bundle, mixed_audio, tmp_path):
    bundle = copy_of(tiny_bundle, tmp_path)
    shutil.rmtree(bundle / "ulm")
    shutil.rmtree(bundle / "vocoder")
    model = SpeechLM.load(bundle)
    clip = mixed_audio / "ann" / "one.wav"
    assert model.encode(clip).n_frames == 30
    for use, word in [
        (lambda: model.score([clip]), "no uLM"),
        (lambda: model.resynthesize(clip), "no vocoder"),
    ]:
        with pytest.raises(UserError) as error:
            use()
        one_line(error, word)


def test_a_corpus_of_the_mixed_folder_records_the_bad(mixed_audio, tiny_bundle, tmp_path):
    unit_encoder = SpeechLM.load(tiny_bundle).unit_encoder
    corpus = encode_corpus(mixed_audio, tmp_path / "corpus", unit_encoder, progress=False)
    assert len(corpus) == len(GOOD)
    skipped = dict(corpus.skipped())
    assert set(skipped) == set(BAD)
    assert all(reason in skipped[name] for name, reason in BAD.items())
    for row in corpus.rows():
        assert row.units.max() < N_UNITS
        assert row.durations is not None
        assert row.durations.sum() == -(-row.n_samples // 320)


def test_scores_are_finite_and_negative(mixed_audio, tiny_bundle):
    scores = SpeechLM.load(tiny_bundle).score(
        [mixed_audio / name for name in ("ann/one.wav", "silent.wav", "sample.wav")]
    )
    assert all(np.isfinite(score) and score < 0 for score in scores)


def test_an_output_that_cannot_be_written_stops_the_work(tiny_bundle, tmp_path):
    """A limit on the size of files stands for a full disk: the system refuses the second clip."""
    for name, seconds in (("a.wav", 0.3), ("b.wav", 2.0), ("c.wav", 0.3)):
        soundfile.write(tmp_path / name, sweep(seconds, 1), 16_000)
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from gslm.cli import main; main()"
    )
    words = ["resynthesize", str(tmp_path), "-o", str(tmp_path / "out"), "-b", str(tiny_bundle)]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith(f"gslm: {tmp_path / 'out' / 'b.wav'}: cannot write audio")
    assert "free some space" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".gslm.json", "a.wav"]
