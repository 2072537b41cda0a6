"""Sounds that units tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gslm.audio import write_wav


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones that change every 100 ms, with noise: float32 (samples,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    n = max(1, round(16_000 * seconds))
    pitch = np.repeat(rng.choice([150, 300, 600, 1200, 2400], n // 1600 + 1), 1600)[:n]
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    return (tone + 0.01 * rng.standard_normal(n)).astype(np.float32)


def write_recordings(root: Path) -> Path:
    """Twelve clips of 2 to 3 seconds, a long recording, and a file that is none; the root."""
    for i in range(12):
        write_wav(root / f"{i:02d}.wav", sound(2.0 + 0.1 * i, i))
    write_wav(root / "long.wav", sound(70, 99))
    (root / "text.wav").write_text("no audio")
    return root
