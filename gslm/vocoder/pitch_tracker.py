"""Fundamental frequency of recordings: normalised cross-correlation and a best path."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gslm.audio import SAMPLE_RATE, Waveform

HOP_LENGTH = 160
"""Samples between pitch values: 100 a second."""
F0_MIN, F0_MAX = 60.0, 500.0
_WINDOW = 640
_N_CANDIDATES = 6
_LOWEST_PEAK = 0.2
_VOICING_THRESHOLD = 0.45
_OCTAVE_COST = 0.02
_JUMP_COST = 0.7
_VOICING_COST = 0.12
_BLOCK_FRAMES = 512
"""Frames at a time: what they need stays in a processor's cache."""


def track_pitch(waveform: Waveform) -> NDArray[np.float32]:
    """Fundamental frequency in Hz of 16 kHz mono samples; 0 where unvoiced.

    Returns float32 (ceil(samples / 160),), frame i centred on sample 160 (i + 1/2). Candidates
    are peaks of the normalised cross-correlation; a Viterbi search picks the cheapest path
    (Talkin 1995, Boersma 1993).
    """
    n_frames = max(1, -(-len(waveform) // HOP_LENGTH))
    frequencies, strengths = [], []
    for first in range(0, n_frames, _BLOCK_FRAMES):
        last = min(n_frames, first + _BLOCK_FRAMES)
        block = _frames(waveform, first, last)
        candidate_f0, candidate_strength = _candidates(block)
        frequencies.append(candidate_f0)
        strengths.append(candidate_strength)
    return _best_path(np.concatenate(frequencies), np.concatenate(strengths))


def _frames(waveform: Waveform, first: int, last: int) -> torch.Tensor:
    """Frames first to last, each of window + longest lag samples."""
    length = _WINDOW + _longest_lag()
    start = first * HOP_LENGTH + HOP_LENGTH // 2 - length // 2
    stop = (last - 1) * HOP_LENGTH + HOP_LENGTH // 2 - length // 2 + length
    inside = waveform[max(0, start) : max(0, min(stop, len(waveform)))]
    left = max(0, -start)
    padded = np.pad(inside, (left, max(0, stop - start - left - len(inside))))
    return torch.from_numpy(padded).unfold(0, length, HOP_LENGTH)


def _longest_lag() -> int:
    return int(SAMPLE_RATE / F0_MIN) + 2


def _candidates(frames: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Peaks of the correlation: frequencies in Hz and heights, (frames, candidates) each."""
    correlation = _normalized_correlation(frames)
    shortest = int(SAMPLE_RATE / F0_MAX)
    middle = correlation[:, shortest:-1]
    before, after = correlation[:, shortest - 1 : -2], correlation[:, shortest + 1 :]
    is_peak = (middle > before) & (middle >= after) & (middle > _LOWEST_PEAK)
    # A multiple of the period correlates as well as the period: prefer the shorter lag a little.
    octaves = torch.log2(torch.arange(shortest, shortest + middle.shape[1]) / shortest)
    top, index = torch.where(is_peak, middle - _OCTAVE_COST * octaves, -1.0).topk(_N_CANDIDATES)
    # A parabola through each peak and its neighbours finds its place and height between samples;
    # without the height a bright voice would be heard where a multiple meets a whole lag.
    left, peak, right = (x.gather(1, index) for x in (before, middle, after))
    slope = 0.5 * (left - right)
    offset = (slope / (left - 2 * peak + right).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    height = torch.where(top > 0, top - 0.5 * slope * offset, 0.0)
    frequency = torch.where(top > 0, SAMPLE_RATE / (shortest + index + offset), 0.0)
    return frequency.numpy(), height.clamp(max=1.0).numpy()


def _normalized_correlation(frames: torch.Tensor) -> torch.Tensor:
    """Correlation of each frame's first window with the frame at lags 0 to the longest."""
    longest = _longest_lag()
    frames = frames - frames.mean(dim=1, keepdim=True)
    # No lag reaches beyond the frame's end, so a transform of the frame's length would do.
    n_fft = 2 ** int(np.ceil(np.log2(frames.shape[1])))
    spectrum = torch.fft.rfft(frames, n_fft)
    spectrum *= torch.fft.rfft(frames[:, :_WINDOW], n_fft).conj_physical_()
    product = torch.fft.irfft(spectrum, n_fft)[:, : longest + 1]
    squares = frames.square_()
    first = squares[:, :_WINDOW].sum(dim=1, keepdim=True)
    entering = squares[:, _WINDOW : _WINDOW + longest] - squares[:, :longest]
    # Sums of float32 may end a hair below zero where speech gives way to digital silence.
    energy = torch.cat([first, first + entering.cumsum(dim=1)], dim=1).clamp_min_(0)
    # The constant keeps near-silence from looking periodic (about -70 dB of full scale).
    floor = _WINDOW * 1e-7
    return product * torch.rsqrt((energy + floor) * (first + floor))


def _best_path(
    frequency: NDArray[np.float32], strength: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Viterbi over the candidates and an unvoiced state, which comes last."""
    n_frames, n_candidates = frequency.shape
    local = np.full((n_frames, n_candidates + 1), 1 - _VOICING_THRESHOLD)
    local[:, :-1] = np.where(frequency > 0, 1 - strength, np.inf)
    octaves = np.log2(np.maximum(frequency, 1.0))
    back = np.zeros((n_frames, n_candidates + 1), dtype=np.int64)
    total = local[0]
    for first in range(1, n_frames, _BLOCK_FRAMES):
        last = min(n_frames, first + _BLOCK_FRAMES)
        costs = _entering_costs(octaves[first - 1 : last], local[first:last])
        for i, cost in enumerate(costs, start=first):
            arriving = total[:, None] + cost
            arriving.argmin(axis=0, out=back[i])
            total = arriving.min(axis=0)
    states = np.empty(n_frames, dtype=np.int64)
    state = int(total.argmin())
    for i in range(n_frames - 1, -1, -1):
        states[i] = state
        state = back[i, state]
    pitch = np.concatenate([frequency, np.zeros((n_frames, 1), np.float32)], axis=1)
    return pitch[np.arange(n_frames), states]


def _entering_costs(
    octaves: NDArray[np.float32], local: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Costs [i, from, to] of entering frame i + 1 of those given, its own cost included.

    octaves: log2 of the candidates (frames + 1, candidates); local: each state's own cost
    (frames, candidates + 1).
    """
    n_states = local.shape[1]
    costs = np.full((len(local), n_states, n_states), _VOICING_COST)
    costs[:, :-1, :-1] = _JUMP_COST * np.abs(octaves[1:, None, :] - octaves[:-1, :, None])
    costs[:, -1, -1] = 0.0
    return costs + local[:, None, :]
