"""A corpus of unit sequences on disk: Parquet shards and `corpus.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gslm.audio import Waveform, read_audio, resolve_inside
from gslm.bundle import read_json, write_atomically, write_json
from gslm.errors import UserError
from gslm.types import Fingerprint, Units

HELD_OUT_FRACTION = 0.05
HELD_OUT_MINIMUM = 20
_FORMAT = "gslm-corpus"
_VERSION = 1
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("units", pa.list_(pa.int32()), nullable=False),
        pa.field("durations", pa.list_(pa.int32())),
        pa.field("n_samples", pa.int64(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("pitch", pa.list_(pa.float32())),
    ]
)
_FIRST_SAMPLE = pa.field("first_sample", pa.int64(), nullable=False)
"""A further column, of corpora whose recordings were trimmed."""


@dataclass(frozen=True)
class CorpusRow:
    """One recording as units."""

    id: str
    """POSIX path of the audio relative to the corpus' audio root."""
    units: NDArray[np.int32]
    """Unit ids (n,)."""
    durations: NDArray[np.int32] | None
    """Frames of each unit (n,), or None where one id is one frame."""
    n_samples: int
    """Samples at 16 kHz that were encoded: of the whole recording, unless it was trimmed."""
    speaker: str
    """Name of the speaker; empty where unknown."""
    pitch: NDArray[np.float32] | None = None
    """Fundamental frequency in Hz for each frame (0: unvoiced), or None."""
    first_sample: int = 0
    """Sample of the recording at 16 kHz where what was encoded begins; kept if trimmed."""


