"""Naturalness without a reference: Distill-MOS of a folder of speech, clip by clip."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gslm.audio import Waveform, read_audio
from gslm.errors import UserError
from gslm.eval.bootstrap import Interval, ratio_interval
from gslm.eval.clips import collect_clips

_CROP_SAMPLES = 122_880  # 7.68 s at 16 kHz: what the model was trained on
_CROP_HOP_SAMPLES = 16_000
_BATCH = 8

Rate = Callable[[Waveform], float]


@dataclass(frozen=True)
class ClipScore:
    """Naturalness of one clip."""

    id: str
    """Path relative to the folder, without suffix."""
    mos: float
    """Predicted mean opinion score, 1 (bad) to 5 (excellent)."""
    seconds: float
    """Length of the clip."""


@dataclass(frozen=True)
class MosReport:
    """Naturalness of a folder."""

    clips: list[ClipScore]
    """One row a clip, sorted by id."""

    @property
    def mean(self) -> Interval:
        """Mean over clips with a 95 % bootstrap interval over clips."""
        return ratio_interval([c.mos for c in self.clips], np.ones(len(self.clips)))


def mean_opinion_score(audio_folder: Path, ids: Collection[str] | None = None) -> MosReport:
    """Rate the clips of a folder by Distill-MOS (Stahl & Gamper, 2025, arXiv:2502.05356).

    audio_folder: any formats, read one file at a time; ids: rate only these. Raises `UserError`
    where the package or clips are missing.
    """
    clips = collect_clips(audio_folder, ids=ids)
    rate = distill_mos()
    rows = []
    for clip in tqdm(clips, desc="rating naturalness", unit="clip"):
        waveform = read_audio(clip.path)
        rows.append(ClipScore(clip.id, rate(waveform), len(waveform) / 16_000))
    return MosReport(rows)


def distill_mos() -> Rate:
    """Load Distill-MOS: a function of float32 samples (samples,) at 16 kHz, giving 1 to 5.

    Long clips are rated in crops of 7.68 s, at most a second apart, eight at a time. Raises
    `UserError` where the package is missing or torchaudio is not the one of this torch.
    """
    try:
        import torch
        from distillmos import ConvTransformerSQAModel
    except ImportError:
        raise UserError(
            "distillmos is not installed; `pip install 'gslm[mos]'` brings it"
        ) from None
    except OSError as error:  # a torchaudio built for another torch fails to load its library
        raise UserError(
            f"torchaudio does not fit this torch ({str(error).splitlines()[0]}); install "
            "torchaudio of torch's own version"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
        model = ConvTransformerSQAModel(segmenting_in_forward=False).eval()

    def rate(waveform: Waveform) -> float:
        starts = crop_starts(len(waveform))
        scores: list[float] = []
        for first in range(0, len(starts), _BATCH):
            crops = [waveform[s : s + _CROP_SAMPLES] for s in starts[first : first + _BATCH]]
            padded = [np.pad(c, (0, _CROP_SAMPLES - len(c))) for c in crops]
            with torch.inference_mode():
                scores += model(torch.from_numpy(np.stack(padded))).flatten().tolist()
        return float(np.mean(scores))

    return rate


def crop_starts(n_samples: int) -> list[int]:
    """First samples of the crops of a clip: evenly spread, at most a second apart."""
    over = max(0, n_samples - _CROP_SAMPLES)
    n_crops = -(-over // _CROP_HOP_SAMPLES) + 1
    return [int(position * over) for position in np.linspace(0, 1, n_crops)]
