"""Soft units: training, folders, and what they give for every kind of input."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch

import gslm.units
from gslm.audio import find_audio, read_audio, write_wav
from gslm.errors import UserError
from gslm.settings import load_settings, to_toml
from gslm.training import TrainingConfig, TrainingInterruptedError
from gslm.units.chunking import encode_clips
from gslm.units.encoders import Chunking, MFCCEncoder
from gslm.units.fit import fit_units
from gslm.units.normalization import NORMALIZATIONS, by_training_set
from gslm.units.soft import SoftConfig, SoftUnits, soft_blocks, soft_of_frames
from gslm.units.soft_data import prepare_soft_data
from gslm.units.soft_task import SoftTask, SoftTraining, train_soft
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder
from tests.units.tones import sound, write_recordings

LOOP = TrainingConfig(steps=150, warmup_steps=10, validate_every=50, checkpoint_every=50)
SETTINGS = SoftTraining(dim=16, batch_size=64, learning_rate=1e-2, loop=LOOP)
K = 12


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def hard(recordings) -> UnitEncoder:
    encoder = MFCCEncoder(Chunking(100, 20))
    return fit_units(recordings, find_audio(recordings), encoder, K, progress=False)


@pytest.fixture(scope="module")
def trained(recordings, hard, tmp_path_factory) -> UnitEncoder:
    folder = tmp_path_factory.mktemp("trained")
    hard.save(folder / "hard")
    units = gslm.units.load(folder / "hard")
    train_soft(units, recordings, find_audio(recordings), SETTINGS, folder / "work", progress=False)
    return units


def _weights(soft: SoftUnits) -> torch.Tensor:
    return torch.cat([value.flatten() for value in soft.state_dict().values()])


@pytest.mark.parametrize("n_samples", [1, 319, 320, 321, 16_000, 50_001])
def test_every_frame_has_a_vector_of_length_one(trained, n_samples):
    vectors = trained.soft(sound(4)[:n_samples])
    assert vectors.shape == (-(-n_samples // 320), SETTINGS.dim)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_distribution_sums_to_one_and_is_the_softmax_of_cosines(trained):
    waveform = sound(3, 5)
    found = np.concatenate(list(soft_blocks(trained, lambda: [waveform], "distribution")))
    assert found.shape == (150, K)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    units = trained.soft_units.units.detach().numpy()
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    scores = np.exp(trained.soft(waveform) @ units.T / SETTINGS.temperature)
    assert np.allclose(found, scores / scores.sum(axis=1, keepdims=True), atol=1e-4)


def test_the_likeliest_unit_is_mostly_the_hard_one(trained, recordings):
    agreements = []
    for id_ in find_audio(recordings)[:12]:
        waveform = read_audio(recordings / id_)
        found = np.concatenate(list(soft_blocks(trained, lambda w=waveform: [w], "distribution")))
        agreements.append(np.mean(found.argmax(axis=1) == trained(waveform).ids))
    assert np.mean(agreements) > 0.8


def test_another_sample_rate_is_resampled(trained):
    assert len(trained.soft(sound(1), sample_rate=8_000)) == 100


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.zeros((100, 2), np.float32), "mono"),
    ],
)
def test_bad_waveforms_are_one_line_errors(trained, waveform, message):
    with pytest.raises(UserError, match=message) as error:
        trained.soft(waveform)
    assert "\n" not in str(error.value)


def test_units_without_soft_ones_say_how_to_train_them(hard):
    with pytest.raises(UserError, match="gslm units soft"):
        hard.soft(sound(1))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_recording_read_in_blocks_gives_the_vectors_of_its_waveform(hard, normalization):
    statistics = hard.statistics if by_training_set(normalization) else None
    units = UnitEncoder(hard.encoder, hard.centroids, normalization, statistics)
    torch.manual_seed(0)
    units.soft_units = SoftUnits(SoftConfig(39, K, 8)).eval()
    waveform = sound(7)
    blocks = np.array_split(waveform, 9)
    found = np.concatenate(list(soft_blocks(units, lambda: blocks)))
    assert np.allclose(found, units.soft(waveform), atol=1e-4)


class LevelledMFCC(MFCCEncoder):
    """Like HuBERT's kin: the frames of a chunk depend on the whole recording."""

    level = 0.0

    def __call__(self, clips):
        return [frames - self.level for frames in super().__call__(clips)]

    def for_recording(self, blocks):
        bound = LevelledMFCC(self.chunking)
        bound.level = 100 * float(np.sqrt(np.mean(np.concatenate(list(blocks)) ** 2)))
        return bound