class CorpusWriter:
    """Writes a corpus shard by shard; every shard is atomic, so that a run can go on later."""

    def __init__(
        self, folder: str | Path, fingerprint: Fingerprint, source: dict[str, Any]
    ) -> None:
        """Open `folder` for writing.

        `source` says what is encoded and how (root, files' hash, shard size; `channel` where
        only one is, `trimmed` where silence is left out): shards of an earlier run are only kept
        where it and the fingerprint are the same. Raises `UserError` where the folder holds
        another corpus.
        """
        self.folder = Path(folder)
        plan = {"format": _FORMAT, "fingerprint": fingerprint.to_json(), "source": source}
        plan_path = self.folder / "plan.json"
        if plan_path.is_file():
            found = read_json(plan_path)
            if found != json.loads(json.dumps(plan)):
                raise UserError(
                    f"{self.folder}: holds a corpus of other audio, units or settings; "
                    "choose a new folder or delete this one"
                )
        else:
            write_json(plan_path, plan)
        self.fingerprint = fingerprint
        self.source = source

    def remove_unfinished(self) -> None:
        """Remove what killed writers left half written.

        Only for a run that is about to start: another one's half-written shards would go too.
        """
        for name in ("plan.json", "corpus.json", "units-*.parquet", "skipped-*.jsonl"):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

    def has_shard(self, index: int) -> bool:
        """Whether shard `index` is whole on disk."""
        return shard_path(self.folder, index).is_file()

    def write_shard(
        self, index: int, rows: Sequence[CorpusRow], skipped: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Write shard `index`; `skipped` are (id, reason) of files that could not be encoded."""
        lines = "".join(
            json.dumps({"id": id_, "reason": reason}, ensure_ascii=False) + "\n"
            for id_, reason in skipped
        )
        skipped_path = self.folder / f"skipped-{index:05d}.jsonl"
        if lines:
            write_atomically(skipped_path, lambda path: _write_bytes(path, lines.encode("utf-8")))
        else:
            skipped_path.unlink(missing_ok=True)
        schema = _SCHEMA.append(_FIRST_SAMPLE) if self.source.get("trimmed") else _SCHEMA
        columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
        table = pa.table(columns, schema=schema)
        write_atomically(shard_path(self.folder, index), lambda path: pq.write_table(table, path))

    def finish(self, n_shards: int, held_out: Collection[str] | None = None) -> Corpus:
        """Write `corpus.json` once all shards stand.

        `held_out` names the ids kept from training; without it 5 % are, at least 20 (but never
        more than half), chosen by a hash of the id.
        """
        hashes: list[str] = []
        found_held_out = 0
        n_frames = n_samples = n_units = n_skipped = 0
        wanted = set(held_out) if held_out is not None else None
        for index in range(n_shards):
            for row in _read_shard(shard_path(self.folder, index)):
                hashes.append(_id_hash(row.id))
                found_held_out += wanted is not None and row.id in wanted
                n_units += len(row.units)
                n_frames += len(row.units) if row.durations is None else int(row.durations.sum())
                n_samples += row.n_samples
            skipped_path = self.folder / f"skipped-{index:05d}.jsonl"
            if skipped_path.is_file():
                n_skipped += len(skipped_path.read_text(encoding="utf-8").splitlines())
        split: dict[str, Any] = {"held_out_below": _threshold(hashes)}
        if wanted is not None:
            if not found_held_out:
                raise UserError(
                    f"{self.folder}: none of the {len(wanted)} held-out ids is in the corpus; "
                    "they are paths relative to the audio folder"
                )
            split = {"held_out_ids": sorted(wanted)}
        write_json(
            self.folder / "corpus.json",
            {
                "format": _FORMAT,
                "version": _VERSION,
                "fingerprint": self.fingerprint.to_json(),
                "source": self.source,
                "n_shards": n_shards,
                "n_rows": len(hashes),
                "n_units": n_units,
                "n_frames": n_frames,
                "n_samples": n_samples,
                "n_skipped": n_skipped,
                "split": split,
            },
        )
        return Corpus.open(self.folder)


class Corpus:
    """A finished corpus, read shard by shard."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Use `Corpus.open`."""
        self.folder = folder
        self.fingerprint = Fingerprint.from_json(
            about.get("fingerprint", {}), str(folder / "corpus.json")
        )
        self.source: dict[str, Any] = about["source"]
        self.n_shards: int = about["n_shards"]
        self.n_rows: int = about["n_rows"]
        self.n_units: int = about["n_units"]
        self.n_frames: int = about["n_frames"]
        self.n_samples: int = about["n_samples"]
        self.n_skipped: int = about["n_skipped"]
        split = about["split"]
        self._held_out_below: str = split.get("held_out_below", "")
        self._held_out_ids = frozenset(split.get("held_out_ids", ()))

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open a corpus folder; `UserError` where there is none or it is not finished."""
        folder = Path(folder)
        if not (folder / "corpus.json").is_file():
            state = (
                "is not finished; run `gslm units encode` again to go on"
                if (folder / "plan.json").is_file()
                else "is no corpus (no corpus.json); make one with `gslm units encode`"
            )
            raise UserError(f"{folder}: {state}")
        about = read_json(folder / "corpus.json")
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise UserError(f"{folder}: corpus.json is not a gslm corpus'")
        if about.get("version") != _VERSION:
            raise UserError(
                f"{folder}: corpus of version {about.get('version')}, this gslm reads {_VERSION}; "
                "install the gslm that made it"
            )
        try:
            return cls(folder, about)
        except KeyError as missing:
            raise UserError(f"{folder}: corpus.json lacks {missing}; encode again") from None

    @staticmethod
    def is_at(folder: str | Path) -> bool:
        """Whether a corpus lies in `folder`, be it finished or not."""
        return any((Path(folder) / name).is_file() for name in ("plan.json", "corpus.json"))

    def __len__(self) -> int:
        return self.n_rows

    def is_held_out(self, row_id: str) -> bool:
        """Whether the recording is kept from training."""
        return row_id in self._held_out_ids or _id_hash(row_id) < self._held_out_below

    def rows(self, split: str = "all") -> Iterator[CorpusRow]:
        """Yield the rows of `split` (`train`, `held_out` or `all`) in the order on disk."""
        if split not in ("train", "held_out", "all"):
            raise UserError(f"no split {split!r}; choose train, held_out or all")
        for index in range(self.n_shards):
            for row in _read_shard(shard_path(self.folder, index)):
                if split == "all" or self.is_held_out(row.id) == (split == "held_out"):
                    yield row

    def waveform(self, row: CorpusRow, audio_root: str | Path) -> Waveform:
        """The samples (n,) at 16 kHz that the row's units were made from, read again.

        audio_root: the folder that was encoded. Raises `UserError` as `read_audio` does.
        """
        path = resolve_inside(audio_root, row.id)
        waveform = read_audio(path, channel=self.source.get("channel"))
        if self.source.get("trimmed"):
            return waveform[row.first_sample : row.first_sample + row.n_samples]
        return waveform

    def require_times(self) -> None:
        """Raise a `UserError` unless units have the times of their recordings.

        They have not where recordings were trimmed, or durations are unknown.
        """
        if self.source.get("trimmed"):
            raise UserError(
                f"{self.folder}: its recordings were trimmed, so labelled times do not fit its "
                "units; encode without --trim-silence"
            )
        if self.source.get("durations") == "unknown":
            raise UserError(
                f"{self.folder}: the durations of its units are unknown, so labelled times do not "
                "fit them; import with --kind frames, or from a format that keeps durations"
            )

    def units(self, row: CorpusRow) -> Units:
        """The row's unit sequence with the corpus' fingerprint."""
        return Units(row.units, row.durations, self.fingerprint)

    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every file that could not be encoded."""
        return [
            (entry["id"], entry["reason"])
            for path in sorted(self.folder.glob("skipped-*.jsonl"))
            for entry in map(json.loads, path.read_text(encoding="utf-8").splitlines())
        ]


def held_out_by_hash(ids: Sequence[str]) -> set[str]:
    """The ids that a corpus of just these recordings would keep from training."""
    threshold = _threshold([_id_hash(row_id) for row_id in ids])
    return {row_id for row_id in ids if _id_hash(row_id) < threshold}


def shard_path(folder: Path, index: int) -> Path:
    """Path of a corpus' shard."""
    return folder / f"units-{index:05d}.parquet"


def _read_shard(path: Path) -> Iterator[CorpusRow]:
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from _rows_of(batch)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: missing or damaged shard ({reason}); delete it and encode again"
        ) from None


