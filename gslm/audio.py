"""Reading, streaming, finding and writing audio of any format as float32 mono."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from gslm.errors import CannotWriteError, UserError

SAMPLE_RATE = 16_000
"""Sampling rate of every stage, in Hz."""

AUDIO_EXTENSIONS = frozenset(
    [
        ".wav",
        ".flac",
        ".ogg",
        ".opus",
        ".mp3",
        ".m4a",
        ".aac",
        ".aiff",
        ".aif",
        ".au",
        ".webm",
        ".wma",
        ".g722",
        ".sph",
        ".mp4",
        ".mka",
    ]
)
_RAW_FORMATS = {".g722": "g722"}
_READ_SECONDS = 10.0

Waveform = NDArray[np.float32]


def find_audio(root: str | Path) -> list[str]:
    """Audio files below `root`: POSIX paths relative to it, sorted.

    Links to files count as files; links to folders are not entered. A name that is not UTF-8
    is listed as Python spells it, see `require_utf8_name`. Raises `UserError` where the folder
    is missing or holds no audio.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a folder of audio files")
    paths = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in AUDIO_EXTENSIONS and path.is_file()
    )
    if not paths:
        known = " ".join(sorted(AUDIO_EXTENSIONS))
        raise UserError(f"{root}: no audio files in this folder; known endings are {known}")
    return paths


def clip_id(path: str) -> str:
    """A relative path without the suffix of an audio file: `a/b.c.flac` -> `a/b.c`."""
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix.lower() in AUDIO_EXTENSIONS else str(pure)


def resolve_inside(root: str | Path, relative: str) -> Path:
    """Path of `relative` below `root`.

    Raises `UserError` where the name leads out of the root: absolute, or with a `..` in it.
    Links are followed wherever they lead: what lies in the folder is the user's own doing.
    """
    name = PurePath(relative)
    if name.is_absolute() or not name.parts or ".." in name.parts:
        raise UserError(f"{relative}: leads outside {root}; paths must stay inside their folder")
    return Path(root) / relative


def output_paths(folder: str | Path, ids: Sequence[str], suffix: str = ".wav") -> list[Path]:
    """Where what is made of each id goes below `folder`: the id with another suffix.

    Raises `UserError` where an id leads outside the folder, or two would share one file.
    """
    taken: dict[Path, str] = {}
    for id_ in ids:
        path = resolve_inside(folder, id_).with_suffix(suffix)
        if path in taken:
            raise UserError(
                f"{printable_name(taken[path])} and {printable_name(id_)} would both be written "
                f"to {printable_name(str(path))}; rename one"
            )
        taken[path] = id_
    return list(taken)


