"""What the training loop needs to learn the generator, by spectra and against discriminators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gslm.vocoder.data import Clips, Crops
from gslm.vocoder.discriminators import DiscriminatorConfig, Discriminators
from gslm.vocoder.excitation import seeded_noise
from gslm.vocoder.generator import UNIT_HOP, Generator
from gslm.vocoder.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_distance,
    mel_distance,
    spectral_distance,
)
from gslm.vocoder.settings import GeneratorTraining

Features = Callable[[Tensor], Tensor]
"""Samples (batch, samples) to a unit encoder's features (batch, frames, dim), differentiable."""


class GeneratorTask:
    """Learns the generator by spectral distances, later against discriminators as well."""

    def __init__(
        self,
        clips: Clips,
        generator: Generator,
        discriminators: DiscriminatorConfig,
        config: GeneratorTraining,
        features: Features | None = None,
    ) -> None:
        self.clips, self.config, self.features = clips, config, features
        self.modules: dict[str, nn.Module] = {
            "generator": generator,
            "discriminators": Discriminators(discriminators),
        }
        rates = {
            "generator": config.learning_rate,
            "discriminators": config.discriminator_learning_rate,
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            key: torch.optim.AdamW(
                module.parameters(), lr=rates[key], betas=(0.8, 0.98), weight_decay=0.01
            )
            for key, module in self.modules.items()
        }
        self.train_clips = clips.select(held_out=False)
        rng = np.random.default_rng(0)
        held_out = clips.select(held_out=True)
        self.validation = [clips.sample(held_out, 8, 100, rng) for _ in range(3)]

    def batch(self, index: int) -> Crops:
        """Crops drawn by (seed, index)."""
        config = self.config
        rng = np.random.default_rng([config.loop.seed, index])
        return self.clips.sample(
            self.train_clips, config.batch_size, config.crop_frames, rng, any_view=True
        )

    def losses(self, batch: Crops, step: int) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """Update the discriminators, once they take part, then the generator."""
        config = self.config
        batch = batch.to(next(self.modules["generator"].parameters()).device)
        made = self.modules["generator"](batch.units, batch.f0)
        with torch.autocast(made.device.type, enabled=False):
            mel = mel_distance(made, batch.audio)
            spectral = spectral_distance(made, batch.audio)
        loss = config.mel_weight * mel + config.spectral_weight * spectral
        figures = {"mel": float(mel.detach()), "spectral": float(spectral.detach())}
        if self.features is not None and config.consistency_weight:
            with torch.no_grad():
                wanted = self.features(batch.audio)
            consistency = (self.features(made) - wanted).abs().float().mean()
            loss = loss + config.consistency_weight * consistency.to(loss.device)
            figures["consistency"] = float(consistency.detach())
        if step >= config.adversarial_from:
            discriminators = self.modules["discriminators"]
            made_part, real_part = self._parts(made, batch.audio, step)
            discriminators.requires_grad_(True)
            judged = discriminators(torch.cat([real_part, made_part.detach()]))
            real, fake = _halves(judged)
            d_loss = discriminator_loss(real, fake)
            yield "discriminators", d_loss, {"discriminator": float(d_loss.detach())}
            discriminators.requires_grad_(False)
            with torch.no_grad():
                real = discriminators(real_part)
            fake = discriminators(made_part)
            adversarial, feature = adversarial_loss(fake), feature_distance(real, fake)
            loss = loss + config.adversarial_weight * adversarial + config.feature_weight * feature
            figures |= {
                "adversarial": float(adversarial.detach()),
                "feature": float(feature.detach()),
            }
        yield "generator", loss, figures

    def _parts(self, made: Tensor, real: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The same random stretch of what was made and what is real."""
        length = self.config.adversarial_frames * UNIT_HOP
        rng = np.random.default_rng([self.config.loop.seed, step, 1])
        start = int(rng.integers(0, max(1, made.shape[1] - length + 1)))
        return made[:, start : start + length], real[:, start : start + length]

    def validate(self) -> dict[str, float]:
        """Distances on held-out crops, with their true pitch."""
        rows = []
        device = next(self.modules["generator"].parameters()).device
        for crops in (crops.to(device) for crops in self.validation):
            noise = torch.stack([seeded_noise(i, 0, len(x)) for i, x in enumerate(crops.audio)])
            noise = noise.to(device)
            made = self.modules["generator"](crops.units, crops.f0, noise)
            with torch.autocast(made.device.type, enabled=False):
                rows.append(
                    [
                        float(mel_distance(made, crops.audio)),
                        float(spectral_distance(made, crops.audio)),
                    ]
                )
        mel, spectral = np.mean(rows, axis=0).tolist()
        return {"loss": mel + spectral, "mel": mel, "spectral": spectral}


def _halves(judged: list[tuple[Tensor, list[Tensor]]]) -> tuple[Any, Any]:
    first, second = [], []
    for score, features in judged:
        middle = len(score) // 2
        first.append((score[:middle], [f[:middle] for f in features]))
        second.append((score[middle:], [f[middle:] for f in features]))
    return first, second
