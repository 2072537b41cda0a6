"""Training from a corpus to a vocoder: resumed where it stopped, and from the command line."""

from __future__ import annotations

import dataclasses
import operator
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gslm.audio import read_audio
from gslm.corpus import CorpusWriter
from gslm.errors import UserError
from gslm.settings import load_settings, to_toml
from gslm.vocoder import Vocoder, commands, data
from gslm.vocoder.pitch_tracker import track_pitch
from gslm.vocoder.settings import VocoderTraining
from gslm.vocoder.train import train_vocoder

_TINY = """
[size]
generator_dim = 16
unit_blocks = 1
fine_blocks = 1
prosody_dim = 16
discriminator_channels = 4
[prosody]
batch_size = 4
crop_frames = 30
[prosody.loop]
steps = 4
validate_every = 2
checkpoint_every = 2
[generator]
batch_size = 2
crop_frames = 12
adversarial_from = 2
adversarial_frames = 8
[generator.loop]
steps = 4
validate_every = 2
checkpoint_every = 2
"""


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "tiny.toml"
    path.write_text(_TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(recordings, settings_file, tmp_path_factory) -> Vocoder:
    settings = load_settings(VocoderTraining, settings_file)
    return train_vocoder(*recordings, settings, tmp_path_factory.mktemp("run"))


def _same(a: Vocoder, b: Vocoder) -> bool:
    return all(
        torch.equal(tensor, getattr(b, part).state_dict()[name])
        for part in ("generator", "durations", "pitch")
        for name, tensor in getattr(a, part).state_dict().items()
    )


def test_a_trained_vocoder_speaks_its_corpus(recordings, trained):
    corpus, _ = recordings
    row = next(iter(corpus.rows("held_out")))
    waveform = trained.synthesize(corpus.units(row), predict_durations=False)
    assert len(waveform) == 320 * corpus.units(row).n_frames
    assert np.isfinite(waveform).all()


def test_interrupted_anywhere_the_result_is_the_same(
    recordings, settings_file, trained, tmp_path, monkeypatch
):
    settings = load_settings(VocoderTraining, settings_file)
    n_tracked = 0

    def interrupted(waveform):
        nonlocal n_tracked
        n_tracked += 1
        if n_tracked == 7:
            raise KeyboardInterrupt
        return track_pitch(waveform)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data, "track_pitch", interrupted)
        train_vocoder(*recordings, settings, tmp_path)
    losses = "gslm.vocoder.generator_task.GeneratorTask.losses"
    original = data.Clips.sample
    n_sampled = 0

    def interrupted_sample(*arguments, **options):
        nonlocal n_sampled
        n_sampled += 1
        if n_sampled == 16:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data.Clips, "sample", interrupted_sample)
        train_vocoder(*recordings, settings, tmp_path)
    assert (tmp_path / "prosody").is_dir(), losses
    assert _same(train_vocoder(*recordings, settings, tmp_path), trained)
    # A run that is done is not repeated.
    with monkeypatch.context() as patch:
        patch.setattr(losses, None)
        patch.setattr("gslm.vocoder.train.step_flops", lambda *_: 0)
        assert _same(train_vocoder(*recordings, settings, tmp_path), trained)