def test_chunks_of_a_long_recording_are_encoded_as_parts_of_it(hard):
    encoder = LevelledMFCC(Chunking(100, 20))
    units = UnitEncoder(encoder, hard.centroids)
    torch.manual_seed(0)
    units.soft_units = SoftUnits(SoftConfig(39, K, 8)).eval()
    waveform = sound(5)
    expected = soft_of_frames(units, encode_clips(encoder, [waveform])[0])
    assert np.allclose(units.soft(waveform), expected, atol=1e-4)


def test_another_precision_and_smoothing_keep_the_soft_units(trained):
    assert trained.in_precision("float32").soft_units is trained.soft_units
    assert trained.smoothed(1.0).soft_units is trained.soft_units


def test_a_seed_gives_the_same_weights_and_another_does_not(recordings, hard, tmp_path):
    ids = find_audio(recordings)
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        loop = TrainingConfig(steps=5, seed=seed)
        settings = SoftTraining(dim=8, batch_size=32, max_hours=0.005, loop=loop)
        soft = train_soft(hard, recordings, ids, settings, tmp_path / name, progress=False)
        weights.append(_weights(soft))
    hard.soft_units = None
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_stopped_training_goes_on_to_the_same_weights(recordings, hard, tmp_path, monkeypatch):
    ids = find_audio(recordings)
    loop = TrainingConfig(steps=12, validate_every=4, checkpoint_every=4)
    settings = SoftTraining(dim=8, batch_size=32, max_hours=0.005, loop=loop)

    def train(name: str) -> SoftUnits:
        return train_soft(hard, recordings, ids, settings, tmp_path / name, progress=False)

    whole = train("whole")
    losses = SoftTask.losses

    def stopping(task, batch, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(task, batch, step)

    monkeypatch.setattr(SoftTask, "losses", stopping)
    with pytest.raises(TrainingInterruptedError):
        train("stopped")
    monkeypatch.setattr(SoftTask, "losses", losses)
    resumed = train("stopped")
    hard.soft_units = None
    assert torch.equal(_weights(whole), _weights(resumed))


def test_a_run_of_other_settings_is_not_gone_on_with(recordings, hard, tmp_path):
    ids = find_audio(recordings)
    settings = SoftTraining(dim=8, max_hours=0.005, loop=TrainingConfig(steps=1))
    train_soft(hard, recordings, ids, settings, tmp_path, progress=False)
    hard.soft_units = None
    other = SoftTraining(dim=9, max_hours=0.005, loop=TrainingConfig(steps=1))
    with pytest.raises(UserError, match="other settings"):
        train_soft(hard, recordings, ids, other, tmp_path, progress=False)


def test_a_run_that_found_no_audio_is_mended_with_other_recordings(recordings, hard, tmp_path):
    settings = SoftTraining(dim=8, loop=TrainingConfig(steps=1))
    with pytest.raises(UserError, match="no readable train recording"):
        train_soft(hard, recordings, ["text.wav"], settings, tmp_path, progress=False)
    ids = [f"{i:02d}.wav" for i in range(12)]
    assert train_soft(hard, recordings, ids, settings, tmp_path, progress=False) is hard.soft_units
    hard.soft_units = None


def test_a_folder_comes_back_the_same(trained, tmp_path):
    trained.save(tmp_path / "bundle" / "units", half=True)
    loaded = gslm.units.load(tmp_path / "bundle")
    waveform = sound(2, 7)
    assert np.array_equal(loaded.soft(waveform), trained.soft(waveform))
    assert np.array_equal(loaded(waveform).ids, trained(waveform).ids)
    assert loaded.soft_units.config == trained.soft_units.config
    smooth = loaded.smoothed(1.0)
    smooth.save(tmp_path / "smooth")
    again = gslm.units.load(tmp_path / "smooth")
    assert np.array_equal(again.soft(waveform), trained.soft(waveform))


def test_hard_units_saved_over_soft_ones_leave_none(trained, hard, tmp_path):
    trained.save(tmp_path)
    assert (tmp_path / "soft.safetensors").is_file()
    hard.save(tmp_path)
    assert gslm.units.load(tmp_path).soft_units is None
    assert not (tmp_path / "soft.safetensors").exists()


def test_damaged_folders_are_one_line_errors(trained, tmp_path):
    trained.save(tmp_path)
    about = json.loads((tmp_path / "soft.json").read_text())
    weights = (tmp_path / "soft.safetensors").read_bytes()

    def broken(message: str, change) -> None:
        changed = json.loads(json.dumps(about))
        change(changed)
        (tmp_path / "soft.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message) as error:
            gslm.units.load(tmp_path)
        assert "\n" not in str(error.value)

    broken("does not fit", lambda a: a["config"].update(dim=3))
    broken("do not match", lambda a: a["units"].update(centroids_hash="0"))
    broken("unknown settings", lambda a: a["config"].update(width=3))
    broken("temperature", lambda a: a["config"].update(temperature=0))
    broken("expected an object", lambda a: a.pop("config"))
    (tmp_path / "soft.safetensors").write_bytes(weights[:-10])
    broken("truncated", lambda a: None)
    (tmp_path / "soft.safetensors").unlink()
    broken("no such file", lambda a: None)


def test_syllables_have_no_soft_units(tmp_path):
    centroids = torch.eye(39)[:5]
    units = UnitEncoder(MFCCEncoder(), centroids, "none", coarsening=Syllables())
    with pytest.raises(UserError, match="syllables"):
        train_soft(units, tmp_path, [], SETTINGS, tmp_path / "work")


def test_recordings_that_cannot_be_used_are_errors(hard, tmp_path):
    def prepare(name: str) -> None:
        prepare_soft_data(
            hard.encoder, "global", tmp_path, [name], tmp_path / "data", progress=False
        )

    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"no readable train recording: a\.wav"):
        prepare("a.wav")
    write_wav(tmp_path / "b.wav", sound(1))
    with pytest.raises(UserError, match="no readable held-out recording; give more audio"):
        prepare("b.wav")


def test_settings_are_read_from_toml_and_overridden(tmp_path):
    (tmp_path / "soft.toml").write_text(to_toml(SoftTraining(dim=32)))
    settings = load_settings(SoftTraining, tmp_path / "soft.toml", ["loop.steps=7"])
    assert (settings.dim, settings.loop.steps) == (32, 7)
    for bad in ("batch_size=0", "learning_rate=0", "dim=0", "temperature=0"):
        with pytest.raises(UserError):
            load_settings(SoftTraining, None, [bad])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_frames_are_learned_with_the_hard_units_of_their_recordings(
    recordings, hard, tmp_path, normalization
):
    ids = [f"{i:02d}.wav" for i in range(12)]
    statistics = hard.statistics if by_training_set(normalization) else None
    units = UnitEncoder(hard.encoder, hard.centroids, normalization, statistics)
    arguments = (hard.encoder, normalization, recordings)
    data = prepare_soft_data(*arguments, ids, tmp_path, progress=False)
    n_frames = [100 + 5 * i for i in range(12)]
    assert len(data.train) + len(data.held_out) == sum(n_frames)
    task = SoftTask(data, units, SoftUnits(SoftConfig(39, K, 8)), SETTINGS)
    features, found = task.batch(3)
    rows, expected = [], []
    for id_ in ids:
        waveform = read_audio(recordings / id_)
        rows.append(units.normalize(encode_clips(hard.encoder, [waveform])[0]))
        expected.append(torch.from_numpy(units(waveform).ids))
    distances, nearest = torch.cdist(features, torch.cat(rows)).min(dim=1)
    assert distances.max() < 0.05
    assert (torch.cat(expected)[nearest] == found).float().mean() > 0.98
    again = prepare_soft_data(*arguments, [], tmp_path, progress=False)
    assert np.array_equal(again.train, data.train)


def test_commands_train_and_export(recordings, hard, tmp_path, capsys):
    from gslm.units.commands import app

    hard.save(tmp_path / "hard")
    out = str(tmp_path / "soft")
    settings = ["-s", "loop.steps=3", "-s", "max_hours=0.01", "-s", "dim=8"]
    arguments = ["soft", str(recordings), "--units", str(tmp_path / "hard"), "-o", out, *settings]
    app(arguments, result_action="return_value")
    app(
        ["soft-encode", str(recordings), "--units", out, "-o", str(tmp_path / "npy")],
        result_action="return_value",
    )
    printed = capsys.readouterr().out
    assert "13 recordings as vectors" in printed
    assert "skipped text.wav" in printed
    assert np.load(tmp_path / "npy" / "00.npy").shape == (100, 8)
    app(["soft-settings"], result_action="return_value")
    assert "dim = 64" in capsys.readouterr().out
