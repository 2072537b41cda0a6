"""A uLM on disk, and its training end to end on a small grammar."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.eval.ngram import NGramModel
from gslm.training import TrainingConfig
from gslm.ulm import UnitLM
from gslm.ulm.model import BOS, N_SPECIAL, PRESETS, DecoderConfig
from gslm.ulm.train import UnitLMTask, UnitLMTraining, train_ulm
from tests.ulm.test_sample import FINGERPRINT, unit_lm

SEQUENCES = [np.array([1, 2, 3], dtype=np.int32), np.arange(40, dtype=np.int32)]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_scores_the_same(tmp_path: Path, half: bool, tied: bool) -> None:
    lm = unit_lm()
    if not tied:
        lm.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(lm.model.lm_head.weight))
        lm.config = replace(lm.config, tied_embeddings=False)
    lm.save(tmp_path / "ulm", half=half)
    loaded = UnitLM.load(tmp_path / "ulm")
    assert loaded.fingerprint == lm.fingerprint
    assert loaded.config == lm.config
    tolerance = 1e-2 if half else 1e-6
    assert loaded.score(SEQUENCES) == pytest.approx(lm.score(SEQUENCES), rel=tolerance)


def test_damaged_folders_are_one_line(tmp_path: Path) -> None:
    unit_lm().save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    _assert_one_line(tmp_path)
    weights.write_bytes(whole)
    config.write_text(text.replace('"n_layers": 3', '"n_layers": 4'))
    _assert_one_line(tmp_path)
    config.write_text("{}")
    _assert_one_line(tmp_path)
    _assert_one_line(tmp_path / "nothing")


def _assert_one_line(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        UnitLM.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def copies(n: int, seed: int) -> list[np.ndarray]:
    """A word of five units said twice: only what remembers six units back can know it."""
    random = np.random.default_rng(seed)
    words = [random.integers(0, 20, 5) for _ in range(n)]
    return [np.concatenate([word, [20], word]).astype(np.int32) for word in words]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> UnitLMTraining:
    shape = DecoderConfig(1, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=128)
    monkeypatch.setitem(PRESETS, "mini", shape)
    return UnitLMTraining(
        context=256,
        row_length=256,
        rows=4,
        dropout=0.0,
        replace_units=0.0,
        learning_rate=5e-3,
        training=TrainingConfig(
            steps=250, warmup_steps=20, validate_every=125, mixed_precision="no", ema_decay=0.9
        ),
    )


def test_training_learns_what_no_ngram_can(tmp_path: Path, small: UnitLMTraining) -> None:
    train, held_out = copies(600, 1), copies(40, 2)
    lm = train_ulm(train, held_out, 21, FINGERPRINT, small, tmp_path)
    n_tokens = sum(len(sequence) + 1 for sequence in held_out)
    loss = -sum(lm.score(held_out)) / n_tokens
    trigram = NGramModel(train, 3, 21)
    assert loss < 0.75 * -sum(map(trigram.score, held_out)) / n_tokens
    assert lm.fingerprint == FINGERPRINT
    log = (tmp_path / "log.jsonl").read_text()
    assert "tokens_per_second" in log
    assert '"padding": 0.0' in log


def test_a_folder_with_another_models_run_is_refused(tmp_path: Path, small: UnitLMTraining) -> None:
    sequences = copies(5, 1)
    short = replace(small, training=replace(small.training, steps=2))
    train_ulm(sequences, sequences, 21, FINGERPRINT, short, tmp_path)
    train_ulm(sequences, sequences, 21, FINGERPRINT, short, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    others = copies(5, 2)
    resplit = [np.concatenate(sequences[:2]), *sequences[2:]]
    for train, held_out, config, fingerprint in (
        (sequences, sequences, replace(short, dropout=0.1), FINGERPRINT),
        (sequences, sequences, replace(short, learning_rate=1e-3), FINGERPRINT),
        (sequences, sequences, small, FINGERPRINT),
        (sequences, sequences, short, replace(FINGERPRINT, encoder="log-mel")),
        (others, sequences, short, FINGERPRINT),
        (resplit, sequences, short, FINGERPRINT),
        (sequences, others, short, FINGERPRINT),
    ):
        with pytest.raises(UserError, match="another uLM"):
            train_ulm(train, held_out, 21, fingerprint, config, tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_stopped_run_goes_on_exactly(
    tmp_path: Path, small: UnitLMTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = copies(50, 1)
    training = replace(
        small.training, steps=6, schedule="constant", log_every=1, checkpoint_every=3
    )
    settings = replace(small, dropout=0.2, replace_units=0.1, training=training)
    original = UnitLMTask.losses

    def stopped(self, batch, step):
        if step == 4:
            raise KeyboardInterrupt
        return original(self, batch, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UnitLMTask, "losses", stopped)
        train_ulm(sequences, sequences, 21, FINGERPRINT, settings, tmp_path / "parts")
    for folder in ("whole", "parts"):
        train_ulm(sequences, sequences, 21, FINGERPRINT, settings, tmp_path / folder)
    losses = []
    for folder in ("whole", "parts"):
        rows = map(json.loads, (tmp_path / folder / "log.jsonl").read_text().splitlines())
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_replacing_units_changes_inputs_only_and_is_repeatable(small: UnitLMTraining) -> None:
    decoder = replace(PRESETS["mini"], n_pieces=21)
    sequences = copies(100, 1)
    plain = UnitLMTask(sequences, sequences, decoder, small).batch(5)
    task = UnitLMTask(sequences, sequences, decoder, replace(small, replace_units=0.3))
    noisy, again = task.batch(5), task.batch(5)
    assert torch.equal(noisy.inputs, again.inputs)
    assert torch.equal(noisy.targets, plain.targets)
    assert torch.equal(noisy.inputs == BOS, plain.inputs == BOS)
    assert noisy.inputs.min() >= BOS
    changed = (noisy.inputs != plain.inputs).float().mean()
    assert 0.15 < changed < 0.35
    assert noisy.inputs.max() < 21 + N_SPECIAL


def test_weight_decay_is_on_matrices_only(small: UnitLMTraining) -> None:
    sequences = copies(5, 1)
    task = UnitLMTask(sequences, sequences, replace(PRESETS["mini"], n_pieces=21), small)
    decayed, free = task.optimizers["model"].param_groups
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in free["params"])
    assert free["weight_decay"] == 0


def test_bad_training_sets_are_refused_before_any_work(
    tmp_path: Path, small: UnitLMTraining
) -> None:
    good = copies(3, 1)
    for train, held_out in (([], good), (good, []), (good, [np.array([21])])):
        with pytest.raises(UserError) as error:
            train_ulm(train, held_out, 21, FINGERPRINT, small, tmp_path)
        assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="row_length"):
        UnitLMTraining(context=100, row_length=200)