def _stopped_run(recordings, settings, folder, monkeypatch) -> None:
    """A run whose prosody is learned and whose generator is not begun."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("gslm.vocoder.train._train_generator", _interrupt)
        train_vocoder(*recordings, settings, folder)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("other", ["units", "split", "settings", "steps"])
def test_a_folder_with_another_run_is_refused_and_left_alone(
    other, recordings, settings_file, tmp_path, monkeypatch
):
    corpus, audio_root = recordings
    _stopped_run(
        recordings, load_settings(VocoderTraining, settings_file), tmp_path / "run", monkeypatch
    )
    before = _files(tmp_path / "run")
    changes = {"settings": ["prosody.batch_size=3"], "steps": ["prosody.loop.steps=6"]}
    if other in ("units", "split"):
        fingerprint = corpus.fingerprint
        held_out = {row.id for row in corpus.rows("held_out")}
        if other == "units":
            # As many units, so that every checkpoint would load.
            fingerprint = dataclasses.replace(fingerprint, centroids_hash="f" * 16)
        else:
            held_out.pop()
        writer = CorpusWriter(tmp_path / "corpus", fingerprint, corpus.source)
        writer.write_shard(0, list(corpus.rows()))
        corpus = writer.finish(1, held_out)
    settings = load_settings(VocoderTraining, settings_file, changes.get(other, []))
    with pytest.raises(UserError, match=r"other settings .* or another corpus") as error:
        train_vocoder(corpus, audio_root, settings, tmp_path / "run")
    assert str(tmp_path / "run") in str(error.value)
    assert _files(tmp_path / "run") == before


def test_checkpoints_that_do_not_say_what_they_learned_are_refused(
    recordings, settings_file, trained, tmp_path, monkeypatch
):
    settings = load_settings(VocoderTraining, settings_file)
    _stopped_run(recordings, settings, tmp_path, monkeypatch)
    (tmp_path / "run.json").unlink()
    with pytest.raises(UserError, match="delete this folder"):
        train_vocoder(*recordings, settings, tmp_path)
    # Prepared clips alone hold nothing that could be mixed.
    shutil.rmtree(tmp_path / "prosody")
    assert _same(train_vocoder(*recordings, settings, tmp_path), trained)


def test_a_side_of_the_split_without_recordings_is_refused(recordings, settings_file, tmp_path):
    corpus, audio_root = recordings
    rows = list(corpus.rows())[:3]
    writer = CorpusWriter(tmp_path / "corpus", corpus.fingerprint, {})
    writer.write_shard(0, rows)
    everything = writer.finish(1, {row.id for row in rows})
    with pytest.raises(UserError, match="no training recordings"):
        train_vocoder(
            everything, audio_root, load_settings(VocoderTraining, settings_file), tmp_path / "run"
        )


def test_the_commands_train_and_speak(recordings, settings_file, tmp_path, capsys):
    corpus, audio_root = recordings
    output = tmp_path / "my vocoder"
    commands.train(corpus.folder, audio_root, output=output, config=settings_file)
    assert "GFLOP" in capsys.readouterr().out
    spoken = tmp_path / "spoken"
    commands.synthesize(corpus.folder, vocoder=output, output=spoken, durations="recorded")
    rows = list(corpus.rows("held_out"))
    for row in rows:
        waveform = read_audio((spoken / row.id).with_suffix(".wav"))
        assert len(waveform) == 320 * corpus.units(row).n_frames
    assert len(list(spoken.rglob("*.wav"))) == len(rows)
    assert f"{len(rows)} of {len(rows)} recordings spoken" in capsys.readouterr().out
    commands.synthesize(corpus.folder, vocoder=output, output=spoken, durations="recorded")
    assert f"{len(rows)} of them kept from before" in capsys.readouterr().out
    writer = CorpusWriter(tmp_path / "alike", corpus.fingerprint, {})
    writer.write_shard(0, [dataclasses.replace(rows[0], id=id_) for id_ in ("a.flac", "a.wav")])
    writer.finish(1)
    with pytest.raises(UserError, match=r"a\.flac and a\.wav would both"):
        commands.synthesize(tmp_path / "alike", vocoder=output, output=tmp_path / "x", split="all")
    with pytest.raises(UserError, match="predicted or recorded"):
        commands.synthesize(corpus.folder, vocoder=output, output=spoken, durations="guessed")


def test_printed_settings_can_be_read_back(tmp_path, capsys):
    commands.settings_command()
    path = tmp_path / "all.toml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_settings(VocoderTraining, path) == VocoderTraining()
    assert "adversarial_from" in to_toml(VocoderTraining())


def test_the_example_of_the_docs_runs(recordings, trained, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "vocoder.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(recordings[0].folder, "corpus")
    trained.save("vocoder", half=True)
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["waveform"].dtype == np.float32
    # The settings that the page names exist.
    for name in re.findall(r"^\| `([a-z_.]+)`", text, re.MULTILINE):
        assert operator.attrgetter(name)(VocoderTraining()) is not None
