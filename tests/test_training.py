"""The training loop: exact resume, several optimizers, averages, signals, full disks, processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gslm import checkpoints
from gslm.errors import UserError
from gslm.training import TrainingConfig, TrainingInterruptedError, learning_rate_factor, train
from gslm.training_log import TrainingLog

CONFIG = TrainingConfig(
    steps=12,
    warmup_steps=3,
    validate_every=4,
    checkpoint_every=5,
    log_every=1,
    mixed_precision="no",
    seed=3,
)


class Regression:
    """A network with dropout and tied weights that learns a fixed linear map."""

    def __init__(self, stop_at: int | None = None, bad_batch: int | None = None) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Linear(6, 6))
        model[2].weight = model[0].weight
        self.modules: dict[str, nn.Module] = {"model": model}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": torch.optim.AdamW(model.parameters(), lr=0.05)
        }
        self.stop_at, self.bad_batch = stop_at, bad_batch
        self.seen: list[int] = []
        self.held_out: list[float] = []

    def batch(self, index: int) -> tuple[int, Tensor]:
        values = np.random.default_rng([7, index]).standard_normal((8, 6)).astype(np.float32)
        return index, torch.from_numpy(values)

    def losses(self, batch, step: int) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        index, inputs = batch
        self.seen.append(index)
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = (self.modules["model"](inputs) - inputs.flip(1)).square().mean()
        if index == self.bad_batch:
            loss = loss * float("nan")
        yield "model", loss, {"loss": float(loss.detach())}

    def validate(self) -> dict[str, float]:
        inputs = self.batch(1_000_000)[1]
        loss = float((self.modules["model"](inputs) - inputs.flip(1)).square().mean())
        self.held_out.append(loss)
        return {"loss": loss}


class Adversaries(Regression):
    """Two networks stepped in turn, as a GAN's; the second joins at step 4."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(stop_at)
        critic = nn.Linear(6, 1)
        self.modules["critic"] = critic
        self.optimizers["critic"] = torch.optim.SGD(critic.parameters(), lr=0.1)

    def losses(self, batch, step: int) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        inputs = batch[1]
        critic, made = self.modules["critic"], self.modules["model"](inputs)
        if step >= 4:
            before = critic.weight.detach().clone()
            critic.requires_grad_(True)
            loss = critic(made.detach()).mean() - critic(inputs).mean()
            yield "critic", loss, {"critic": float(loss.detach())}
            assert not torch.equal(before, critic.weight), "stepped before the next loss"
            critic.requires_grad_(False)
            made = made + 0 * critic(made).sum()
        self.modules["critic"].requires_grad_(False)
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        yield "model", (made - inputs).square().mean(), {"loss": 0.0}


