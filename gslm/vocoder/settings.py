"""How a vocoder is built and trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from gslm.training_config import TrainingConfig


@dataclass(frozen=True)
class ProsodyTraining:
    """How durations and pitch are learned."""

    batch_size: int = 16
    """Crops in a step."""
    crop_frames: int = 200
    """Frames (1/50 s) of a crop."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    loop: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=1500, validate_every=100, checkpoint_every=100, patience=3, ema_decay=0.99
        )
    )
    """The training loop's settings."""


@dataclass(frozen=True)
class GeneratorTraining:
    """How the generator is trained."""

    batch_size: int = 8
    """Crops in a step."""
    crop_frames: int = 50
    """Frames (1/50 s) of a crop."""
    learning_rate: float = 8e-4
    """Peak learning rate of the generator."""
    discriminator_learning_rate: float = 5e-4
    """Peak learning rate of the discriminators."""
    adversarial_from: int = 1800
    """Step from which the discriminators take part."""
    adversarial_frames: int = 25
    """Frames of the part of each crop that the discriminators see."""
    mel_weight: float = 5.0
    """Weight of the multi-scale mel distance."""
    spectral_weight: float = 1.0
    """Weight of the multi-resolution spectral distance."""
    consistency_weight: float = 4.0
    """Weight of the distance between the unit encoder's features of made and real audio, where
    the encoder is given: what is said should be heard as the same units."""
    adversarial_weight: float = 1.0
    """Weight of the adversarial loss."""
    feature_weight: float = 2.0
    """Weight of the distance between the discriminators' features."""
    loop: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=2600,
            validate_every=200,
            checkpoint_every=200,
            ema_decay=0.999,
            keep_best=False,
            clip_norm=5.0,
        )
    )
    """The training loop's settings."""


@dataclass(frozen=True)
class VocoderSize:
    """Sizes of the vocoder's networks."""

    generator_dim: int = 320
    """Channels of the generator."""
    unit_blocks: int = 6
    """The generator's blocks at 50 frames a second."""
    fine_blocks: int = 5
    """The generator's blocks at 100 frames a second."""
    prosody_dim: int = 160
    """Channels of the duration and pitch predictors."""
    discriminator_channels: int = 32
    """Channels of the discriminators."""


@dataclass(frozen=True)
class VocoderTraining:
    """All of the vocoder's settings."""

    size: VocoderSize = field(default_factory=VocoderSize)
    """Sizes of the networks."""
    n_views: int = 5
    """Other views of the audio that the vocoder learns from, where it is given the encoder."""
    prosody: ProsodyTraining = field(default_factory=ProsodyTraining)
    """Durations and pitch."""
    generator: GeneratorTraining = field(default_factory=GeneratorTraining)
    """The waveform."""
