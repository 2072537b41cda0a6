"""Phone times of English recordings with a transcript, by pocketsphinx's forced alignment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gslm.audio import SAMPLE_RATE, Waveform
from gslm.errors import UserError
from gslm.eval.text import number_words
from gslm.units.phone_labels import SILENCE, ClipPhones

FRAME_S = 0.01
"""Seconds from one of pocketsphinx's frames to the next."""
WINDOW_S = 0.025625
"""Length of a frame's window in seconds."""

# A boundary before frame i lies midway between the centres of frames i - 1 and i.
_BOUNDARY_S = (WINDOW_S - FRAME_S) / 2

# Without silence at its end, the last word would swallow what pause there is.
_PADDING_S = 0.2


class Aligner:
    """Pocketsphinx with its US English model and dictionary."""

    def __init__(self, pronunciations: Mapping[str, str] | None = None) -> None:
        """Load the model.

        pronunciations: further words in lower case -> CMUdict's phones, such as `P IY B IY EH K S`.
        Raises `UserError` where pocketsphinx is missing.
        """
        try:
            import pocketsphinx
        except ImportError:
            raise UserError(
                "pocketsphinx is not installed; `pip install 'gslm[make]'` brings it"
            ) from None
        # The best path through the word lattice gives words lengths that their phones cannot have.
        self._decoder: Any = pocketsphinx.Decoder(
            samprate=SAMPLE_RATE, bestpath=False, loglevel="FATAL"
        )
        for word, phones in (pronunciations or {}).items():
            self._decoder.add_word(word, phones, False)

    def align(self, waveform: Waveform, text: str, id_: str, speaker: str) -> ClipPhones:
        """Phones of CMUdict's 39, without stress, and silences of a recording.

        waveform: float32 (samples,) at 16 kHz. Raises `AlignmentError` where a word is unknown or
        the audio does not hold the text.
        """
        words = spoken_words(text)
        unknown = [word for word in words if self._decoder.lookup_word(word) is None]
        if not words or unknown:
            raise AlignmentError(f"not in the dictionary: {unknown[0]}" if unknown else "no word")
        if not np.isfinite(waveform).all():
            raise AlignmentError("holds NaN or infinite samples")
        padded = np.pad(np.clip(waveform, -1, 1), round(_PADDING_S * SAMPLE_RATE))
        samples = (padded * 32_767).astype(np.int16).tobytes()
        try:
            self._decoder.set_align_text(" ".join(words))
            self._pass_over(samples)
            # The first pass finds the words, the second their phones.
            self._decoder.set_alignment()
            self._pass_over(samples)
            found = [
                (phone.name, phone.start, phone.duration)
                for word in self._decoder.get_alignment()
                for phone in word
            ]
        except (RuntimeError, TypeError):
            raise AlignmentError("the audio does not fit the text") from None
        return _clip_phones(found, len(waveform) / SAMPLE_RATE, id_, speaker)

    def _pass_over(self, samples: bytes) -> None:
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(samples, full_utt=True)
        finally:
            self._decoder.end_utt()


class AlignmentError(Exception):
    """A recording cannot be aligned; says why in a few words."""


def spoken_words(text: str) -> list[str]:
    """Lower-case words as the dictionary spells them, single digits spelled out.

    Raises `AlignmentError` for longer numbers and for digits within words, which can be read in
    more ways than one.
    """
    lowered = re.sub(
        r"(?<![\w.])\d(?![\w])(?!\.\d)", lambda m: number_words(int(m[0])), text.lower()
    )
    if re.search(r"\d", lowered):
        raise AlignmentError("holds a number")
    return [
        word.strip("'") for word in re.sub(r"[^a-z' ]", " ", lowered).split() if word.strip("'")
    ]


def _clip_phones(
    found: list[tuple[str, int, int]], seconds: float, id_: str, speaker: str
) -> ClipPhones:
    """Frames of the padded clip to seconds of the clip, which the phones fill from end to end."""
    starts = np.array([start for _, start, _ in found], dtype=np.float64)
    onsets = starts * FRAME_S + _BOUNDARY_S - _PADDING_S
    onsets[0] = 0.0
    bounds = np.clip(np.concatenate([onsets, [seconds]]), 0, seconds)
    # Fillers of the model, such as +NSN+ for a noise, count as silence.
    names = [SILENCE if name.startswith(("+", "SIL")) else name for name, _, _ in found]
    lasting = np.diff(bounds) > 0
    if any(name != SILENCE for name, lasts in zip(names, lasting, strict=True) if not lasts):
        raise AlignmentError("a phone has no length")
    kept = [name for name, lasts in zip(names, lasting, strict=True) if lasts]
    return ClipPhones(id_, kept, bounds[:-1][lasting], bounds[1:][lasting], speaker)
