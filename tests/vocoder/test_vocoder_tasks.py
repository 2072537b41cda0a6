"""The two training tasks: pure batches, falling losses, and what a step costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gslm.training import TrainingConfig
from gslm.types import deduplicate
from gslm.vocoder.discriminators import DiscriminatorConfig
from gslm.vocoder.duration import DurationConfig, DurationPredictor
from gslm.vocoder.generator import ENVELOPE_STEPS, Generator, GeneratorConfig
from gslm.vocoder.generator_task import GeneratorTask
from gslm.vocoder.pitch import PitchConfig, PitchPredictor
from gslm.vocoder.prosody_task import ProsodyTask
from gslm.vocoder.settings import GeneratorTraining, ProsodyTraining
from gslm.vocoder.train import step_flops

_LOOP = TrainingConfig(steps=10)


def _generator_task(clips, features=None, **changes) -> GeneratorTask:
    torch.manual_seed(0)
    generator = Generator(
        GeneratorConfig(clips.n_units, dim=32, unit_blocks=2, fine_blocks=2, n_fft=512)
    )
    config = GeneratorTraining(
        batch_size=4, crop_frames=20, learning_rate=3e-3, adversarial_frames=10, loop=_LOOP
    )
    return GeneratorTask(
        clips,
        generator,
        DiscriminatorConfig(n_ffts=(512, 256), channels=4),
        replace(config, **changes),
        features,
    )


def _prosody_task(clips) -> ProsodyTask:
    torch.manual_seed(0)
    return ProsodyTask(
        clips,
        DurationPredictor(DurationConfig(clips.n_units, dim=16, n_blocks=2)),
        PitchPredictor(PitchConfig(clips.n_units, dim=16, n_blocks=2)),
        ProsodyTraining(batch_size=8, crop_frames=40, learning_rate=5e-3, loop=_LOOP),
    )


def _train(task, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Held-out figures before and after a few steps of plain descent."""
    before = _validated(task)
    for index in range(steps):
        for key, loss, figures in task.losses(task.batch(index), index):
            assert all(np.isfinite(value) for value in figures.values())
            loss.backward()
            task.optimizers[key].step()
            task.optimizers[key].zero_grad(set_to_none=True)
    return before, _validated(task)


def _validated(task) -> dict[str, float]:
    for module in task.modules.values():
        module.eval()
    with torch.no_grad():
        figures = task.validate()
    for module in task.modules.values():
        module.train()
    return figures


@pytest.mark.parametrize("make", [_generator_task, _prosody_task])
def test_batches_are_a_pure_function_of_their_number(clips, make):
    first, second = make(clips), make(clips)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(99)
    for index in (5, 0, 5):
        assert _same(first.batch(index), second.batch(index))
    assert not _same(first.batch(1), first.batch(2))


def _same(a, b) -> bool:
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    parts = (lambda x: x) if isinstance(a, tuple) else (lambda x: (x.units, x.f0, x.audio))
    return all(_same(x, y) for x, y in zip(parts(a), parts(b), strict=True))


def test_the_generator_learns(clips):
    before, after = _train(_generator_task(clips, adversarial_from=10**9), 40)
    assert after["mel"] < 0.5 * before["mel"]
    assert after["spectral"] < before["spectral"]


def test_discriminators_learn_once_they_take_part(clips):
    task = _generator_task(clips, adversarial_from=3)
    names = [[key for key, _, _ in task.losses(task.batch(step), step)] for step in (2, 3)]
    assert names == [["generator"], ["discriminators", "generator"]]
    weights = [p.clone() for p in task.modules["discriminators"].parameters()]
    _train(task, 3)
    unchanged = task.modules["discriminators"].parameters()
    assert all(torch.equal(*pair) for pair in zip(weights, unchanged, strict=True))
    before, after = _train(task, 6)
    assert after["loss"] < before["loss"]
    changed = task.modules["discriminators"].parameters()
    assert not all(torch.equal(*pair) for pair in zip(weights, changed, strict=True))


def test_discriminators_see_the_same_stretch_of_both(clips):
    task = _generator_task(clips)
    sound = torch.arange(4 * 20 * 320).reshape(4, -1).float()
    made, real = task._parts(sound, sound, 7)
    assert made.shape == (4, 10 * 320)
    assert torch.equal(made, real)
    starts = {float(task._parts(sound, sound, step)[0][0, 0]) for step in range(5)}
    assert len(starts) > 1


def test_what_the_unit_encoder_hears_takes_part_where_it_is_given(clips):
    def features(samples: Tensor) -> Tensor:
        return samples.reshape(len(samples), -1, 320).square().mean(-1, keepdim=True)

    plain, task = _generator_task(clips), _generator_task(clips, features, consistency_weight=3.0)
    batch = task.batch(0)
    for either in (plain, task):
        either.modules["generator"].eval()
    torch.manual_seed(1)
    ((_, without, _),) = plain.losses(batch, 0)
    torch.manual_seed(1)
    ((_, loss, figures),) = task.losses(batch, 0)
    assert figures["consistency"] > 0
    expected = float(without.detach()) + 3 * figures["consistency"]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    silent = replace(batch, audio=torch.zeros_like(batch.audio))
    assert float(next(task.losses(silent, 0))[1].detach()) < 1e6


def test_prosody_learns(clips):
    before, after = _train(_prosody_task(clips), 60)
    assert after["loss"] < 0.7 * before["loss"]
    for part in ("duration", "voicing", "octave"):
        assert after[part] < before[part]


def test_prosody_batches_hold_the_durations_of_their_units(clips):
    crops, sequences, durations = _prosody_task(clips).batch(0)
    for units, sequence, lengths in zip(crops.units, sequences, durations, strict=True):
        inside = units[units != clips.n_units].numpy()
        ids, expected = deduplicate(inside)
        assert sequence[: len(ids)].tolist() == ids.tolist()
        assert lengths[: len(ids)].tolist() == expected.tolist()
        assert (sequence[len(ids) :] == clips.n_units).all()
        assert not lengths[len(ids) :].any()


def test_the_cost_of_a_step_is_that_of_its_products(clips):
    task = _generator_task(clips, adversarial_from=10)
    batch, frames, dim, head = 4, 20, 32, 3 * 257 + ENVELOPE_STEPS
    rows = batch * frames
    perceptron = 2 * 2 * dim * 3 * dim
    depthwise = 2 * dim * 7
    blocks = (2 * rows + 2 * 2 * rows) * (perceptron + depthwise)
    others = rows * (2 * 3 * dim * dim + 2 * dim * 2 * dim) + 2 * rows * 2 * dim * head
    # A product costs as much again for each of its two gradients; pitch needs none.
    pitch = rows * 2 * 4 * dim + 2 * rows * 2 * 2 * dim
    filters = sum(
        2 * batch * n_mels * (n_fft // 2 + 1) * (frames * 320 // max(16, n_fft // 4))
        for n_fft, n_mels in ((64, 10), (128, 20), (256, 40), (512, 80), (1024, 120), (2048, 160))
    )
    expected = 3 * (blocks + others) + 2 * pitch + 3 * filters
    assert step_flops(task, 0) == expected
    assert step_flops(task, 10) > expected
    for module in task.modules.values():
        assert all(p.grad is None and p.requires_grad for p in module.parameters())