def read_ids(path: str | Path) -> list[str]:
    """Paths of a list file: the first column of each line, as `find_audio` gives them.

    Blank lines are passed over; `#` at the start of a line makes it a comment. Raises
    `UserError` where the file is missing or not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a list of ids, one a line") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a list of ids ({error})") from None
    ids = (line.split("\t")[0].strip() for line in lines)
    return [id_ for id_ in ids if id_ and not id_.startswith("#")]


def require_utf8_name(name: str) -> None:
    """Raise a `UserError` for a file name that no text, corpus or terminal could hold."""
    if printable_name(name) != name:
        raise UserError(f"{printable_name(name)}: its name is not valid UTF-8; rename it")


def printable_name(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are written as in `caf\\xe9.wav`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_audio(
    path: str | Path, sample_rate: int = SAMPLE_RATE, channel: int | None = None
) -> Waveform:
    """Read a whole file as float32 mono in [-1, 1], shape (samples,), at `sample_rate` Hz.

    Channels are averaged unless `channel` picks one. Raises `UserError` for a file that is
    unreadable, empty, or holds NaN or infinite samples.
    """
    return np.concatenate(list(stream_audio(path, sample_rate, channel=channel)))


def stream_audio(
    path: str | Path,
    sample_rate: int = SAMPLE_RATE,
    block_seconds: float = 30.0,
    channel: int | None = None,
) -> Iterator[Waveform]:
    """Yield a file's samples in order as blocks of `block_seconds` at `sample_rate` Hz.

    All blocks but the last have equal length; memory is bounded by one block. Joined, the
    blocks equal `read_audio`. Raises `UserError` as `read_audio` does.
    """
    path = Path(path)
    block_size = max(1, round(block_seconds * sample_rate))
    pending: list[Waveform] = []
    n_pending = n_total = 0
    for samples in _resampled(path, sample_rate, channel):
        pending.append(samples)
        n_pending += len(samples)
        n_total += len(samples)
        while n_pending >= block_size:
            joined = np.concatenate(pending)
            yield joined[:block_size]
            pending = [joined[block_size:]]
            n_pending -= block_size
    if n_total == 0:
        raise UserError(f"{path}: holds no samples; remove the file or record it again")
    if n_pending:
        yield np.concatenate(pending)


def write_wav(path: str | Path, waveform: Waveform, sample_rate: int = SAMPLE_RATE) -> None:
    """Write float samples (samples,) in [-1, 1] as 16-bit WAV; a crash leaves no half file."""
    path = Path(path)
    require_utf8_name(str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            temporary, np.clip(waveform, -1, 1), sample_rate, subtype="PCM_16", format="WAV"
        )
        temporary.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        # libsndfile only says "System error"; the path in its message is the temporary one.
        reason = error.strerror if isinstance(error, OSError) else "no room or no permission"
        raise CannotWriteError(
            f"{path}: cannot write audio ({reason}); free some space or choose another folder, "
            "then run the same command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _resampled(path: Path, sample_rate: int, channel: int | None) -> Iterator[Waveform]:
    resampler: soxr.ResampleStream | None = None
    for samples, source_rate in _decoded(path, channel):
        if not np.isfinite(samples).all():
            raise UserError(f"{path}: holds NaN or infinite samples; convert or remove the file")
        if source_rate == sample_rate:
            yield _within_scale(samples)
            continue
        if resampler is None:
            resampler = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32")
        yield _within_scale(resampler.resample_chunk(samples))
    if resampler is not None:
        yield _within_scale(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _within_scale(samples: Waveform) -> Waveform:
    # Formats in floating point and resampling may exceed full scale; all stages expect [-1, 1].
    return np.clip(samples, -1.0, 1.0)


def _decoded(path: Path, channel: int | None) -> Iterator[tuple[Waveform, int]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix.lower() not in _RAW_FORMATS:
        try:
            source = soundfile.SoundFile(path)
        except UnicodeEncodeError:
            require_utf8_name(str(path))
            raise
        except soundfile.LibsndfileError:
            pass
        else:
            with source:
                yield from _soundfile_blocks(source, path, channel)
            return
    yield from _pyav_blocks(path, channel)


def _soundfile_blocks(
    source: soundfile.SoundFile, path: Path, channel: int | None
) -> Iterator[tuple[Waveform, int]]:
    n_read = int(_READ_SECONDS * source.samplerate)
    while True:
        try:
            samples = source.read(n_read, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: damaged audio ({error}); remove or replace it") from None
        if len(samples) == 0:
            return
        yield _to_mono(samples, channel, path), source.samplerate


def _pyav_blocks(path: Path, channel: int | None) -> Iterator[tuple[Waveform, int]]:
    try:
        with av.open(str(path), format=_RAW_FORMATS.get(path.suffix.lower())) as container:
            if not container.streams.audio:
                raise UserError(f"{path}: has no audio track")
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(audio=0):
                for converted in to_float.resample(frame):
                    samples = converted.to_ndarray().T.astype(np.float32)
                    yield _to_mono(samples, channel, path), converted.sample_rate
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}: not readable as audio ({reason}); convert or remove it") from None


def _to_mono(samples: NDArray[np.float32], channel: int | None, path: Path) -> Waveform:
    if channel is None:
        return samples.mean(axis=1, dtype=np.float32)
    if not 0 <= channel < samples.shape[1]:
        raise UserError(f"{path}: has {samples.shape[1]} channels, none numbered {channel}")
    return samples[:, channel].astype(np.float32)
