"""The recognizer that judges speech: Whisper through faster-whisper, never the units' own model."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gslm.audio import Waveform
from gslm.errors import UserError
from gslm.pretrained import whisper_base
from gslm.types import Fingerprint

DEFAULT_JUDGE = "whisper-base"
# The width of Whisper's encoder tells the size; the vocabulary tells English-only models apart.
_SIZES = {384: "tiny", 512: "base", 768: "small", 1024: "medium", 1280: "large"}
_ENGLISH_VOCABULARY = 51864


@dataclass(frozen=True)
class Judge:
    """A loaded recognizer."""

    name: str
    """What to write beside a result: the Hub name, or the folder with its Whisper size."""
    model_name: str
    """Whisper's size as in `tiny.en` or `base`; empty where it cannot be told."""
    language: str
    """Language that it is told to hear, two letters."""
    folder: Path
    """Folder of the weights, in the Hub's cache where they came from there."""
    model: Any
    """The faster_whisper.WhisperModel."""

    def transcribe(self, waveform: Waveform) -> str:
        """Text of float32 mono samples (samples,) at 16 kHz: beam 5, no text from earlier clips."""
        if not len(waveform):
            return ""
        segments, _ = self.model.transcribe(
            waveform,
            language=self.language,
            beam_size=5,
            # The default retries with sampling where a clip is unclear: another figure every time.
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


def load_judge(
    name_or_folder: str = DEFAULT_JUDGE, language: str = "en", threads: int = 0
) -> Judge:
    """Load a recognizer in int8 on the CPU.

    name_or_folder: `whisper-base` (from packages), another folder in CTranslate2's layout, or a
    size or Hub name that faster-whisper knows, such as `small.en`. threads: 0 for all cores.
    Raises `UserError` where faster-whisper is missing or the model can't be had.
    """
    try:
        import faster_whisper
    except ImportError:
        raise UserError(
            "faster-whisper is not installed; `pip install 'gslm[asr]'` brings the judge"
        ) from None
    folder = whisper_base() if name_or_folder == DEFAULT_JUDGE else Path(name_or_folder)
    if folder.is_dir() and not (folder / "model.bin").is_file():
        raise UserError(f"{folder}: no model.bin; a judge is a Whisper folder of CTranslate2")
    try:
        if not folder.is_dir():
            folder = Path(faster_whisper.download_model(name_or_folder))
        model = faster_whisper.WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads
        )
    except Exception as error:  # the Hub client and CTranslate2 raise many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"judge {name_or_folder}: cannot be loaded ({reason}); name a Whisper folder of "
            f"CTranslate2, a Hub name, or {DEFAULT_JUDGE}"
        ) from error
    if not model.model.is_multilingual and language != "en":
        raise UserError(f"judge {name_or_folder}: hears English only, not {language!r}")
    return Judge(
        name=name_or_folder,
        model_name=whisper_size(folder),
        language=language,
        folder=folder,
        model=model,
    )


def whisper_size(folder: Path) -> str:
    """Size of a CTranslate2 Whisper folder as in `tiny.en`; empty where it cannot be told."""
    vocabulary, width = _vocabulary_and_width(folder / "model.bin")
    if width not in _SIZES:
        return ""
    return _SIZES[width] + (".en" if vocabulary == _ENGLISH_VOCABULARY else "")


def require_other_weights(judge: Judge, fingerprint: Fingerprint) -> None:
    """Raise a `UserError` where a bundle's units come from the judge's own encoder.

    Compares the fingerprint's hash with the one of the judge's first layers, so that renamed
    copies are found as well. A judge whose weights cannot be compared, such as one stored in int8,
    is refused too. A recognizer that judges speech made from its own features would forgive what
    only it can hear.
    """
    if fingerprint.encoder != "whisper":
        return
    from gslm.units.encoders import NoSuchLayerError, load_whisper

    try:
        encoder = load_whisper(judge.folder, fingerprint.layer)
    except NoSuchLayerError:  # fewer layers than the units' encoder: another model
        return
    except UserError as error:
        raise UserError(
            f"judge {judge.name}: cannot tell whether the units come from this model ({error}); "
            "name another with --judge"
        ) from None
    if encoder.weights_hash == fingerprint.weights_hash:
        raise UserError(
            f"judge {judge.name} is the model that the units come from [{fingerprint}]; "
            "name another with --judge"
        )


def _vocabulary_and_width(path: Path) -> tuple[int, int]:
    """Vocabulary size and width from the head of a CTranslate2 file; zeros for another model."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    # A variable is its name ending in NUL, a u8 rank and u32 sizes; variables are in the order of
    # their names, so that the decoder's embeddings (vocabulary, width) are near the top.
    name = b"decoder/embeddings/weight\0"
    at = head.find(name)
    if at < 0:
        return 0, 0
    vocabulary, width = struct.unpack_from("<II", head, at + len(name) + 1)
    return vocabulary, width