def _rows(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def _assert_same_log(folder: Path, reference: Path) -> None:
    rows, expected = _rows(folder), _rows(reference)
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def _weights(task: Regression) -> Tensor:
    return torch.cat([p.detach().flatten() for m in task.modules.values() for p in m.parameters()])


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("stop_at", [4, 6, 11])
def test_a_stopped_run_goes_on_exactly(tmp_path, accumulate, ema, stop_at):
    config = replace(CONFIG, accumulate=accumulate, ema_decay=ema)
    whole = Regression()
    expected = train(whole, config, tmp_path / "whole", "whole")
    with pytest.raises(TrainingInterruptedError, match=f"step {stop_at + 1} of 12"):
        train(Regression(stop_at), config, tmp_path / "parts", "parts")
    parts = Regression()
    result = train(parts, config, tmp_path / "parts", "parts")
    _assert_same_log(tmp_path / "parts", tmp_path / "whole")
    assert torch.equal(_weights(parts), _weights(whole))
    assert (result.best_loss, result.best_step, result.steps) == (
        expected.best_loss,
        expected.best_step,
        12,
    )
    assert whole.seen == list(range(12 * accumulate))


@pytest.mark.parametrize("stop_at", [2, 8])
def test_several_optimizers_resume_alike(tmp_path, stop_at):
    whole, parts = Adversaries(), Adversaries()
    train(whole, CONFIG, tmp_path / "whole", "gan")
    with pytest.raises(TrainingInterruptedError):
        train(Adversaries(stop_at), CONFIG, tmp_path / "parts", "gan")
    train(parts, CONFIG, tmp_path / "parts", "gan")
    _assert_same_log(tmp_path / "parts", tmp_path / "whole")
    assert torch.equal(_weights(parts), _weights(whole))


def test_a_killed_run_replays_from_its_checkpoint(tmp_path):
    """After kill -9 the log ends beyond the checkpoint, in half a line; nothing is told twice."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(Regression(), CONFIG, whole, "whole")
    with pytest.raises(UserError, match="loss is nan"):
        train(Regression(bad_batch=8), CONFIG, killed, "killed")
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    (killed / ".checkpoint-00000009.tmp").mkdir()
    train(Regression(), CONFIG, killed, "killed")
    _assert_same_log(killed, whole)
    assert [p.name for p in killed.glob("*checkpoint*")] == ["checkpoint-00000012"]


def test_a_full_disk_on_resuming_leaves_the_old_log(tmp_path, monkeypatch):
    with TrainingLog(tmp_path, 0, active=True) as log:
        for step in (1, 2, 3):
            log.write(step, 1.0, {"loss": 0.5})
    before = (tmp_path / "log.jsonl").read_text()

    def full(path, text, **_settings):
        with path.open("w") as file:
            file.write(text[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"log\.jsonl: cannot write") as error:
        TrainingLog(tmp_path, 2, active=True).__enter__()
    assert "\n" not in str(error.value)
    assert (tmp_path / "log.jsonl").read_text() == before
    monkeypatch.undo()
    with TrainingLog(tmp_path, 2, active=True):
        pass
    assert [json.loads(row)["step"] for row in (tmp_path / "log.jsonl").open()] == [1, 2]


def test_accumulated_micro_batches_equal_one_large_batch(tmp_path):
    class Large(Regression):
        def batch(self, index: int) -> tuple[int, Tensor]:
            parts = [Regression.batch(self, 2 * index + i)[1] for i in range(2)]
            return index, torch.cat(parts)

    tasks = [Large(), Regression()]
    for accumulate, task in enumerate(tasks, start=1):
        task.modules["model"][1].p = 0.0
        config = replace(CONFIG, accumulate=accumulate)
        train(task, config, tmp_path / str(accumulate), "accumulation")
    assert torch.allclose(_weights(tasks[0]), _weights(tasks[1]), atol=1e-5)
    losses = [[row.get("loss") for row in _rows(tmp_path / n)] for n in "12"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_average_moves_tied_weights_once(tmp_path):
    """The kept weights are the moving average that a loop over the steps' weights gives."""
    history = []

    class Watched(Regression):
        def losses(self, batch, step):
            history.append(_weights(self).clone())
            yield from super().losses(batch, step)

    config = replace(CONFIG, ema_decay=0.5, keep_best=False, validate_every=100)
    task = Watched()
    task.optimizers["model"].register_step_post_hook(lambda *_: history.append(_weights(task)))
    train(task, config, tmp_path, "average")
    steps = history[1::2]
    expected = history[0].clone()
    for number, weights in enumerate(steps, start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weights
    assert torch.allclose(_weights(task), expected, atol=1e-6)
    assert not torch.allclose(expected, steps[-1], atol=1e-4)


def test_the_best_validation_is_kept_and_patience_ends(tmp_path):
    class Worsening(Regression):
        def validate(self) -> dict[str, float]:
            self.kept = getattr(self, "kept", [])
            self.kept.append(_weights(self).clone())
            return {"loss": [3.0, 1.0, 2.0, 2.0, 0.0][len(self.kept) - 1]}

    config = replace(CONFIG, steps=100, validate_every=2, patience=2)
    task = Worsening()
    result = train(task, config, tmp_path, "patience")
    assert (result.best_loss, result.best_step, result.steps) == (1.0, 4, 8)
    assert torch.equal(_weights(task), task.kept[1])
    again = Regression()
    assert train(again, config, tmp_path, "patience").steps == 8
    assert again.seen == []
    assert torch.equal(_weights(again), task.kept[1])


def test_a_signal_in_the_last_step_is_not_lost(tmp_path):
    with pytest.raises(TrainingInterruptedError, match="step 12 of 12"):
        train(Regression(stop_at=11), CONFIG, tmp_path, "last")
    assert train(Regression(), CONFIG, tmp_path, "last").steps == 12
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_loss_that_is_not_finite_names_step_and_batch(tmp_path):
    config = replace(CONFIG, accumulate=2)
    with pytest.raises(UserError, match=r"regress: loss is nan at step 3, batch 7; "):
        train(Regression(bad_batch=7), config, tmp_path, "regress")


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    whole = Regression()
    train(whole, CONFIG, tmp_path / "whole", "whole")

    def full(_state, path):
        if "checkpoint-00000010" in str(path):
            Path(path).write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed: no space left on device\n at line 1")
        real(_state, path)

    real = torch.save
    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(UserError, match="cannot write the checkpoint") as error:
        train(Regression(), CONFIG, tmp_path / "full", "full")
    assert "\n" not in str(error.value)
    assert [p.name for p in (tmp_path / "full").glob("*checkpoint*")] == ["checkpoint-00000005"]
    monkeypatch.undo()
    parts = Regression()
    train(parts, CONFIG, tmp_path / "full", "full")
    assert torch.equal(_weights(parts), _weights(whole))


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints_beyond_the_retention_are_deleted(tmp_path, keep):
    train(Regression(), replace(CONFIG, keep_checkpoints=keep), tmp_path, "keep")
    steps = [int(path.name[-8:]) for path in sorted(tmp_path.glob("checkpoint-*"))]
    assert steps == [5, 10, 12][-keep:]


@pytest.mark.parametrize("name", ["modules.safetensors", "state.pt", "progress.json"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, name):
    train(Regression(), CONFIG, tmp_path, "damaged")
    path = tmp_path / "checkpoint-00000012" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=name) as error:
        train(Regression(), CONFIG, tmp_path, "damaged")
    assert "\n" not in str(error.value)


def test_a_folder_with_another_model_is_refused(tmp_path):
    train(Regression(), CONFIG, tmp_path, "one")
    other = Regression()
    other.modules["model"] = nn.Linear(6, 6)
    with pytest.raises(UserError, match="another model"):
        train(other, CONFIG, tmp_path, "other")


def test_tasks_follow_one_another_and_their_modules_stay_plain(tmp_path):
    for number in range(2):
        task = Regression()
        model = task.modules["model"]
        config = replace(CONFIG, mixed_precision=["no", "bf16"][number])
        train(task, config, tmp_path / str(number), "plain")
        assert task.modules["model"] is model
        assert "forward" not in vars(model)
        assert not model.training
        assert model(torch.zeros(1, 6)).dtype == torch.float32


def test_figures_go_to_the_log_and_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Regression(), CONFIG, tmp_path, "log")
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows if "held_out_loss" in row] == [4, 8, 12]
    assert [row["step"] for row in rows if "lr_model" in row] == list(range(1, 13))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    logged = [event.value for event in board.Scalars("loss")]
    assert logged == pytest.approx([row["loss"] for row in rows if "loss" in row], abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.55, 0.1]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 0.1]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate_schedules(schedule, expected):
    config = TrainingConfig(
        steps=102, warmup_steps=2, schedule=schedule, final_fraction=0.1, decay_fraction=0.2
    )
    factors = [learning_rate_factor(config, step) for step in (0, 1, 2, 52, 102)]
    assert factors == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"accumulate": 0},
        {"keep_checkpoints": 0},
        {"ema_decay": 1.0},
        {"schedule": "linear"},
        {"mixed_precision": "fp16"},
    ],
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        TrainingConfig(**({"steps": 10} | wrong))


def _train_in_process(rank: int, folder: Path, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
    }
    task = Adversaries()
    if rank == 1:
        with torch.no_grad():
            task.modules["model"][0].bias.add_(5.0)  # the loop must not trust equal seeds
    task.modules["model"][1].p = 0.0
    train(task, replace(CONFIG, keep_best=False), folder, "two")
    torch.save(_weights(task), folder / f"weights-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_one_model(tmp_path):
    """Both end with the weights of one process that sees both their batches in each step."""
    context = torch.multiprocessing.get_context("spawn")
    port = 20_000 + os.getpid() % 20_000
    workers = [
        context.Process(target=_train_in_process, args=(rank, tmp_path, port)) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    alone = Adversaries()
    alone.modules["model"][1].p = 0.0

    alone.batch = lambda index: (  # type: ignore[method-assign]
        index,
        torch.cat([Regression.batch(alone, 2 * index + i)[1] for i in range(2)]),
    )
    train(alone, replace(CONFIG, keep_best=False), tmp_path / "alone", "alone")
    assert torch.allclose(first, _weights(alone), atol=1e-4)
