"""A whole bundle in use: encode, decode, continue, resynthesise and score speech."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gslm import units as unit_stage
from gslm.audio import SAMPLE_RATE, Waveform, read_audio, stream_audio
from gslm.bundle import check_bundle
from gslm.errors import UserError
from gslm.hub import folder_from_hub
from gslm.pretrained import EMBEDDED_BUNDLE, has_embedded_bundle
from gslm.types import Fingerprint, Units
from gslm.ulm import UnitLM
from gslm.units.tokenizer import UnitTokenizer
from gslm.units.unit_encoder import UnitEncoder
from gslm.vocoder import Vocoder

Speech = Waveform | str | Path


@dataclass(frozen=True)
class Continuation:
    """What a language model said after a prompt."""

    units: Units
    """Prompt and continuation with durations, as they are spoken."""
    n_prompt_units: int
    """How many of the units are the prompt's."""
    waveform: Waveform
    """Both, spoken: (samples,) at 16 kHz."""
    prompt_samples: int
    """Samples of the spoken prompt."""


class SpeechLM:
    """The stages of one bundle, which all speak the same units."""

    def __init__(
        self,
        unit_encoder: UnitEncoder,
        tokenizer: UnitTokenizer,
        ulm: UnitLM | None,
        vocoder: Vocoder | None,
    ) -> None:
        self.unit_encoder, self.tokenizer, self.ulm, self.vocoder = (
            unit_encoder,
            tokenizer,
            ulm,
            vocoder,
        )

    @classmethod
    def load(cls, path_or_name: str | Path = EMBEDDED_BUNDLE) -> SpeechLM:
        """Load a bundle from a folder or the Hugging Face Hub; by default the embedded one.

        Raises `UserError` where it is missing, damaged, or its stages disagree about the units.
        """
        folder = Path(path_or_name)
        if folder == EMBEDDED_BUNDLE and not has_embedded_bundle():
            raise UserError(
                "this copy of gslm carries no trained bundle; name one with -b, or make one with "
                "`gslm demo --train` or `gslm train`"
            )
        if not folder.is_dir():
            folder = folder_from_hub(str(path_or_name), None, "bundle", "a bundle")
        check_bundle(folder)
        unit_encoder = unit_stage.load(folder)
        tokenizer = (
            UnitTokenizer.load(folder / "tokenizer")
            if (folder / "tokenizer" / "config.json").is_file()
            else UnitTokenizer.identity(unit_encoder.n_units)
        )
        ulm = UnitLM.load(folder / "ulm") if (folder / "ulm").is_dir() else None
        if ulm is not None and ulm.config.n_pieces != tokenizer.vocabulary_size:
            raise UserError(
                f"{folder}: the uLM was trained on {ulm.config.n_pieces} tokens, but the "
                f"tokenizer makes {tokenizer.vocabulary_size}; use the tokenizer that the uLM was "
                "trained with"
            )
        vocoder = Vocoder.load(folder / "vocoder") if (folder / "vocoder").is_dir() else None
        return cls(unit_encoder, tokenizer, ulm, vocoder)

    @property
    def fingerprint(self) -> Fingerprint:
        """What makes this bundle's units."""
        return self.unit_encoder.fingerprint

    def encode(self, speech: Speech, sample_rate: int = SAMPLE_RATE) -> Units:
        """Speech, samples (n,) or a file of any length, to de-duplicated units with durations."""
        if isinstance(speech, str | Path):
            return self.unit_encoder.encode_file(speech, deduplicate=True)
        return self.unit_encoder(speech, sample_rate).deduplicated()

    def decode(self, units: Units, predict_durations: bool = True, seed: int = 0) -> Waveform:
        """Units to samples (n,) at 16 kHz; see `Vocoder.synthesize`."""
        return self._vocoder().synthesize(units, predict_durations, seed)

    def resynthesize(
        self,
        speech: Speech,
        sample_rate: int = SAMPLE_RATE,
        predict_durations: bool = False,
        seed: int = 0,
    ) -> Waveform:
        """Speech to units and back, in the vocoder's voice: samples (n,) at 16 kHz.

        The timing is the speech's own, or what the voice predicts with `predict_durations`.
        """
        return self.decode(self.encode(speech, sample_rate), predict_durations, seed)

    def continue_(
        self,
        speech: Speech,
        sample_rate: int = SAMPLE_RATE,
        *,
        n: int = 1,
        prompt_seconds: float | None = None,
        max_seconds: float = 5.0,
        min_seconds: float = 0.0,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Continuation]:
        """Continue speech in units and speak the result.

        prompt_seconds: use only so much of the start; max_seconds, min_seconds: length of the
        continuation, in terms of the prompt's units a second. Number i of the n continuations
        is drawn with seed + i. Raises `UserError` for prompts longer than the model's context,
        and for lengths that are not above 0 (`min_seconds`: below 0) or not finite.
        """
        ulm, vocoder = self._ulm(), self._vocoder()
        _check_seconds(prompt_seconds, max_seconds, min_seconds)
        prompt = self.encode(*_start(speech, sample_rate, prompt_seconds))
        tokens = self.tokenizer.encode(prompt.ids)
        tokens_per_second = len(tokens) / max(prompt.n_frames / self.fingerprint.frame_rate, 0.1)
        room = ulm.config.context - len(tokens) - 2
        made = ulm.sample(
            [tokens] * n,
            max(1, min(round(max_seconds * tokens_per_second), room)),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            min_tokens=max(0, min(round(min_seconds * tokens_per_second), room)),
        )
        return [self._spoken(prompt, self.tokenizer.decode(t), vocoder, seed) for t in made]

    def score(self, speech: Sequence[Speech], sample_rate: int = SAMPLE_RATE) -> list[float]:
        """Log-likelihood in nats of each recording's units."""
        sequences = [self.tokenizer.encode(self.encode(s, sample_rate).ids) for s in speech]
        return self._ulm().score(sequences)

    def _spoken(
        self, prompt: Units, continued: np.ndarray, vocoder: Vocoder, seed: int
    ) -> Continuation:
        ids = np.concatenate([prompt.ids, continued.astype(np.int32)])
        units = vocoder.predict_durations(Units(ids, None, self.fingerprint))
        n_prompt = len(prompt.ids)
        assert units.durations is not None and prompt.durations is not None
        units.durations[:n_prompt] = prompt.durations
        prompt_frames = int(prompt.durations.sum())
        hop_length = round(SAMPLE_RATE / self.fingerprint.frame_rate)
        waveform = vocoder.synthesize(units, predict_durations=False, seed=seed)
        return Continuation(units, n_prompt, waveform, prompt_frames * hop_length)

    def _ulm(self) -> UnitLM:
        if self.ulm is None:
            raise UserError(
                "this bundle has no uLM; train one with `gslm train` or `gslm ulm train`"
            )
        return self.ulm

    def _vocoder(self) -> Vocoder:
        if self.vocoder is None:
            raise UserError("this bundle has no vocoder; train one with `gslm vocoder train`")
        return self.vocoder


def _check_seconds(prompt_seconds: float | None, max_seconds: float, min_seconds: float) -> None:
    for name, value in (("prompt_seconds", prompt_seconds), ("max_seconds", max_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"continue: {name} is {value:g}; give a length above 0 seconds")
    if not 0 <= min_seconds < math.inf:
        raise UserError(f"continue: min_seconds is {min_seconds:g}; give 0 seconds or more")


def _start(speech: Speech, sample_rate: int, seconds: float | None) -> tuple[Waveform, int]:
    """The first `seconds` of speech, or all of it, and its sampling rate; no more is read."""
    if not isinstance(speech, str | Path):
        n_samples = None if seconds is None else max(1, round(seconds * sample_rate))
        return speech[:n_samples], sample_rate
    if seconds is None:
        return read_audio(speech), SAMPLE_RATE
    missing = max(1, round(seconds * SAMPLE_RATE))
    parts = []
    for block in stream_audio(speech, block_seconds=min(seconds, 30.0)):
        parts.append(block[:missing])
        missing -= len(parts[-1])
        if not missing:
            break
    return np.concatenate(parts), SAMPLE_RATE
