"""Figures of a training run, as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from gslm.bundle import write_text
from gslm.errors import UserError


class TrainingLog:
    """Appends to `log.jsonl` and `tensorboard/`; rows after the step resumed from are dropped.

    Without that, the steps between the last checkpoint and a crash would be told twice.
    """

    def __init__(self, folder: Path, first_step: int, active: bool) -> None:
        """first_step: steps that were done before; active: False writes nothing."""
        self.path = folder / "log.jsonl"
        self.first_step, self.active = first_step, active

    def __enter__(self) -> TrainingLog:
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            kept = [line for line in self._old_lines() if _step_of(line) <= self.first_step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
            self.lines = self.path.open("a", encoding="utf-8")
            board = str(self.path.with_name("tensorboard"))
            self.board = SummaryWriter(board, purge_step=self.first_step + 1)
        return self

    def _old_lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        return self.path.read_text(encoding="utf-8", errors="replace").splitlines()

    def write(self, step: int, seconds: float, figures: dict[str, float]) -> None:
        """Add the figures of a step; seconds: of training so far."""
        if not self.active:
            return
        row = {"step": step, "seconds": round(seconds, 2)} | figures
        try:
            self.lines.write(json.dumps(row) + "\n")
            self.lines.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot write ({error}); free some space, "
                "then run the same command again"
            ) from None
        for key, value in figures.items():
            self.board.add_scalar(key, value, step)

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.lines.close()
            self.board.close()


def _step_of(line: str) -> float:
    """Step of a line of the log; infinite for one that a crash cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
