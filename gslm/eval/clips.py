"""Which audio file belongs to which transcript, and which clips are scored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gslm import audio
from gslm.audio import clip_id, find_audio
from gslm.errors import UserError

__all__ = ["Clip", "Transcript", "clip_id", "collect_clips", "read_ids", "read_transcripts"]


@dataclass(frozen=True)
class Clip:
    """One audio file to be judged."""

    id: str
    """Path relative to its folder, without suffix, so that a WAV can be held to a FLAC."""
    path: Path
    """The file."""
    text: str
    """What should be heard; empty where no transcript is needed."""


@dataclass(frozen=True)
class Transcript:
    """One line of a transcripts file."""

    id: str
    """Path relative to the folder, without suffix."""
    text: str
    """What is said."""


def read_transcripts(path: Path) -> dict[str, str]:
    """Read `id<TAB>text` lines in UTF-8 (a header `id<TAB>text` is skipped): clip id -> text.

    Raises `UserError` with the line number where a line has no tab or an id comes twice.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or (number == 1 and line.split("\t")[0] == "id"):
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{path}:{number}: expected an id, a tab and the text")
        if clip_id(name) in texts:
            raise UserError(f"{path}:{number}: {name} comes twice; each clip needs one transcript")
        texts[clip_id(name)] = text.strip()
    return texts


def read_ids(path: Path) -> list[str]:
    """Clip ids of a list file, which `gslm.audio.read_ids` describes."""
    return [clip_id(id_) for id_ in audio.read_ids(path)]


def collect_clips(
    root: Path, texts: dict[str, str] | None = None, ids: Collection[str] | None = None
) -> list[Clip]:
    """Pair the audio below `root` with transcripts, sorted by id.

    texts: clip id -> text; None where none is needed. ids: score exactly these, each of which
    must be there; None for every clip that has audio and, where asked for, a transcript.
    Raises `UserError` where nothing is left or something asked for is missing.
    """
    files = _by_id(root)
    wanted: Sequence[str]
    if ids is None:
        wanted = sorted(files if texts is None else files.keys() & texts.keys())
        if not wanted:
            raise UserError(f"{root}: no audio file has a transcript; ids are paths below {root}")
    else:
        wanted = sorted(set(ids))
        _require(wanted, files, f"{root} has no audio for")
        if texts is not None:
            _require(wanted, texts, "the transcripts lack")
    return [Clip(id_, files[id_], texts[id_] if texts is not None else "") for id_ in wanted]


def _by_id(root: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for relative in find_audio(root):
        id_ = clip_id(relative)
        if id_ in files:
            raise UserError(
                f"{root}: {files[id_].name} and {Path(relative).name} differ only in their "
                "suffix; keep one of them"
            )
        files[id_] = root / relative
    return files


def _require(wanted: Sequence[str], known: Collection[str], message: str) -> None:
    missing = [id_ for id_ in wanted if id_ not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{message} {missing[0]}{more}; every listed clip must be there")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error})") from None
