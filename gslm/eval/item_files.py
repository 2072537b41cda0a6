"""Item files for ABX from phone labels, in the layout of ZeroSpeech and Libri-Light."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from gslm.bundle import write_atomically
from gslm.errors import UserError
from gslm.units.phone_labels import SILENCE, ClipPhones

Span = Literal["triphone", "phoneme"]
HEADER = "#file onset offset #phone prev-phone next-phone speaker"


def write_items(path: Path, clips: Iterable[ClipPhones], span: Span) -> int:
    """Write one line for each phone that stands between two others; returns how many.

    span: what onset and offset enclose, `triphone` the phone with both neighbours, `phoneme` the
    phone alone. The tokens are the same: phones that are silence, stand beside one, beside
    something unlabelled or at a clip's end are left out. Times are seconds.
    """
    lines = [line for clip in clips for line in _lines(clip, span)]

    def write(target: Path) -> None:
        target.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")

    write_atomically(path, write)
    return len(lines)


def _lines(clip: ClipPhones, span: Span) -> Iterator[str]:
    if clip.id.split() != [clip.id]:
        raise UserError(f"{clip.id!r}: an item file cannot name clips with spaces; rename it")
    for i in range(1, len(clip.names) - 1):
        before, name, after = clip.names[i - 1 : i + 2]
        joined = clip.offsets[i - 1] == clip.onsets[i] and clip.offsets[i] == clip.onsets[i + 1]
        if SILENCE in (before, name, after) or not joined:
            continue
        first, last = (i - 1, i + 1) if span == "triphone" else (i, i)
        yield (
            f"{clip.id} {clip.onsets[first]:.4f} {clip.offsets[last]:.4f} "
            f"{name} {before} {after} {clip.speaker or '-'}"
        )
