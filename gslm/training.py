"""The one training loop: every stage gives it a `Task`."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from gslm.checkpoints import Checkpoints, read_modules, read_state, write_modules
from gslm.errors import UserError
from gslm.processes import (
    any_process,
    average_gradients,
    copy_from_first,
    random_states,
    restore_random_states,
    this_process,
    value_of_first,
)
from gslm.training_config import TrainingConfig, learning_rate_factor
from gslm.training_log import TrainingLog

__all__ = [
    "Task",
    "TrainingConfig",
    "TrainingInterruptedError",
    "TrainingResult",
    "has_bfloat16",
    "learning_rate_factor",
    "train",
]


class Task(Protocol):
    """What a stage gives the loop."""

    modules: dict[str, nn.Module]
    """What is trained and kept in checkpoints; in validation, their moving averages stand here."""
    optimizers: dict[str, torch.optim.Optimizer]
    """One optimizer or, as a GAN needs, several."""

    def batch(self, index: int) -> Any:
        """Micro-batch number `index`: a pure function of it, so that a run resumes exactly."""

    def losses(self, batch: Any, step: int) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """Yield (optimizer, loss, figures for the log); each is stepped before the next."""

    def validate(self) -> dict[str, float]:
        """Held-out figures, `loss` (lower is better) among them."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training reached."""

    best_loss: float
    """Lowest held-out loss."""
    best_step: int
    """Step at which it was found."""
    steps: int
    """Steps done."""
    seconds: float
    """Seconds spent, those before an interruption included."""


