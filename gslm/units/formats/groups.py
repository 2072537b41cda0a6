"""Recordings that belong together by name, such as the two channels of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gslm.audio import clip_id
from gslm.errors import UserError
from gslm.units.formats.lines import Entry

_MOST_WAITING = 20_000_000
"""Units that wait for the others of their group: 80 MB."""


def grouped(
    entries: Iterable[Entry], endings: tuple[str, ...], format_: str
) -> Iterator[tuple[str, list[Entry]]]:
    """Yield the name that entries share, and the entries in the order of `endings`.

    endings: how their names differ before the suffix. A group is given once it is whole. Raises
    `UserError` for a name that ends otherwise, and for a group that is not whole at the end.
    """
    waiting: dict[str, dict[str, Entry]] = {}
    n_waiting = 0
    for entry in entries:
        stem = clip_id(entry.name)
        ending = next((end for end in endings if stem.endswith(end)), None)
        if ending is None:
            raise UserError(f"{entry.name}: {format_} takes recordings called {_spelled(endings)}")
        name = stem.removesuffix(ending)
        group = waiting.setdefault(name, {})
        if ending in group:
            raise UserError(f"{entry.name}: there is another {stem}; rename one")
        group[ending] = entry
        n_waiting += len(entry.units)
        if len(group) == len(endings):
            del waiting[name]
            n_waiting -= sum(len(member.units) for member in group.values())
            yield name, [group[end] for end in endings]
        elif n_waiting > _MOST_WAITING:
            raise UserError(
                f"{len(waiting)} groups of recordings wait for their others, the first is "
                f"{next(iter(waiting))}; name them so that they lie together in the corpus"
            )
    for name, group in waiting.items():
        missing = ", ".join(name + end for end in endings if end not in group)
        raise UserError(f"{name}: {missing} is missing; {format_} takes {_spelled(endings)}")


def _spelled(endings: tuple[str, ...]) -> str:
    *first, last = (f"name{end}" for end in endings)
    return f"{', '.join(first)} and {last}"
