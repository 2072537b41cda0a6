"""Training of the vocoder: first its prosody (durations and pitch), then the generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gslm.bundle import read_json, write_json
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.settings import to_toml
from gslm.training import train
from gslm.vocoder.data import Clips, prepare_clips
from gslm.vocoder.discriminators import DiscriminatorConfig
from gslm.vocoder.duration import DurationConfig, DurationPredictor
from gslm.vocoder.generator import Generator, GeneratorConfig
from gslm.vocoder.generator_task import Features, GeneratorTask
from gslm.vocoder.pitch import PitchConfig, PitchPredictor
from gslm.vocoder.prosody_task import ProsodyTask
from gslm.vocoder.settings import VocoderTraining
from gslm.vocoder.views import EncodeFrames, add_views
from gslm.vocoder.vocoder import Vocoder


def train_vocoder(
    corpus: Corpus,
    audio_root: str | Path,
    settings: VocoderTraining,
    folder: str | Path,
    encode: EncodeFrames | None = None,
    features: Features | None = None,
) -> Vocoder:
    """Train a vocoder on a corpus and the audio that it was made from.

    folder: prepared clips, checkpoints and logs; a run found there goes on. encode: the corpus'
    own unit encoder, for more views of the audio (see `gslm.vocoder.views`); features: of the
    same encoder, for the consistency loss. Prints what a step
    of the generator's training costs before it starts. Raises `UserError` where audio is missing
    or a side of the split is empty, and, before anything is written, where the folder holds the
    run of another corpus or of other settings.
    """
    folder = Path(folder)
    _claim(folder, corpus, settings)
    clips = prepare_clips(corpus, audio_root, folder / "clips")
    for held_out in (False, True):
        if not len(clips.select(held_out)):
            side = "held-out" if held_out else "training"
            raise UserError(f"{corpus.folder}: no {side} recordings; give more audio")
    if encode is not None and settings.n_views:
        add_views(clips, encode, settings.n_views, folder / "views")
    durations, pitch = _train_prosody(clips, settings, folder / "prosody")
    generator = _train_generator(clips, settings, folder / "generator", features)
    return Vocoder(generator, durations, pitch, corpus.fingerprint)


def _claim(folder: Path, corpus: Corpus, settings: VocoderTraining) -> None:
    """Keep beside a run what it is made of; another may not go on from its checkpoints.

    Shapes alone would let it: they are the same for any corpus of as many units.
    """
    path = folder / "run.json"
    identity = {
        "fingerprint": corpus.fingerprint.to_json(),
        "corpus": read_json(corpus.folder / "corpus.json"),
        "settings": to_toml(settings),
    }
    # Without checkpoints there is nothing to mix: clips and views know what they were made of.
    begun = any((folder / stage).exists() for stage in ("prosody", "generator"))
    if begun and not (path.is_file() and read_json(path) == identity):
        raise UserError(
            f"{folder}: holds a run with other settings (a changed number of steps counts) or "
            "another corpus; choose another output or delete this folder"
        )
    write_json(path, identity)


def _train_prosody(
    clips: Clips, settings: VocoderTraining, folder: Path
) -> tuple[DurationPredictor, PitchPredictor]:
    torch.manual_seed(settings.prosody.loop.seed)
    dim = settings.size.prosody_dim
    durations = DurationPredictor(DurationConfig(clips.n_units, dim))
    pitch = PitchPredictor(PitchConfig(clips.n_units, dim))
    task = ProsodyTask(clips, durations, pitch, settings.prosody)
    train(task, settings.prosody.loop, folder, "durations and pitch")
    return durations, pitch


def _train_generator(
    clips: Clips, settings: VocoderTraining, folder: Path, features: Features | None
) -> Generator:
    torch.manual_seed(settings.generator.loop.seed)
    size = settings.size
    generator = Generator(
        GeneratorConfig(
            clips.n_units,
            dim=size.generator_dim,
            unit_blocks=size.unit_blocks,
            fine_blocks=size.fine_blocks,
        )
    )
    discriminators = DiscriminatorConfig(channels=size.discriminator_channels)
    task = GeneratorTask(clips, generator, discriminators, settings.generator, features)
    early, late = (step_flops(task, step) for step in (0, settings.generator.adversarial_from))
    print(
        f"  a step costs {early / 1e9:.0f} GFLOP, {late / 1e9:.0f} once the discriminators "
        f"take part (step {settings.generator.adversarial_from})"
    )
    train(task, settings.generator.loop, folder, "generator")
    return generator


def step_flops(task: GeneratorTask, step: int) -> int:
    """Floating-point operations of one training step's products, as torch counts them."""
    backward = {torch.ops.aten.convolution_backward: _convolution_gradient_flops}
    with FlopCounterMode(display=False, custom_mapping=backward) as counter:
        for _, loss, _ in task.losses(task.batch(0), step):
            loss.backward()
    for module in task.modules.values():
        module.zero_grad(set_to_none=True)
        module.requires_grad_(True)
    return counter.get_total_flops()


def _convolution_gradient_flops(
    gradient: Sequence[int], _input: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """As many again as the convolution's own for each gradient that is asked for.

    torch counts the weights' gradient of a depthwise convolution as if every channel met every
    other, which it does not compute.
    """
    wanted = rest[-1]
    return 2 * math.prod(weight) * gradient[0] * math.prod(gradient[2:]) * sum(wanted[:2])
