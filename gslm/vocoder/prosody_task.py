"""What the training loop needs to learn durations and pitch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gslm.types import deduplicate
from gslm.vocoder.data import Clips, Crops
from gslm.vocoder.duration import DurationPredictor
from gslm.vocoder.pitch import PitchPredictor
from gslm.vocoder.settings import ProsodyTraining


class ProsodyTask:
    """Learns durations and pitch; the loss is the sum of both parts."""

    def __init__(
        self,
        clips: Clips,
        durations: DurationPredictor,
        pitch: PitchPredictor,
        config: ProsodyTraining,
    ) -> None:
        self.clips, self.config = clips, config
        self.modules: dict[str, nn.Module] = {"durations": durations, "pitch": pitch}
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "prosody": torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.05)
        }
        self.train_clips = clips.select(held_out=False)
        rng = np.random.default_rng(0)
        self.validation = [
            self._batch(clips.sample(clips.select(held_out=True), 16, config.crop_frames, rng))
            for _ in range(4)
        ]

    def _batch(self, crops: Crops) -> tuple[Crops, Tensor, Tensor]:
        sequences, durations = _deduplicated(crops.units, self.clips.n_units)
        return crops, sequences, durations

    def batch(self, index: int) -> Any:
        """Crops and their de-duplicated units, drawn by (seed, index)."""
        rng = np.random.default_rng([self.config.loop.seed, index])
        config = self.config
        return self._batch(
            self.clips.sample(
                self.train_clips, config.batch_size, config.crop_frames, rng, any_view=True
            )
        )

    def _losses(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        device = next(self.modules["durations"].parameters()).device
        crops, sequences, durations = (part.to(device) for part in batch)
        durations_loss = self.modules["durations"].loss(sequences, durations)  # type: ignore[operator]
        return durations_loss, *self.modules["pitch"].losses(crops.units, crops.f0)  # type: ignore[operator]

    def losses(self, batch: Any, _step: int) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """One update of both predictors."""
        duration, voicing, octaves = self._losses(batch)
        loss = duration + voicing + 4 * octaves
        parts = {"duration": duration, "voicing": voicing, "octave": octaves}
        yield "prosody", loss, {name: float(part.detach()) for name, part in parts.items()}

    def validate(self) -> dict[str, float]:
        """The same figures on held-out clips."""
        rows = [[float(x) for x in self._losses(batch)] for batch in self.validation]
        duration, voicing, octaves = np.mean(rows, axis=0).tolist()
        total = duration + voicing + 4 * octaves
        return {"loss": total, "duration": duration, "voicing": voicing, "octave": octaves}


def _deduplicated(units: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Unit frames (batch, frames) as padded sequences and durations, (batch, longest) each."""
    pairs = [deduplicate(row[row != padding].astype(np.int32)) for row in units.numpy()]
    longest = max(len(ids) for ids, _ in pairs)
    sequences = np.full((len(pairs), longest), padding, dtype=np.int64)
    durations = np.zeros((len(pairs), longest), dtype=np.int64)
    for row, (ids, lengths) in enumerate(pairs):
        sequences[row, : len(ids)] = ids
        durations[row, : len(ids)] = lengths
    return torch.from_numpy(sequences), torch.from_numpy(durations)
