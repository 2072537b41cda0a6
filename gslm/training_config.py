"""Settings of the training loop, without torch, so that `--help` and settings load quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gslm.errors import UserError

_SCHEDULES = ("cosine", "wsd", "constant")
_PRECISIONS = ("auto", "no", "bf16")


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how a task is trained."""

    steps: int
    """Optimizer steps."""
    accumulate: int = 1
    """Micro-batches added up for one step."""
    clip_norm: float = 1.0
    """Largest norm of the gradients; 0 leaves them."""
    schedule: str = "cosine"
    """Learning rate after warm-up: `cosine`, `wsd` (stable, then a linear decay) or `constant`."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    final_fraction: float = 0.05
    """Learning rate at the end as a fraction of the peak."""
    decay_fraction: float = 0.2
    """Part of the steps in which `wsd` decays."""
    validate_every: int = 200
    """Steps between validations."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    keep_checkpoints: int = 1
    """Whole checkpoints kept on disk."""
    patience: int = 0
    """Validations without progress after which training stops; 0 never stops early."""
    keep_best: bool = True
    """End with the weights of the best validation rather than the last."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is kept; 0 keeps none."""
    mixed_precision: str = "auto"
    """`no`, `bf16`, or `auto`: bf16 where the processor or GPU has the instructions."""
    log_every: int = 20
    """Steps between lines of the log."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "accumulate",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"training: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("clip_norm", "warmup_steps", "patience", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"training: {name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"training: ema_decay must be in [0, 1), not {self.ema_decay}")
        if self.schedule not in _SCHEDULES:
            raise UserError(f"no schedule {self.schedule!r}; choose {', '.join(_SCHEDULES)}")
        if self.mixed_precision not in _PRECISIONS:
            known = ", ".join(_PRECISIONS)
            raise UserError(f"no mixed_precision {self.mixed_precision!r}; choose {known}")


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Learning rate of `step` (from 0) as a fraction of the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(1, config.steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "cosine":
        falling = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        falling = min(1.0, (1 - progress) / max(config.decay_fraction, 1e-9))
    return config.final_fraction + (1 - config.final_fraction) * falling
