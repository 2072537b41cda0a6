"""Training of soft units: from features to the hard units of the same encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gslm.bundle import read_json, write_json
from gslm.errors import UserError
from gslm.processes import this_process
from gslm.settings import to_toml
from gslm.training import train
from gslm.training_config import TrainingConfig
from gslm.units.fit import frames_in_hours
from gslm.units.normalization import feature_statistics
from gslm.units.quantizers.kmeans import assign
from gslm.units.recordings import Reading, files_hash
from gslm.units.soft import SoftConfig, SoftUnits, frame_units
from gslm.units.soft_data import DATA_MARKER, SoftData, in_blocks, prepare_soft_data
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder

_VALIDATION_ROWS = 8192


@dataclass(frozen=True)
class SoftTraining:
    """How soft units are trained."""

    dim: int = 64
    """Size of a soft unit."""
    temperature: float = 0.1
    """What cosines are divided by before the softmax."""
    max_hours: float = 2.0
    """Audio that is learned from, in hours, taken from recordings in random order."""
    batch_size: int = 512
    """Frames in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    loop: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=1200))
    """The training loop's settings."""

    def __post_init__(self) -> None:
        SoftConfig(1, 1, self.dim, self.temperature)  # checks both
        if self.batch_size < 1 or not self.learning_rate > 0:
            raise UserError(
                f"soft units: batch_size {self.batch_size} must be at least 1 and learning_rate "
                f"{self.learning_rate} above 0"
            )


def train_soft(
    units: UnitEncoder,
    audio_root: str | Path,
    ids: Sequence[str],
    settings: SoftTraining,
    folder: str | Path,
    reading: Reading | None = None,
    progress: bool = True,
) -> SoftUnits:
    """Train soft units on recordings and give them to `units`.

    ids: the recordings, relative to the root; they need not be those that the hard units were
    fitted on. reading: which part of a recording is used. folder: features, checkpoints and logs;
    a run found there goes on. Raises `UserError` for units of syllables, recordings that cannot
    be used, and a folder that holds another run.
    """
    if isinstance(units.coarsening, Syllables):
        raise UserError("soft units are one a frame; give units that are not syllables")
    if this_process().num_processes > 1:
        raise UserError("soft units are trained by one process; start the command by itself")
    folder = Path(folder)
    max_frames = frames_in_hours(settings.max_hours, units.encoder.hop_length)
    reading = reading or Reading()
    _claim(folder, units, Path(audio_root), ids, settings, reading)
    data = prepare_soft_data(
        units.encoder,
        units.normalization,
        audio_root,
        ids,
        folder / "data",
        max_frames=max_frames,
        seed=settings.loop.seed,
        reading=reading,
        progress=progress,
    )
    units.soft_units = fit_soft(units, data, settings, folder / "training")
    return units.soft_units


def fit_soft(
    units: UnitEncoder, data: SoftData, settings: SoftTraining, folder: str | Path
) -> SoftUnits:
    """Soft units of prepared data, without giving them to `units`.

    data: of the encoder and normalisation of `units`. folder: checkpoints and logs.
    """
    torch.manual_seed(settings.loop.seed)
    soft = SoftUnits(
        SoftConfig(units.encoder.dim, len(units.centroids), settings.dim, settings.temperature)
    )
    task = SoftTask(data, units, soft, settings)
    statistics = feature_statistics(map(task.normalize, in_blocks(data.train)))
    soft.mean.copy_(statistics.mean)
    soft.deviation.copy_(statistics.deviation)
    train(task, settings.loop, folder, "soft units")
    return soft


def _claim(
    folder: Path,
    units: UnitEncoder,
    root: Path,
    ids: Sequence[str],
    settings: SoftTraining,
    reading: Reading,
) -> None:
    """Keep beside a run what it is made of; another may not go on from its checkpoints."""
    path = folder / "run.json"
    identity = {
        "units": frame_units(units.fingerprint).to_json(),
        "recordings": files_hash(root, sorted(ids)),
        "settings": to_toml(settings),
    } | reading.to_source()
    # Without features there is nothing to mix: a run that failed before may be mended.
    begun = (folder / "data" / DATA_MARKER).exists()
    if begun and not (path.is_file() and read_json(path) == identity):
        raise UserError(
            f"{folder}: holds a run with other settings (a changed number of steps counts), units "
            "or recordings; choose another output or delete this folder"
        )
    write_json(path, identity)


class SoftTask:
    """Cross-entropy of each frame's hard unit."""

    def __init__(
        self, data: SoftData, units: UnitEncoder, soft: SoftUnits, settings: SoftTraining
    ) -> None:
        self.units, self.settings, self.features = units, settings, data.train
        self.modules: dict[str, nn.Module] = {"soft": soft}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "soft": torch.optim.AdamW(soft.parameters(), lr=settings.learning_rate)
        }
        self.hard = self._hard(data.train)
        # At even distances: all of them where they are few.
        n = len(data.held_out)
        spread = np.unique(np.linspace(0, n - 1, min(n, _VALIDATION_ROWS)).astype(np.int64))
        self.held_out = self._rows(data.held_out, self._hard(data.held_out), spread)

    def normalize(self, frames: Tensor) -> Tensor:
        """Frames from disk (n, dim), still to be normalised by the units' statistics, if any."""
        return self.units.statistics.normalize(frames) if self.units.statistics else frames

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Features (n, dim) and units (n,) of frames drawn by (seed, index)."""
        rng = np.random.default_rng([self.settings.loop.seed, index])
        drawn = np.sort(rng.integers(0, len(self.hard), self.settings.batch_size))
        return self._rows(self.features, self.hard, drawn)

    def losses(self, batch: Any, _step: int) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """One update of the network."""
        loss, agreement = self._compare(batch)
        yield "soft", loss, {"loss": float(loss.detach()), "agreement": agreement}

    def validate(self) -> dict[str, float]:
        """Held-out loss, and agreement with the hard units."""
        loss, agreement = self._compare(self.held_out)
        return {"loss": float(loss), "agreement": agreement}

    def _compare(self, batch: Any) -> tuple[Tensor, float]:
        soft = self.modules["soft"]
        assert isinstance(soft, SoftUnits)
        features, units = (part.to(soft.mean.device) for part in batch)
        logits = soft.logits(soft(features))
        agreement = float((logits.argmax(dim=-1) == units).float().mean())
        return F.cross_entropy(logits.float(), units), agreement

    def _hard(self, features: NDArray[np.float32]) -> Tensor:
        """Hard units int64 (n,) of features from disk."""
        blocks = map(self.normalize, in_blocks(features))
        return torch.cat([assign(block, self.units.centroids) for block in blocks])

    def _rows(
        self, features: NDArray[np.float32], hard: Tensor, chosen: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        return self.normalize(torch.from_numpy(features[chosen])), hard[torch.from_numpy(chosen)]
