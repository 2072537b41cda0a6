"""A tiny synthetic corpus and a tiny vocoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gslm.audio import write_wav
from gslm.corpus import Corpus, CorpusRow, CorpusWriter
from gslm.types import Fingerprint, deduplicate
from gslm.vocoder import Vocoder
from gslm.vocoder.data import Clips, Crops, prepare_clips
from gslm.vocoder.duration import DurationConfig, DurationPredictor
from gslm.vocoder.generator import Generator, GeneratorConfig
from gslm.vocoder.pitch import PitchConfig, PitchPredictor

N_UNITS = 4
N_CLIPS = 20


@pytest.fixture(scope="session")
def fingerprint() -> Fingerprint:
    return Fingerprint("log-mel", "", 0, 50.0, "none", "0123456789abcdef", N_UNITS)


@pytest.fixture(scope="session")
def recordings(
    tmp_path_factory: pytest.TempPathFactory, fingerprint: Fingerprint
) -> tuple[Corpus, Path]:
    """Twenty clips of silence (unit 0), two harmonic tones (1, 2) and noise (3); audio root."""
    folder = tmp_path_factory.mktemp("synthetic")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(N_CLIPS):
        ids, sound = _clip(rng)
        # The last frame need not be full.
        sound = sound[: len(sound) - int(rng.integers(0, 320))]
        name = f"speaker {i % 2}/clip-{i:02d}.wav"
        write_wav(folder / "audio" / name, sound)
        units, durations = deduplicate(ids)
        rows.append(CorpusRow(name, units, durations, len(sound), f"speaker {i % 2}"))
    writer = CorpusWriter(folder / "corpus", fingerprint, {"root": "audio"})
    writer.write_shard(0, rows[:12])
    writer.write_shard(1, rows[12:])
    held_out = {row.id for row in rows[::5]}
    return writer.finish(2, held_out), folder / "audio"


def _clip(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    ids, parts = [], []
    for _ in range(int(rng.integers(3, 9))):
        unit, n_frames = int(rng.integers(N_UNITS)), int(rng.integers(4, 14))
        time = np.arange(n_frames * 320) / 16_000
        if unit == 0:
            part = np.zeros(len(time))
        elif unit == 3:
            part = 0.1 * rng.standard_normal(len(time))
        else:
            f0 = (120.0, 210.0)[unit - 1]
            part = 0.1 * sum(np.cos(2 * np.pi * k * f0 * time) / k for k in range(1, 20))
        ids += [unit] * n_frames
        parts.append(part)
    return np.array(ids, dtype=np.int32), np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, recordings: tuple[Corpus, Path]) -> Clips:
    corpus, audio_root = recordings
    return prepare_clips(corpus, audio_root, tmp_path_factory.mktemp("clips"))


@pytest.fixture
def vocoder(fingerprint: Fingerprint) -> Vocoder:
    """Random weights; loud enough to see differences, and voiced at moving pitches."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(N_UNITS, dim=24, unit_blocks=2, fine_blocks=2, n_fft=512))
    durations = DurationPredictor(DurationConfig(N_UNITS, dim=16, n_blocks=2))
    pitch = PitchPredictor(PitchConfig(N_UNITS, dim=16, n_blocks=2))
    with torch.no_grad():
        generator.head.bias.fill_(2.5)
        pitch.leave.weight *= 2
    return Vocoder(generator, durations, pitch, fingerprint)


@pytest.fixture(scope="session")
def whole_clip() -> Callable[[Clips, int], Crops]:
    """One whole clip as a batch of one."""

    def crops(clips: Clips, index: int) -> Crops:
        rng = np.random.default_rng(0)
        return clips.sample(np.array([index]), 1, int(clips.lengths[index]), rng)

    return crops
