"""The sound source that the vocoder shapes: pulses at the pitch, and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from gslm.audio import SAMPLE_RATE

_NOISE_BLOCK = 16_000
_UNVOICED_HZ = 100.0


def fill_unvoiced(f0: Tensor) -> Tensor:
    """Give unvoiced frames the pitch of the last voiced one, or of the first after them.

    f0: Hz (batch, frames), 0 where unvoiced; returns the same shape without zeros.
    """
    index = torch.arange(f0.shape[1], device=f0.device).expand_as(f0)
    last = torch.where(f0 > 0, index, -1).cummax(dim=1).values
    first = torch.where(f0 > 0, index, f0.shape[1]).amin(dim=1, keepdim=True)
    source = torch.where(last < 0, first.clamp(max=f0.shape[1] - 1), last)
    filled = f0.gather(1, source)
    return torch.where(filled > 0, filled, _UNVOICED_HZ)


def phase_turns(filled_f0: Tensor, hop_length: int) -> Tensor:
    """Running phase of the fundamental in turns, float64 (batch, frames * hop_length).

    filled_f0: Hz (batch, frames) without zeros; a frame's value holds at its middle, and the
    pitch moves linearly from one to the next.
    """
    return torch.cumsum(_interpolated(filled_f0, hop_length).double() / SAMPLE_RATE, dim=1)


def harmonic_pulses(turns: Tensor, filled_f0: Tensor, voiced: Tensor, hop_length: int) -> Tensor:
    """All harmonics below the Nyquist frequency, as one band-limited pulse train.

    turns: from `phase_turns`; filled_f0: Hz (batch, frames); voiced: 1 or 0 (batch, frames).
    Returns samples (batch, frames * hop_length) of unit power where voiced. The sum of cosines
    has the closed form of Dirichlet's kernel, so its cost does not grow with their number.
    """
    samples_f0 = _interpolated(filled_f0, hop_length)
    gate = _interpolated(voiced, hop_length)
    # Phases about zero, where the pulse is, are the ones that float32 resolves best.
    phase = ((turns - turns.round()) * (2 * torch.pi)).float()
    count = torch.floor(0.5 * SAMPLE_RATE / samples_f0.clamp_min(1.0) - 0.5)
    sine = torch.sin(0.5 * phase)
    near_zero = sine.abs() < 1e-4
    kernel = torch.sin((count + 0.5) * phase) / torch.where(near_zero, 1.0, 2 * sine) - 0.5
    kernel = torch.where(near_zero, count, kernel)
    return gate * kernel * torch.sqrt(2.0 / count.clamp_min(1.0))


def seeded_noise(seed: int, start: int, stop: int) -> Tensor:
    """Gaussian noise float32 (stop - start,) that depends on the seed and sample numbers only.

    Any two stretches agree where they overlap, so that sound made in pieces has no seams.
    """
    blocks = []
    for block in range(start // _NOISE_BLOCK, -(-stop // _NOISE_BLOCK)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + block) % 2**63)
        blocks.append(torch.randn(_NOISE_BLOCK, generator=generator))
    first = start // _NOISE_BLOCK * _NOISE_BLOCK
    return torch.cat(blocks)[start - first : stop - first] if blocks else torch.zeros(0)


def _interpolated(frames: Tensor, hop_length: int) -> Tensor:
    """Straight lines between the middles of frames (batch, n): (batch, n * hop_length).

    Written out rather than left to F.interpolate, whose float32 positions lose their fraction
    in long sequences.
    """
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    after = torch.cat([frames[:, 1:], frames[:, -1:]], dim=1)
    steps = torch.arange(hop_length, device=frames.device, dtype=frames.dtype)
    offset = (steps + 0.5) / hop_length - 0.5
    rise = (frames - before)[..., None] * offset.clamp(max=0)
    rise += (after - frames)[..., None] * offset.clamp(min=0)
    return (frames[..., None] + rise).flatten(1)
