"""Sentences spoken by flite, with the time of each phone as the synthesizer set it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gslm.audio import SAMPLE_RATE, Waveform, read_audio
from gslm.errors import UserError
from gslm.sources import Program
from gslm.units.phone_labels import SILENCE, ClipPhones

VOICES = ("rms", "slt", "awb", "kal16")
"""flite's 16 kHz voices: two men and a woman by statistical models, and kal by diphones."""

# Statistical voices speak in frames of 5 ms; kal leaves out half of the last pause.
_LAST_PAUSE_S = 0.15


@dataclass(frozen=True)
class Spoken:
    """One sentence as audio and labels."""

    waveform: Waveform
    """Float32 (samples,) at 16 kHz."""
    phones: ClipPhones
    """Its phones, from the first sample to the last."""


def speak(program: Program, voice: str, text: str, id_: str, scratch: Path) -> Spoken:
    """Speak `text` and return its samples at 16 kHz and its phones, upper case, without stress.

    scratch: a file to use in between. Raises `UserError` where flite fails, or where the times
    that it prints do not fill the audio to within 5 ms (kal16: but for its last pause).
    """
    command = [str(program.path), "-voice", voice, "-psdur", "-t", text, "-o", str(scratch)]
    done = subprocess.run(
        command, env=program.environment, capture_output=True, text=True, check=False
    )
    if done.returncode or not scratch.is_file():
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"flite could not speak {text!r}: {reason[-1]}")
    waveform = read_audio(scratch)
    scratch.unlink()
    return Spoken(waveform, phones_of(done.stdout, len(waveform) / SAMPLE_RATE, id_, voice))


def phones_of(printed: str, seconds: float, id_: str, voice: str) -> ClipPhones:
    """Phones from what `flite -psdur` prints: `name:end` for each, ends in seconds.

    seconds: length of the audio, at which the last phone, a pause, is made to end.
    """
    try:
        pairs = [part.rsplit(":", 1) for part in printed.split()]
        names = [_folded(name) for name, _ in pairs]
        offsets = np.array([float(end) for _, end in pairs])
    except ValueError:
        raise UserError(f"flite printed no phone times but {printed[:40]!r}") from None
    onsets = np.concatenate([[0.0], offsets[:-1]])
    allowed = _LAST_PAUSE_S if voice.startswith("kal") else 0.006
    fits = len(names) > 2 and names[-1] == SILENCE and abs(offsets[-1] - seconds) < allowed
    if not fits or seconds <= onsets[-1]:
        raise UserError(
            f"{id_}: flite's phones end at {offsets[-1:].sum():.3f} s but its audio at "
            f"{seconds:.3f} s; the label times of this flite are not to be trusted"
        )
    offsets[-1] = seconds
    return ClipPhones(id_, names, onsets, offsets, voice)


def _folded(name: str) -> str:
    """Flite's phone as one of CMUdict's 39 or silence: `ax` is the unstressed `ah`."""
    return {"pau": SILENCE, "ax": "AH"}.get(name, name.upper())
