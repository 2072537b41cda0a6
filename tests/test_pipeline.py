"""`gslm train` on a handful of synthetic clips: stopped twice and gone on with, the same bundle."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gslm import cli, spectral
from gslm.audio import find_audio, read_audio
from gslm.bundle import check_bundle, read_json
from gslm.corpus import Corpus, held_out_by_hash
from gslm.errors import UserError
from gslm.pipeline import BundleSettings, train_bundle
from gslm.settings import load_settings
from gslm.speech_lm import SpeechLM
from gslm.ulm.train import UnitLMTask
from gslm.units.fit import fit_units
from gslm.vocoder.generator_task import GeneratorTask
from tests.conftest import sweep

TINY = """
[units]
encoder = "mfcc"
k = 8
[tokenizer]
bpe_sizes = [12]
[ulm]
row_length = 64
context = 256
training = {steps = 3, warmup_steps = 1, validate_every = 2, checkpoint_every = 2}
[vocoder.size]
generator_dim = 16
unit_blocks = 1
fine_blocks = 1
prosody_dim = 16
discriminator_channels = 4
[vocoder.prosody]
batch_size = 2
crop_frames = 20
loop = {steps = 3, warmup_steps = 1, validate_every = 2, checkpoint_every = 2}
[vocoder.generator]
batch_size = 2
crop_frames = 20
adversarial_from = 2
adversarial_frames = 10
loop = {steps = 5, warmup_steps = 1, validate_every = 3, checkpoint_every = 2, log_every = 1}
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Twenty-five clips of about half a second and one that is no audio."""
    root = tmp_path_factory.mktemp("recordings")
    for i in range(25):
        soundfile.write(root / f"clip {i:02d}.wav", sweep(0.4 + 0.01 * i, i), 16_000)
    (root / "text.wav").write_text("not audio")
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def uninterrupted(recordings, config, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "bundle"
    train_bundle(recordings, output, load_settings(BundleSettings, config))
    return output


def weights(bundle: Path) -> dict[str, bytes]:
    """All files of a bundle but the manifest, which holds the time that it took."""
    return {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "bundle.json"
    }


def train_stopped(task_type, at: int, words: list[str], capsys, monkeypatch) -> None:
    """`gslm train` with SIGTERM in step `at` of a task: one line, exit code 2."""
    losses = task_type.losses

    def stopped(self, batch, step):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from losses(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(task_type, "losses", stopped)
        patch.setattr(sys, "argv", ["gslm", "train", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gslm: ")
    assert f"stopped at step {at + 1}" in last


def test_a_run_stopped_twice_gives_the_same_bundle(
    recordings, config, uninterrupted, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "bundle"
    words = [str(recordings), "-o", str(output), "-c", str(config)]
    train_stopped(UnitLMTask, 0, words, capsys, monkeypatch)
    assert not (output / "bundle.json").exists()
    train_stopped(GeneratorTask, 3, words, capsys, monkeypatch)
    assert not (output / "bundle.json").exists()
    monkeypatch.setattr(sys, "argv", ["gslm", "train", *words])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    told = capsys.readouterr().out
    assert "skipped text.wav: not readable as audio" in told
    assert "26 recordings" in told
    assert weights(output) == weights(uninterrupted)
    changed = {"minutes_of_last_run"}
    manifests = [read_json(folder / "bundle.json") for folder in (output, uninterrupted)]
    assert {k: manifests[0][k] for k in manifests[0].keys() - changed} == {
        k: manifests[1][k] for k in manifests[1].keys() - changed
    }


def test_the_bundle_is_whole_and_in_use(uninterrupted, recordings):
    manifest = check_bundle(uninterrupted)
    assert set(manifest["stages"]) == {"units", "tokenizer", "ulm", "vocoder"}
    assert manifest["audio"]["n_recordings"] == 25
    model = SpeechLM.load(uninterrupted)
    clip = recordings / "clip 03.wav"
    assert model.encode(clip).n_frames == -(-len(read_audio(clip)) // 320)
    assert np.isfinite(model.resynthesize(clip)).all()
    assert np.isfinite(model.continue_(clip, max_seconds=0.3)[0].waveform).all()
    for folder in ("ulm-8", "vocoder/prosody", "vocoder/generator"):
        work = uninterrupted.with_name("bundle.work") / folder
        assert (work / "log.jsonl").stat().st_size > 0
        assert list((work / "tensorboard").iterdir())


def test_other_settings_may_not_go_on_in_its_folder(uninterrupted, recordings, config):
    before = weights(uninterrupted)
    with pytest.raises(UserError, match="other settings, audio or held-out"):
        train_bundle(
            recordings, uninterrupted, load_settings(BundleSettings, config, ["units.k=9"])
        )
    assert weights(uninterrupted) == before


def test_all_stages_keep_the_same_recordings_from_training(
    recordings, config, tmp_path, monkeypatch
):
    def fit(_root, ids, *_arguments, **_options):
        fitted.extend(ids)
        return fit_units(_root, ids, *_arguments, **_options)

    def stop(*_arguments):
        raise KeyboardInterrupt

    # The unreadable ones count for the split as well: half of all, not half of the readable.
    audio = shutil.copytree(recordings, tmp_path / "audio")
    for i in range(8):
        (audio / f"text {i}.wav").write_text("not audio")
    fitted: list[str] = []
    monkeypatch.setattr("gslm.pipeline.fit_units", fit)
    monkeypatch.setattr("gslm.pipeline._make_language_model", stop)
    with pytest.raises(KeyboardInterrupt):
        train_bundle(audio, tmp_path / "bundle", load_settings(BundleSettings, config))
    kept = held_out_by_hash(find_audio(audio))
    corpus = Corpus.open(tmp_path / "bundle.work" / "corpus")
    assert set(fitted) == set(find_audio(audio)) - kept
    assert {row.id for row in corpus.rows("held_out")} == kept & {row.id for row in corpus.rows()}


@pytest.mark.parametrize("sizes", [[500], [4], [8], [500, 12]])
def test_a_bpe_that_cannot_be_had_is_passed_over(
    sizes, recordings, config, tmp_path, monkeypatch, capsys
):
    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("gslm.pipeline.train_vocoder", stop)
    output = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        train_bundle(
            recordings,
            output,
            load_settings(BundleSettings, config, [f"tokenizer.bpe_sizes={sizes}"]),
        )
    told = capsys.readouterr().out
    plain, passed_over, *rest = read_json(tmp_path / "bundle.work" / "tokenizers.json")
    assert plain["tokens"] == "plain units"
    assert plain["held_out_bits_per_second"] > 0
    assert passed_over["tokens"] == f"BPE of {sizes[0]}"
    reason = "cannot fill" if sizes[0] == 500 else "not more than the 8 units"
    assert reason in passed_over["passed_over"]
    assert f"BPE of {sizes[0]}: passed over: {passed_over['passed_over']}" in told
    # Another size is still tried.
    assert [row["tokens"] for row in rest] == [f"BPE of {size}" for size in sizes[1:]]
    assert all("held_out_bits_per_second" in row for row in rest)
    assert (output / "ulm" / "config.json").is_file()


def test_another_held_out_list_may_not_go_on(recordings, config, tmp_path, monkeypatch):
    def stop(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("gslm.pipeline._make_units", stop)
    settings, output = load_settings(BundleSettings, config), tmp_path / "bundle"
    first = ["clip 01.wav", "clip 02.wav"]
    for same in (first, first[::-1]):
        with pytest.raises(KeyboardInterrupt):
            train_bundle(recordings, output, settings, same)
    for other in (["clip 01.wav"], None):
        with pytest.raises(UserError, match="held-out recordings; choose another output"):
            train_bundle(recordings, output, settings, other)


def test_unusable_held_out_lists_and_workers_are_refused_before_any_work(
    recordings, config, tmp_path
):
    settings, output = load_settings(BundleSettings, config), tmp_path / "bundle"
    unknown = [f"elsewhere/{i}.wav" for i in range(5)]
    for held_out, workers, told in (
        (["clip 01.wav", *unknown], 1, "5 of 6 held-out ids .*elsewhere/0.wav.*elsewhere/2.wav, …"),
        (["clip 1.wav"], 1, r"1 of 1 held-out ids .*\(clip 1.wav\)"),
        ([], 1, "no held-out recordings"),
        (find_audio(recordings), 1, "no training recordings"),
        (None, 0, "0 workers"),
        (None, -1, "-1 workers"),
    ):
        with pytest.raises(UserError, match=told) as error:
            train_bundle(recordings, output, settings, held_out, workers)
        assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_bundle_without_its_run_is_not_mixed_with_another(tmp_path, recordings, config):
    (tmp_path / "bundle" / "units").mkdir(parents=True)
    with pytest.raises(UserError, match=r"bundle\.work"):
        train_bundle(recordings, tmp_path / "bundle", load_settings(BundleSettings, config))


def test_training_follows_synthesis_in_one_process():
    """What synthesis caches first must be fit for training."""
    spectral.hann_window.cache_clear()
    spectral.mel_filterbank.cache_clear()
    with torch.inference_mode():
        spectral.hann_window(64)
        spectral.mel_filterbank(8, 64, 16_000)
    assert not spectral.hann_window(64).is_inference()
    assert not spectral.mel_filterbank(8, 64, 16_000).is_inference()


def test_too_little_audio_is_one_line(tmp_path, config):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "one.wav", sweep(1.0, 0), 16_000)
    with pytest.raises(UserError) as error:
        train_bundle(audio, tmp_path / "bundle", load_settings(BundleSettings, config))
    assert "\n" not in str(error.value)
    assert "held-out" in str(error.value)
