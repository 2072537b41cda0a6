"""The demo's picture: waveform, mel spectrogram, units over time, the continuation's units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gslm.audio import SAMPLE_RATE, Waveform
from gslm.bundle import write_atomically
from gslm.spectral import mel_filterbank, stft
from gslm.speech_lm import Continuation
from gslm.types import Units

_N_FFT, _HOP_LENGTH, _N_MELS = 1024, 160, 80


def draw_demo(
    path: Path,
    waveform: Waveform,
    units: Units,
    resynthesis: Waveform,
    continuation: Continuation,
) -> None:
    """Write a PNG of a clip, its units and resynthesis, and a continuation.

    waveform, resynthesis: (samples,) at 16 kHz; units: of the waveform.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 11), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(6, 1, height_ratios=[1, 2, 0.7, 2, 2, 0.7])
    _draw_waveform(axes[0], waveform, "recording")
    _draw_mel(axes[1], waveform, "recording, mel spectrogram")
    _draw_units(axes[2], units, "its units")
    _draw_mel(axes[3], resynthesis, "resynthesis from the units")
    _draw_mel(axes[4], continuation.waveform, "a continuation (the prompt ends at the line)")
    axes[4].axvline(continuation.prompt_samples / SAMPLE_RATE, color="white", linewidth=1.5)
    _draw_units(axes[5], continuation.units, "units of prompt and continuation")
    axes[5].axvline(continuation.prompt_samples / SAMPLE_RATE, color="black", linewidth=1.5)
    axes[5].set_xlabel("seconds")
    write_atomically(path, lambda target: figure.savefig(target, dpi=100, format="png"))


def _draw_waveform(axes: Any, waveform: Waveform, title: str) -> None:
    seconds = np.arange(len(waveform)) / SAMPLE_RATE
    axes.plot(seconds, waveform, linewidth=0.4, color="#30507a")
    axes.set(title=title, xlim=(0, seconds[-1]), yticks=[])


def _draw_mel(axes: Any, waveform: Waveform, title: str) -> None:
    extent = (0, len(waveform) / SAMPLE_RATE, 0, _N_MELS)
    axes.imshow(log_mel(waveform), origin="lower", aspect="auto", cmap="magma", extent=extent)
    axes.set(title=title, ylabel="mel band")


def _draw_units(axes: Any, units: Units, title: str) -> None:
    """One coloured stretch a unit, numbered where there is room."""
    from matplotlib import colormaps

    colours = colormaps["hsv"]
    durations = units.durations if units.durations is not None else np.ones(len(units), np.int32)
    ends = np.cumsum(durations) / units.fingerprint.frame_rate
    for unit, duration, end in zip(units.ids.tolist(), durations.tolist(), ends, strict=True):
        width = duration / units.fingerprint.frame_rate
        colour = colours((unit * 0.618034) % 1.0)
        axes.barh(0, width, left=end - width, height=1, color=colour)
        if width > 0.012 * ends[-1]:
            axes.text(end - width / 2, 0, str(unit), ha="center", va="center", fontsize=6)
    axes.set(title=title, xlim=(0, ends[-1]), ylim=(-0.5, 0.5), yticks=[])


def log_mel(waveform: Waveform) -> NDArray[np.float32]:
    """Log-mel spectrogram in dB, (80, frames), floored 80 dB under its maximum."""
    spectrum = stft(torch.from_numpy(waveform)[None], _N_FFT, _HOP_LENGTH)[0].abs()
    mel = mel_filterbank(_N_MELS, _N_FFT, SAMPLE_RATE) @ spectrum
    decibels = 20 * torch.log10(mel.clamp_min(1e-6))
    return decibels.clamp_min(decibels.max() - 80).numpy()