def _rows_of(batch: pa.RecordBatch) -> Iterator[CorpusRow]:
    columns = {name: batch.column(name) for name in _SCHEMA.names}
    trimmed = _FIRST_SAMPLE.name in batch.schema.names
    for i in range(batch.num_rows):
        durations, pitch = columns["durations"][i], columns["pitch"][i]
        yield CorpusRow(
            id=columns["id"][i].as_py(),
            units=_values(columns["units"][i]),
            durations=_values(durations) if durations.is_valid else None,
            n_samples=columns["n_samples"][i].as_py(),
            speaker=columns["speaker"][i].as_py(),
            pitch=_values(pitch) if pitch.is_valid else None,
            first_sample=batch.column(_FIRST_SAMPLE.name)[i].as_py() if trimmed else 0,
        )


def _values(scalar: Any) -> NDArray[Any]:
    return scalar.values.to_numpy(zero_copy_only=False).copy()


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _id_hash(row_id: str) -> str:
    # A file name that is not UTF-8 holds surrogates: the plan of a split must pass over it too.
    return hashlib.sha256(row_id.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _threshold(hashes: list[str]) -> str:
    """Hash under which an id is held out: 5 %, at least 20 items, at most half of all."""
    count = max(int(len(hashes) * HELD_OUT_FRACTION), HELD_OUT_MINIMUM)
    count = min(count, len(hashes) // 2)
    return sorted(hashes)[count] if hashes else ""
