"""A tiny bundle of random weights, and a folder of good and bad recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gslm.bundle import write_manifest
from gslm.types import Fingerprint

N_UNITS = 8


def sweep(seconds: float, seed: int) -> np.ndarray:
    """A tone that glides, with noise: float32 (samples,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(16_000 * seconds)) / 16_000
    phase = 2 * np.pi * t * (100 + 40 * (seed % 7) + 200 * rng.uniform() * t)
    waveform = 0.3 * np.sin(phase) * np.abs(np.sin(5 * t)) + 0.02 * rng.standard_normal(len(t))
    return waveform.astype(np.float32)


def save_vocoder(folder: Path, fingerprint: Fingerprint) -> None:
    """A vocoder of random weights for units of `fingerprint`."""
    from gslm.vocoder.duration import DurationConfig, DurationPredictor
    from gslm.vocoder.generator import Generator, GeneratorConfig
    from gslm.vocoder.pitch import PitchConfig, PitchPredictor
    from gslm.vocoder.vocoder import Vocoder

    n_units = fingerprint.vocabulary_size
    Vocoder(
        Generator(GeneratorConfig(n_units, dim=16, unit_blocks=1, fine_blocks=1)),
        DurationPredictor(DurationConfig(n_units, dim=16, n_blocks=1)),
        PitchPredictor(PitchConfig(n_units, dim=16, n_blocks=1)),
        fingerprint,
    ).save(folder)


def save_bundle(folder: Path) -> None:
    """MFCC units of random centroids, a uLM and a vocoder of random weights."""
    from gslm.ulm import UnitLM
    from gslm.ulm.model import Decoder, DecoderConfig
    from gslm.units.encoders import MFCCEncoder
    from gslm.units.tokenizer import UnitTokenizer
    from gslm.units.unit_encoder import UnitEncoder

    torch.manual_seed(0)
    centroids = 4 * torch.randn(N_UNITS, 39)
    centroids[:, 0] -= 20
    unit_encoder = UnitEncoder(MFCCEncoder(), centroids)
    fingerprint = unit_encoder.fingerprint
    unit_encoder.save(folder / "units")
    UnitTokenizer.identity(N_UNITS, fingerprint).save(folder / "tokenizer")
    config = DecoderConfig(
        N_UNITS, dim=16, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=32, context=128
    )
    UnitLM(config, Decoder(config).eval(), fingerprint).save(folder / "ulm")
    save_vocoder(folder / "vocoder", fingerprint)
    write_manifest(folder, {"gslm": "test"})


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """A whole bundle; tests that damage one copy it first."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    save_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def mixed_audio(tmp_path_factory) -> Path:
    """Good recordings of many kinds beside bad ones, see `GOOD` and `BAD` in test_inference."""
    root = tmp_path_factory.mktemp("mixed audio")
    for name in ("ann", "bob", "größe 日本"):
        (root / name).mkdir()
    soundfile.write(root / "ann" / "one.wav", sweep(0.6, 1), 16_000)
    soundfile.write(root / "bob" / "one.wav", sweep(0.8, 2), 16_000)
    soundfile.write(root / "größe 日本" / "clip one.flac", sweep(0.5, 3), 16_000)
    soundfile.write(root / "narrow.wav", sweep(1.0, 4)[::2], 8_000)
    wide = np.repeat(sweep(0.5, 5), 3)
    soundfile.write(root / "wide.wav", np.stack([wide, wide], 1), 48_000, subtype="PCM_24")
    soundfile.write(root / "packed.mp3", sweep(0.7, 6), 16_000)
    soundfile.write(root / "silent.wav", np.zeros(8_000, np.float32), 16_000)
    soundfile.write(root / "loud.wav", 4 * sweep(0.5, 7), 16_000, subtype="FLOAT")
    soundfile.write(root / "sample.wav", np.array([0.1], np.float32), 16_000)
    soundfile.write(root / "zero.wav", np.zeros(0, np.float32), 16_000)
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("not audio " * 50)
    broken = sweep(0.5, 8)
    broken[100] = np.nan
    soundfile.write(root / "nan.wav", broken, 16_000, subtype="FLOAT")
    return root
