"""What every benchmark says of the machine: its rate of products, and the memory of a process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch


def matmul_rate(dtype: torch.dtype = torch.float32) -> float:
    """Best of five 2048^3 products of `dtype`, in GFLOP/s."""
    left = torch.randn(2048, 2048, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best / 1e9


def peak_memory() -> float:
    """Peak resident memory of this process alone, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count that of the parent before it became another
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
