"""Soft units of a folder of audio as one .npy file a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gslm.audio import find_audio, output_paths, printable_name
from gslm.bundle import read_json_object, tensors_hash, write_atomically, write_json, write_text
from gslm.errors import CannotWriteError, UserError
from gslm.processes import this_process, use_own_device
from gslm.units.chunking import encode_clips
from gslm.units.recordings import (
    Clip,
    Reading,
    Skipped,
    clip_groups,
    files_hash,
    read_ahead,
    reason_without_path,
)
from gslm.units.soft import SoftKind, frame_units, require_soft, soft_blocks, soft_of_frames
from gslm.units.unit_encoder import UnitEncoder

_ABOUT = "soft.json"


def export_soft(
    units: UnitEncoder,
    audio_root: str | Path,
    out_folder: str | Path,
    kind: SoftKind = "vectors",
    reading: Reading | None = None,
    progress: bool = True,
) -> tuple[int, Skipped]:
    """Write soft units of all audio below a folder; returns how many files there are, and the rest.

    Each recording's float32 array, (frames, dim) for `vectors` and (frames, K) for
    `distribution`, stands at its path with the suffix `.npy`. Files that are there already are
    kept, so that a stopped run goes on. reading: which part of a recording is used. soft.json says
    what made them, skipped.tsv which recordings were not readable, and why. Long recordings are
    streamed. Raises `UserError` where
    `units` has no soft units, where two recordings differ in their suffix alone, and where the
    folder holds soft units of other recordings, settings or units.
    """
    out_folder = Path(out_folder)
    reading = reading or Reading()
    require_soft(units)
    if this_process().num_processes > 1:
        raise UserError("soft units are written by one process; start the command by itself")
    use_own_device(units.encoder)
    ids = find_audio(audio_root)
    paths = dict(zip(ids, output_paths(out_folder, ids, ".npy"), strict=True))
    _claim(units, out_folder, kind, files_hash(audio_root, ids), reading)
    missing = [id_ for id_ in ids if not paths[id_].is_file()]
    skipped: Skipped = []
    with (
        closing(read_ahead(clip_groups(audio_root, missing, skipped, reading))) as groups,
        tqdm(
            total=len(ids),
            initial=len(ids) - len(missing),
            desc="soft units",
            unit="file",
            disable=not progress,
        ) as bar,
    ):
        for group in groups:
            for clip, parts in _soft_clips(units, group, kind):
                try:
                    write_rows(paths[clip.id], parts)
                except CannotWriteError:
                    raise
                except UserError as error:
                    reason = reason_without_path(error, audio_root, clip.id)
                    skipped.append((printable_name(clip.id), reason))
                bar.update()
    rows = [f"{id_}\t{reason}" for id_, reason in sorted(skipped)]
    write_text(out_folder / "skipped.tsv", "\n".join(["id\treason", *rows]) + "\n")
    return len(ids) - len(skipped), skipped


def write_rows(path: Path, parts: Iterable[NDArray[np.float32]]) -> None:
    """Write arrays (n, dim), one below the other, as one .npy file; memory holds one of them.

    The file appears whole or not at all. Raises `CannotWriteError` where it cannot be written.
    """

    def write(target: Path) -> None:
        n_rows, dim = 0, 0
        with target.open("wb") as file:
            for part in parts:
                if n_rows == 0:
                    dim = part.shape[1]
                    _write_header(file, n_rows, dim)
                file.write(np.ascontiguousarray(part, np.float32).tobytes())
                n_rows += len(part)
            # numpy leaves room in the header for the number of rows to grow.
            file.seek(0)
            _write_header(file, n_rows, dim)

    write_atomically(path, write)


def _write_header(file: BinaryIO, n_rows: int, dim: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)


def _soft_clips(
    units: UnitEncoder, group: list[Clip], kind: SoftKind
) -> Iterator[tuple[Clip, Iterable[NDArray[np.float32]]]]:
    """Each clip of a group with its soft units, in parts for a long one."""
    held = [clip for clip in group if clip.waveform is not None]
    waveforms = [clip.waveform for clip in held if clip.waveform is not None]
    for clip, frames in zip(held, encode_clips(units.encoder, waveforms), strict=True):
        yield clip, [soft_of_frames(units, units.normalize(frames.cpu()), kind)]
    for clip in group:
        if clip.waveform is None:
            blocks: Callable[[], Iterator[NDArray[np.float32]]] = clip.blocks
            yield clip, soft_blocks(units, blocks, kind)


def _claim(
    units: UnitEncoder, folder: Path, kind: SoftKind, recordings: str, reading: Reading
) -> None:
    """Keep in the folder what made its files; files of others are not to stand beside them."""
    about = {
        "format": "gslm-soft-units",
        "units": frame_units(units.fingerprint).to_json(),
        "soft_hash": tensors_hash(dict(require_soft(units).state_dict())),
        "kind": kind,
        "recordings": recordings,
    } | reading.to_source()
    path = folder / _ABOUT
    if path.is_file() and read_json_object(path) != about:
        raise UserError(
            f"{folder}: holds soft units of other recordings, another kind or another maker; name "
            "a new folder or delete this one"
        )
    write_json(path, about)
