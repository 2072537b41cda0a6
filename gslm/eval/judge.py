"""The recognizer that judges speech: Whisper through faster-whisper, never the units' own model."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gslm.audio import Waveform
from gslm.errors import UserError
from gslm.packages import file_hash
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
    weights_hash: str
    """First 16 hex digits of the SHA-256 of `model.bin`; empty for a Hub name."""
    language: str
    """Language that it is told to hear, two letters."""
    folder: Path | None
    """Folder of the weights; None for a Hub name."""
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
        from faster_whisper import WhisperModel
    except ImportError:
        raise UserError(
            "faster-whisper is not installed; `pip install 'gslm[asr]'` brings the judge"
        ) from None
    folder = whisper_base() if name_or_folder == DEFAULT_JUDGE else Path(name_or_folder)
    local = folder.is_dir()
    if local and not (folder / "model.bin").is_file():
        raise UserError(f"{folder}: no model.bin; a judge is a Whisper folder of CTranslate2")
    try:
        model = WhisperModel(
            str(folder) if local else name_or_folder,
            device="cpu",
            compute_type="int8",
            cpu_threads=threads,
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
        model_name=whisper_size(folder) if local else _name_in(name_or_folder),
        weights_hash=file_hash(folder / "model.bin")[:16] if local else "",
        language=language,
        folder=folder if local else None,
        model=model,
    )


def whisper_size(folder: Path) -> str:
    """Size of a CTranslate2 Whisper folder as in `tiny.en`; empty where it cannot be told."""
    vocabulary, width = _vocabulary_and_width(folder / "model.bin")
    if width not in _SIZES:
        return ""
    return _SIZES[width] + (".en" if vocabulary == _ENGLISH_VOCABULARY else "")


def require_other_model(judge: Judge, encoder_name: str, encoder_hash: str = "") -> None:
    """Raise a `UserError` where the judge is the model that the units come from.

    encoder_name: how the bundle names its encoder, such as `whisper-tiny.en`, a folder or a Hub
    name; encoder_hash: its weights' hash, where known. A recognizer that judges speech made from
    its own features would forgive what only it can hear.
    """
    same_hash = bool(encoder_hash) and encoder_hash == judge.weights_hash
    size = _name_in(encoder_name)
    if not size and Path(encoder_name).is_dir() and (Path(encoder_name) / "model.bin").is_file():
        size = whisper_size(Path(encoder_name))
    if same_hash or (size and size == judge.model_name) or encoder_name == judge.name:
        raise UserError(
            f"judge {judge.name} is the model that the units come from ({encoder_name}); "
            "name another with --judge"
        )


def require_other_weights(judge: Judge, fingerprint: Fingerprint) -> None:
    """Raise a `UserError` where a bundle's units come from the judge's own encoder.

    Compares the fingerprint's hash with the one of the judge's first layers, so that renamed
    copies are found as well; a judge by its Hub name can only be told apart by name.
    """
    if fingerprint.encoder != "whisper" or judge.folder is None:
        return
    from gslm.units.encoders import load_whisper

    try:
        encoder = load_whisper(judge.folder, fingerprint.layer)
    except UserError:  # fewer layers than the units' encoder: another model
        return
    if encoder.weights_hash == fingerprint.weights_hash:
        raise UserError(
            f"judge {judge.name} is the model that the units come from [{fingerprint}]; "
            "name another with --judge"
        )


def _name_in(name: str) -> str:
    """The Whisper size in a name: `openai/whisper-tiny.en` -> `tiny.en`; empty where none is."""
    match = re.search(
        r"(?:^|[-_/ ])(tiny|base|small|medium|large(?:-v\d)?|turbo)(\.en)?(?:$|[-_/ ])",
        name.lower(),
    )
    return (match[1] + (match[2] or "")) if match else ""


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
