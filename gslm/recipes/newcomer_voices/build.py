"""Speak the recipe's sentences with flite's slt and piper's joe into a folder with transcripts."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from gslm.audio import Waveform, read_audio, write_wav
from gslm.errors import UserError
from gslm.sources import flite, piper_program, piper_voice_joe
from gslm.whole_folder import whole_folder

VOICES = ("slt", "joe")


def read_sentences(path: Path | None = None) -> dict[str, list[str]]:
    """The recipe's sentences: voice name -> twenty sentences, in the order of the file."""
    path = path or Path(__file__).with_name("sentences.txt")
    sentences: dict[str, list[str]] = {}
    voice = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            voice = line.split()[-1] if line.split()[-1] in VOICES else voice
        elif line.strip():
            sentences.setdefault(voice, []).append(line.strip())
    return sentences


def build_voices(output: Path) -> list[str]:
    """Write `output/slt/01.wav` … `output/joe/20.wav` at 16 kHz and `transcripts.tsv`.

    The folder appears whole or not at all. Returns the ids, paths relative to `output`. Raises
    `UserError` where a voice's package or the piper program is missing, or `output` is taken.
    """
    rows = ["id\ttext"]
    with whole_folder(output) as scratch:
        sentences = read_sentences()
        speakers = {"slt": _flite_command(), "joe": _piper_command()}
        jobs = [(v, i, text) for v in VOICES for i, text in enumerate(sentences[v], start=1)]
        for voice, number, text in tqdm(jobs, desc="speaking", unit="sentence"):
            id_ = f"{voice}/{number:02d}.wav"
            command, environment = speakers[voice]
            raw = scratch / "raw.wav"
            _speak(command, environment, text, raw)
            write_wav(scratch / id_, _spoken(raw))
            raw.unlink()
            rows.append(f"{id_}\t{text}")
        (scratch / "transcripts.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return [row.split("\t")[0] for row in rows[1:]]


def _flite_command() -> tuple[list[str], Mapping[str, str] | None]:
    program = flite()
    return [str(program.path), "-voice", "slt", "-t", "{text}", "-o", "{file}"], program.environment


def _piper_command() -> tuple[list[str], Mapping[str, str] | None]:
    program = str(piper_program())
    # Without its noise the voice says a sentence the same way every time.
    quiet = ["--noise-scale", "0", "--noise-w-scale", "0"]
    model = ["-m", str(piper_voice_joe())]
    return [program, *model, *quiet, "-f", "{file}", "--", "{text}"], None


def _spoken(raw: Path) -> Waveform:
    try:
        return read_audio(raw)
    except UserError:
        # The programs do not say when a disk is full; half a file is what tells.
        raise UserError(f"{raw.name}: was not written whole; is the disk full?") from None


def _speak(
    command: Sequence[str], environment: Mapping[str, str] | None, text: str, file: Path
) -> None:
    filled = [part.format(text=text, file=file) for part in command]
    done = subprocess.run(filled, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise UserError(f"{Path(command[0]).name} could not speak {text!r}: {reason}")