class TrainingInterruptedError(UserError):
    """Training was asked to stop; a checkpoint was written."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices with instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(check and check())
    return False


def train(task: Task, config: TrainingConfig, folder: str | Path, name: str) -> TrainingResult:
    """Train `task` and leave its best weights in `task.modules`, in eval mode.

    folder: checkpoints, `log.jsonl` and TensorBoard files, on a disk that all processes share;
    a run found there goes on exactly where its last whole checkpoint stands. name: the label of
    the progress bar. Started by `torchrun` or `accelerate launch`, every process takes its share
    of the batches. Raises `UserError` for a loss that is not finite (with the step and batch),
    a full disk and a folder with another model's run, and `TrainingInterruptedError` after
    SIGTERM or SIGINT, once a checkpoint is written.
    """
    return _Run(task, config, Path(folder), name).run()


class _Run:
    """State of one training run; its methods stand in the order in which they are used."""

    def __init__(self, task: Task, config: TrainingConfig, folder: Path, name: str) -> None:
        self.task, self.config, self.folder, self.name = task, config, folder, name
        self.checkpoints = Checkpoints(folder, config.keep_checkpoints)
        self.process = this_process()
        # Precision is the loop's own autocast: accelerate fixes one a process, stages differ.
        self.bfloat16 = config.mixed_precision == "bf16" or (
            config.mixed_precision == "auto" and has_bfloat16(self.process.device)
        )
        self.step = self.saved_step = 0
        self.best_loss, self.best_step, self.stale = math.inf, 0, 0
        self.seconds = 0.0
        self.stop_signal: int | None = None

    def run(self) -> TrainingResult:
        started = time.monotonic()
        self._prepare()
        self._resume()
        seconds_before = self.seconds
        with ExitStack() as stack:
            stack.enter_context(self._catching_signals())
            pool = stack.enter_context(ThreadPoolExecutor(1))
            active = self.process.is_main_process
            log = stack.enter_context(TrainingLog(self.folder, self.step, active))
            bar = stack.enter_context(
                tqdm(
                    total=self.config.steps,
                    initial=self.step,
                    desc=self.name,
                    unit="step",
                    disable=not active,
                )
            )
            upcoming: Future[Any] | None = None
            while not self._finished():
                figures: dict[str, list[float]] = defaultdict(list)
                for micro in range(self.config.accumulate):
                    index = self._batch_index(micro)
                    upcoming = upcoming or pool.submit(self.task.batch, index)
                    batch = upcoming.result()
                    following = index + self.process.num_processes
                    upcoming = pool.submit(self.task.batch, following)
                    self._micro_step(batch, micro, index, figures)
                self.step += 1
                self.seconds = seconds_before + time.monotonic() - started
                bar.update()
                self._after_step({k: sum(v) / len(v) for k, v in figures.items()}, bar, log)
            if upcoming is not None:
                upcoming.cancel()
        self._stop_if_asked()
        self._load_best()
        return TrainingResult(self.best_loss, self.best_step, self.step, self.seconds)

    def _prepare(self) -> None:
        # Each process draws its own dropout, and starts from the first one's weights.
        torch.manual_seed(self.config.seed + self.process.process_index)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot make this folder ({error})") from None
        modules = self.task.modules
        self.home = {key: _device_of(module) for key, module in modules.items()}
        for module in modules.values():
            module.to(self.process.device)
        copy_from_first(modules.values())
        self.schedulers = {
            key: LambdaLR(optimizer, lambda step: learning_rate_factor(self.config, step))
            for key, optimizer in self.task.optimizers.items()
        }
        self.average = (
            {k: copy.deepcopy(m).requires_grad_(False) for k, m in modules.items()}
            if self.config.ema_decay
            else None
        )

    def _resume(self) -> None:
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            # Left by a run that was killed before its first checkpoint.
            if self.process.is_main_process:
                self._best_path.unlink(missing_ok=True)
            return
        read_modules(checkpoint / "modules.safetensors", self.task.modules)
        if self.average is not None:
            read_modules(checkpoint / "average.safetensors", self.average)
        state, progress = read_state(checkpoint)
        for key, optimizer in self.task.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][key])
            self.schedulers[key].load_state_dict(state["schedulers"][key])
        restore_random_states(state["random"])
        self.step = self.saved_step = progress["step"]
        self.stale, self.seconds = progress["stale"], progress["seconds"]
        self.best_step = progress["best_step"]
        self.best_loss = math.inf if progress["best_loss"] is None else progress["best_loss"]

    def _finished(self) -> bool:
        out_of_patience = 0 < self.config.patience <= self.stale
        return self.step >= self.config.steps or out_of_patience

    def _autocast(self) -> torch.autocast:
        device = self.process.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.bfloat16)

    def _batch_index(self, micro: int) -> int:
        """Number of this process' micro-batch: processes take turns."""
        done = self.step * self.config.accumulate + micro
        return done * self.process.num_processes + self.process.process_index

    def _micro_step(
        self, batch: Any, micro: int, index: int, figures: dict[str, list[float]]
    ) -> None:
        last = micro == self.config.accumulate - 1
        for module in self.task.modules.values():
            module.train()
        losses = self.task.losses(batch, self.step)
        while True:
            with self._autocast():
                found = next(losses, None)
            if found is None:
                return
            key, loss, extra = found
            value = float(loss.detach())
            if not math.isfinite(value):
                raise UserError(
                    f"{self.name}: loss is {value} at step {self.step}, batch {index}; "
                    "lower the learning rate or look at the data of that batch "
                    f"(checkpoints are in {self.folder})"
                )
            (loss / self.config.accumulate).backward()
            for figure, value in extra.items():
                figures[figure].append(value)
            if last:
                self._update(key)

    def _update(self, key: str) -> None:
        optimizer = self.task.optimizers[key]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        if self.config.clip_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.schedulers[key].step()

    def _after_step(self, figures: dict[str, float], bar: Any, log: TrainingLog) -> None:
        config = self.config
        self._update_average()
        if self.step % config.log_every == 0 or self.step == 1:
            rates = {f"lr_{key}": s.get_last_lr()[0] for key, s in self.schedulers.items()}
            log.write(self.step, self.seconds, figures | rates)
            bar.set_postfix({key: f"{value:.3g}" for key, value in figures.items()})
        if self.step % config.validate_every == 0 or self.step == config.steps:
            log.write(self.step, self.seconds, self._validate())
        if self.step % config.checkpoint_every == 0 or self._finished():
            self._save_checkpoint()
        self._stop_if_asked()

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        # A young average follows the weights quickly, so that short runs profit too.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for key, averaged in self.average.items():
            # Parameters and buffers, not the state: tied weights must be moved once.
            pairs = zip(_values(averaged), _values(self.task.modules[key]), strict=True)
            for value, current in pairs:
                if value.is_floating_point():
                    value.lerp_(current, 1 - decay)
                else:
                    value.copy_(current)

    def _validate(self) -> dict[str, float]:
        trained = dict(self.task.modules)
        self.task.modules.update(self.average or {})
        for module in self.task.modules.values():
            module.eval()
        with torch.no_grad(), self._autocast():
            figures = self.task.validate()
        self.task.modules.update(trained)
        loss = value_of_first(figures["loss"])
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.stale = loss, self.step, 0
            if self.process.is_main_process:
                write_modules(self._best_path, self.average or self.task.modules)
        else:
            self.stale += 1
        return {f"held_out_{key}": value for key, value in figures.items()}

    @property
    def _best_path(self) -> Path:
        return self.folder / "best.safetensors"

    def _save_checkpoint(self) -> None:
        random = random_states()
        if self.process.is_main_process:
            weights = {"modules": self.task.modules}
            if self.average is not None:
                weights["average"] = self.average
            state = {
                "optimizers": {k: o.state_dict() for k, o in self.task.optimizers.items()},
                "schedulers": {k: s.state_dict() for k, s in self.schedulers.items()},
                "random": random,
            }
            progress = {
                "step": self.step,
                "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
                "best_step": self.best_step,
                "stale": self.stale,
                "seconds": self.seconds,
            }
            self.checkpoints.save(self.step, weights, state, progress)
        self.saved_step = self.step

    def _stop_if_asked(self) -> None:
        if not any_process(self.stop_signal is not None):
            return
        if self.saved_step != self.step:
            self._save_checkpoint()
        raise TrainingInterruptedError(
            f"{self.name}: stopped at step {self.step} of {self.config.steps}; "
            "run the same command again to go on"
        )

    def _load_best(self) -> None:
        self.process.wait_for_everyone()
        use_best = self.config.keep_best and self._best_path.is_file()
        if use_best:
            read_modules(self._best_path, self.task.modules)
        for key, module in self.task.modules.items():
            if self.average is not None and not use_best:
                module.load_state_dict(self.average[key].state_dict())
            module.to(self.home[key]).eval()

    def _catching_signals(self) -> ExitStack:
        stack = ExitStack()
        if threading.current_thread() is not threading.main_thread():
            return stack

        def remember(number: int, _frame: FrameType | None) -> None:
            # Launchers may repeat SIGTERM; a second Ctrl-C means at once.
            if self.stop_signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_signal = number

        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.signal(number, remember)
            stack.callback(signal.signal, number, previous)
        return stack


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


def _values(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
