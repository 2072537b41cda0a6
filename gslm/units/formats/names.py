"""What recordings are called: ids of a corpus here, stems or paths in the files of others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from gslm.audio import clip_id, resolve_inside
from gslm.corpus import CorpusRow
from gslm.errors import UserError
from gslm.units.formats.kinds import Naming
from gslm.units.formats.lines import Entry, first_few
from gslm.units.formats.manifest import manifest_root, read_manifest

_CHANNEL = re.compile(r"-channel[0-9]+$")


class RecordingNames:
    """From the names in a file to ids of a corpus, and lengths where a manifest has them."""

    def __init__(self, root: str, listed: list[tuple[str, int | None]] | None, where: str) -> None:
        """Use `of`."""
        self._root = root.rstrip("/")
        self._listed = listed
        self._where = where
        self._by_name: dict[str, list[int]] = {}
        self._by_order = False
        for number, (path, _) in enumerate(listed or []):
            try:
                resolve_inside(root, path)
            except UserError:
                continue  # no name leads there, and `units encode` passes it over as well
            # A set: a file at the top has one name.
            for name in {path, clip_id(path), PurePosixPath(clip_id(path)).name}:
                self._by_name.setdefault(name, []).append(number)

    @classmethod
    def of(cls, manifest: Path | None, root: str) -> RecordingNames:
        """Names as they are, or those that a fairseq manifest lists.

        root: taken off the front of names; the manifest's first line where empty.
        """
        if manifest is None:
            return cls(root, None, "")
        listed = list(read_manifest(manifest))
        return cls(root or manifest_root(manifest).as_posix(), listed, str(manifest))

    def find(self, entry: Entry, number: int) -> tuple[str, int | None]:
        """Id of the entry at `number`, and its samples at 16 kHz where known.

        An entry without a name takes the manifest's at `number`, or is numbered. Raises
        `UserError` for a name that the manifest lacks, or that fits several of its lines, and
        where the manifest's own leads out of its folder.
        """
        if not entry.name:
            self._by_order = True
            if self._listed is None:
                return f"{number:09d}", entry.n_samples
            if number >= len(self._listed):
                raise UserError(
                    f"{entry.where}: {self._where} lists only {len(self._listed)} recordings"
                )
            path, n_samples = self._listed[number]
            resolve_inside(self._root, path)
            return path, n_samples or entry.n_samples
        id_ = self._relative(entry)
        if self._listed is None:
            return id_, entry.n_samples
        channel = ""
        found = self._lookup(id_)
        if not found and (match := _CHANNEL.search(clip_id(id_))):
            channel = match.group()
            found = self._lookup(clip_id(id_).removesuffix(channel))
        if len(found) != 1:
            several = first_few(self._listed[i][0] for i in found)
            fits = f"fits {several}" if found else "is not there"
            raise UserError(f"{entry.where}: {entry.name} {fits} in {self._where}")
        path, n_samples = self._listed[found[0]]
        return (clip_id(path) + channel if channel else path), n_samples or entry.n_samples

    def require_all_used(self, n_entries: int, path: str | Path) -> None:
        """Raise a `UserError` where entries without names are fewer than the manifest's lines."""
        if self._by_order and self._listed is not None and n_entries < len(self._listed):
            raise UserError(
                f"{path}: {n_entries} recordings, but {self._where} lists {len(self._listed)}; "
                "name the manifest that these units were made from"
            )

    def _lookup(self, id_: str) -> list[int]:
        for name in (id_, clip_id(id_), PurePosixPath(clip_id(id_)).name):
            if found := self._by_name.get(name):
                return found
        return []

    def _relative(self, entry: Entry) -> str:
        """The name as a path inside the root, since ids never lead out of it."""
        name = entry.name
        if self._root and name.startswith(f"{self._root}/"):
            name = name[len(self._root) :]
        elif self._root and name.startswith("/"):
            raise UserError(f"{entry.where}: {name} is not below {self._root}; name its --root")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        while parts and parts[0] == "..":
            parts.pop(0)
        if not parts or ".." in parts:
            raise UserError(f"{entry.where}: {entry.name!r} names no recording")
        return "/".join(parts)


def written_names(
    rows: Iterable[CorpusRow], naming: Naming, root: str = ""
) -> Iterator[tuple[CorpusRow, str]]:
    """Yield each row with the name that a file is to give it.

    root: put before `audio` names. Raises `UserError`, at the end, where two recordings would
    share a name.
    """
    owners: dict[str, str] = {}
    clashes: dict[str, list[str]] = {}
    for row in rows:
        name = _written(row.id, naming, root)
        if name and owners.setdefault(name, row.id) != row.id:
            clashes.setdefault(name, [owners[name]]).append(row.id)
        if not clashes:
            yield row, name
    if clashes:
        found = first_few(f"{name} ({', '.join(ids[:3])})" for name, ids in clashes.items())
        hint = "use --names path" if naming == "basename" else "use --names audio, or rename them"
        raise UserError(f"{len(clashes)} names would stand for several recordings: {found}; {hint}")


def _written(id_: str, naming: Naming, root: str) -> str:
    match naming:
        case "basename":
            return PurePosixPath(clip_id(id_)).name
        case "path":
            return clip_id(id_)
        case "audio":
            return f"{root.rstrip('/')}/{id_}" if root else id_
        case "none":
            return ""
