"""Short sentences to speak: WordNet's quoted examples, chosen by a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from gslm.errors import UserError
from gslm.eval.text import normalize

MIN_WORDS = 6
MAX_WORDS = 14
SHARED_WORDS = 4
"""A sentence may not share so many words in a row with a text that it must differ from."""

# Lower-case words and `I` alone: no names, numbers or abbreviations, which are read in more ways
# than one.
_PLAIN = re.compile(r"(?:I|[a-z]+)(?: (?:I|[a-z]+))+")


def example_sentences(folder: Path, n: int, seed: int, unlike: Iterable[str] = ()) -> list[str]:
    """Draw `n` examples of 6 to 14 plain words from WordNet's files `data.*` in `folder`.

    unlike: texts of which no example may hold four words in a row. Returns different sentences,
    the same for the same seed. Raises `UserError` where the files hold too few.
    """
    taken = {part for text in unlike for part in _word_runs(text)}
    found = sorted({example for example in _examples(folder) if _is_plain(example)})
    free = [example for example in found if taken.isdisjoint(_word_runs(example))]
    if len(free) < n:
        raise UserError(f"{folder}: holds {len(free)} sentences of plain words; ask for fewer")
    return random.Random(seed).sample(free, n)


def _examples(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            definition = line.partition(" | ")[2]
            yield from (example.strip() for example in re.findall(r'"([^"]+)"', definition))


def _is_plain(example: str) -> bool:
    n_words = len(example.split(" "))
    return MIN_WORDS <= n_words <= MAX_WORDS and _PLAIN.fullmatch(example) is not None


def _word_runs(text: str) -> set[tuple[str, ...]]:
    words = normalize(text).split()
    return {tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)}
