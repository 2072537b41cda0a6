"""Synthesis speed of the vocoder beside a unit HiFi-GAN, in multiples of real time.

    python benchmarks/vocoder_speed.py [--bundle FOLDER] [--threads 2] [--repeats 5]

Both speak random units: a clip of about 4 seconds, and a minute. Weights do not change the
speed, so they are random unless a bundle is named. HiFi-GAN V1 stands here for timing only: the
generator of Kong et al. (2020) with the rates that 50 Hz units at 16 kHz call for (Polyak et
al. 2021), written from the papers. Prints the machine's float32 matmul rate, and for each model
the best and median speed by the wall clock, for a machine that is busy otherwise the speed by the
process' own CPU time, and peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import matmul_rate
from torch import Tensor, nn

from gslm.types import Fingerprint, Units
from gslm.vocoder import Vocoder
from gslm.vocoder.duration import DurationConfig, DurationPredictor
from gslm.vocoder.generator import Generator, GeneratorConfig
from gslm.vocoder.pitch import PitchConfig, PitchPredictor

N_UNITS = 200
FRAME_RATE = 50
LENGTHS = {"4 s": 4, "60 s": 60}


def main() -> None:
    """Run each model in a process of its own, so that peak memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="bundle or vocoder folder; else random weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["gslm", "hifi-gan"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        measure(arguments)
        return
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    rate = matmul_rate()
    print(
        f"load {load:.1f}; matmul 2048^3 float32, {arguments.threads} threads: {rate:.0f} GFLOP/s"
    )
    speeds = {}
    for model in ("gslm", "hifi-gan"):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", model]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(output, end="")
        speeds[model] = [float(line.split()[3]) for line in output.splitlines()[: len(LENGTHS)]]
    for name, ours, theirs in zip(LENGTHS, speeds["gslm"], speeds["hifi-gan"], strict=True):
        print(f"{name}: gslm is {ours / theirs:.1f} times as fast as HiFi-GAN V1")


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for each length, then the peak memory of this process."""
    if arguments.only == "gslm":
        vocoder = _vocoder(arguments.bundle)
        name, repeats = "gslm", arguments.repeats

        def speak(ids: np.ndarray) -> int:
            durations = np.ones(len(ids), dtype=np.int32)
            return len(vocoder.synthesize(Units(ids, durations, vocoder.fingerprint), False))
    else:
        generator = HifiGan(N_UNITS).eval()
        name, repeats = "hifi-gan", max(1, arguments.repeats // 3)

        def speak(ids: np.ndarray) -> int:
            with torch.inference_mode():
                return generator(torch.from_numpy(ids.astype(np.int64))[None]).shape[1]

    rng = np.random.default_rng(0)
    for length, seconds in LENGTHS.items():
        ids = rng.integers(0, N_UNITS, seconds * FRAME_RATE).astype(np.int32)
        wall, cpu = _times(lambda ids=ids: speak(ids), repeats)
        print(
            f"{name:9s} {length:>5s} {seconds / min(wall):7.1f} x real time at best, "
            f"{seconds / statistics.median(wall):.1f} median; by CPU time on "
            f"{arguments.threads} threads {seconds * arguments.threads / min(cpu):.1f}"
        )
    # Kilobytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"{name:9s} peak memory {peak:.0f} MB, torch included")


def _times(work: Callable[[], int], repeats: int) -> tuple[list[float], list[float]]:
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    return wall, cpu


def _vocoder(folder: Path | None) -> Vocoder:
    if folder is not None:
        return Vocoder.load(folder / "vocoder" if (folder / "vocoder").is_dir() else folder)
    torch.manual_seed(0)
    pitch = PitchPredictor(PitchConfig(N_UNITS))
    with torch.no_grad():
        pitch.leave.bias[::2] = 1.0  # Voiced, as speech mostly is.
    return Vocoder(
        Generator(GeneratorConfig(N_UNITS)),
        DurationPredictor(DurationConfig(N_UNITS)),
        pitch,
        Fingerprint("random", "", 0, float(FRAME_RATE), "none", "0" * 16, N_UNITS),
    )


class HifiGan(nn.Module):
    """Generator of unit HiFi-GAN V1: 50 Hz units to 16 kHz, without weight norm at inference."""

    rates, kernels = (5, 4, 4, 2, 2), (11, 8, 8, 4, 4)

    def __init__(self, n_units: int, embedding: int = 128, channels: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_units, embedding)
        self.enter = nn.Conv1d(embedding, channels, 7, padding=3)
        self.upsamplers, self.stages = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(self.rates, self.kernels, strict=True):
            upsampler = nn.ConvTranspose1d(
                channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2
            )
            channels //= 2
            self.upsamplers.append(upsampler)
            self.stages.append(nn.ModuleList(_Residual(channels, size) for size in (3, 7, 11)))
        self.leave = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, units: Tensor) -> Tensor:
        """Units int64 (batch, frames) to samples (batch, 320 * frames)."""
        x = self.enter(self.embedding(units).transpose(1, 2))
        for upsampler, blocks in zip(self.upsamplers, self.stages, strict=True):
            x = upsampler(F.leaky_relu(x, 0.1))
            x = torch.stack([block(x) for block in blocks]).mean(dim=0)
        return torch.tanh(self.leave(F.leaky_relu(x)))[:, 0]


class _Residual(nn.Module):
    """Three pairs of convolutions, the first of each dilated by 1, 3 and 5."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dilated, self.plain = nn.ModuleList(), nn.ModuleList()
        for dilation in (1, 3, 5):
            padding = (kernel - 1) // 2
            self.dilated.append(
                nn.Conv1d(channels, channels, kernel, 1, padding * dilation, dilation)
            )
            self.plain.append(nn.Conv1d(channels, channels, kernel, 1, padding))

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, 0.1)), 0.1))
        return x


if __name__ == "__main__":
    main()
