"""Which prompts are held out: sixty by a hash of their text, and whatever is nearly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from gslm.eval.text import normalize

N_TEST = 60
MIN_WORDS = 6
MAX_WORDS = 30
OVERLAP = 0.8
_MIN_CONTAINED_WORDS = 4


def text_hash(text: str) -> str:
    """SHA-256 of the normalised text, 64 hex digits."""
    return hashlib.sha256(normalize(text).encode()).hexdigest()


def near_duplicates(a: str, b: str) -> bool:
    """Whether one of two texts tells a model most of the other.

    True where the normalised texts are equal, where their sets of words have a Jaccard index of
    0.8 or more, or where 0.8 of the shorter one's word pairs stand in the longer one (the shorter
    one of four words or more: `press one` alone gives nothing away).
    """
    words_a, words_b = normalize(a).split(), normalize(b).split()
    if words_a == words_b:
        return True
    shorter, longer = sorted((words_a, words_b), key=len)
    if len(shorter) < _MIN_CONTAINED_WORDS:
        return False
    set_a, set_b = set(words_a), set(words_b)
    if len(set_a & set_b) >= OVERLAP * len(set_a | set_b):
        return True
    pairs, others = _pairs(shorter), _pairs(longer)
    return len(pairs & others) >= OVERLAP * len(pairs)


def select_held_out(
    transcripts: Mapping[str, str], n_test: int = N_TEST
) -> tuple[list[str], list[str]]:
    """Choose the scored prompts and everything that training must not see.

    transcripts: id -> text. In the order of the hash of their text, the first `n_test` prompts of
    6 to 30 words are scored, except those nearly equal to one already chosen (the few longer ones
    are menus that share their sentences with many clips: a quarter of the audio). Held out is
    each scored prompt with all its near-duplicates. Returns (scored ids, held-out ids), sorted;
    the second contains the first.
    """
    order = sorted(transcripts, key=lambda id_: (text_hash(transcripts[id_]), id_))
    scored: list[str] = []
    for id_ in order:
        if len(scored) == n_test:
            break
        text = transcripts[id_]
        if not MIN_WORDS <= len(normalize(text).split()) <= MAX_WORDS:
            continue
        if not any(near_duplicates(text, transcripts[other]) for other in scored):
            scored.append(id_)
    held_out = [
        id_
        for id_ in transcripts
        if any(near_duplicates(transcripts[id_], transcripts[other]) for other in scored)
    ]
    return sorted(scored), sorted(held_out)


def committed_list(name: str) -> dict[str, str]:
    """Read `test_60.txt` or `held_out.txt` of this recipe: id -> first 16 digits of `text_hash`."""
    path = Path(__file__).with_name(name)
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if line and not line.startswith("#"))  # type: ignore[misc]


def _pairs(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(pairwise(words))
