"""A corpus at scale: peak memory over hours of audio, reading ahead, workers, ranks and Ray.

    python benchmarks/encode_at_scale.py AUDIO_DIR [--encoder tiny.en] [--hours 10] [--quick]

Links the folder's files again and again until there are 10 minutes, 1 hour and `--hours` of audio,
and joins them into one file of 3 hours. Each is encoded in a fresh process, which reports its
peak memory. The hour is then encoded with reading ahead and without, and by each way to start
several processes, from whose times the start-up (measured on two clips) is taken off; all must
write the same bytes. Last, the padding in batches of the folder's own lengths.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import soundfile
import torch
from machine import matmul_rate, peak_memory
from torch import Tensor
from units_from_files import repeat_audio

import gslm.units
from gslm.audio import SAMPLE_RATE, find_audio, read_audio
from gslm.units import shards
from gslm.units.chunking import encode_clips
from gslm.units.encode import encode_corpus
from gslm.units.encoders import begun_frames, load_encoder
from gslm.units.encoders.batching import MAX_PADDING, half_minute_chunks, like_lengths
from gslm.units.fit import fit_units
from gslm.units.recordings import clip_groups

SHARD_SIZE = 64
FILE_HOURS = 3.0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("--encoder", default="tiny.en")
    parser.add_argument("--hours", type=float, default=10.0, help="of the largest folder")
    parser.add_argument("--quick", action="store_true", help="a twentieth of all hours")
    parser.add_argument("--memory-only", action="store_true", help="leave the engines out")
    parser.add_argument("--ahead", choices=["yes", "no"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ahead:
        _encode_here(arguments.audio, arguments.work, arguments.ahead == "yes")
        return
    print(f"matmul 2048^3, {torch.get_num_threads()} threads: {matmul_rate():.0f} GFLOP/s")
    scale = 1 / 20 if arguments.quick else 1.0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        _fit(arguments.audio, arguments.encoder).save(work / "units")
        for name, hours in (("10 min", 1 / 6), ("1 h", 1.0), ("most", arguments.hours)):
            seconds = repeat_audio(arguments.audio, work / name, hours * scale * 3600)
            _report(f"{seconds / 3600:6.2f} h, {len(find_audio(work / name))} files", work, name)
        seconds = _one_file(arguments.audio, work / "one file", FILE_HOURS * scale * 3600)
        _report(f"{seconds / 3600:6.2f} h, one file", work, "one file")
        _report("the hour, reading ahead", work, "1 h")
        _report("the hour, not reading ahead", work, "1 h", "no")
        if not arguments.memory_only:
            _compare_engines(work)
    print(f"padding in batches of these lengths: {_padding(arguments.audio):.1%}")


def _fit(audio: Path, name: str) -> gslm.units.UnitEncoder:
    from gslm.pretrained import whisper_tiny_en

    source = whisper_tiny_en() if name == "tiny.en" else name
    ids = find_audio(audio)
    encoder = load_encoder(source, 3 if name == "tiny.en" else None)
    return fit_units(audio, ids, encoder, 100, max_frames=20_000, progress=False)


def _one_file(source: Path, path: Path, seconds: float) -> float:
    """Write the folder's recordings, joined, as one file below `path`."""
    path.mkdir()
    n_samples = 0
    with soundfile.SoundFile(path / "long.wav", "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for id_ in cycle(find_audio(source)):
            waveform = read_audio(source / id_)
            file.write(waveform)
            n_samples += len(waveform)
            if n_samples >= seconds * SAMPLE_RATE:
                return n_samples / SAMPLE_RATE
    raise AssertionError


def _report(what: str, work: Path, name: str, ahead: str = "yes") -> None:
    """Encode a folder in a fresh process and print what it says."""
    command = [sys.executable, __file__, work / name, "--work", work, "--ahead", ahead]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed.splitlines()[-1])
    print(
        f"{what:32} {found['seconds']:8.1f} s {found['rate']:6.0f} x real time   "
        f"peak {found['peak']:5.0f} MB ({found['peak'] - found['before']:+.0f} by encoding)",
        flush=True,
    )


def _encode_here(audio: Path, work: Path, ahead: bool) -> None:
    """Encode with one thread and print time, speed and peak memory as JSON."""
    if not ahead:
        shards.read_ahead = _plainly
    shards.bound_kernel_cache()  # as the command does
    units = gslm.units.load(work / "units")
    torch.set_num_threads(1)
    before = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        corpus = encode_corpus(audio, folder, units, shard_size=SHARD_SIZE, progress=False)
        seconds = time.perf_counter() - start
    rate = corpus.n_samples / SAMPLE_RATE / seconds
    print(json.dumps({"seconds": seconds, "rate": rate, "before": before, "peak": peak_memory()}))


def _plainly(items, n_ahead: int = 1) -> Iterator:  # noqa: ARG001
    yield from items


def _compare_engines(work: Path) -> None:
    """Time the command on the hour, by each way to start processes."""
    gslm_module = ["-m", "gslm", "units", "encode"]
    python = [sys.executable, *gslm_module]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    ways = {
        "1 process": [*python, "--workers", "1"],
        "2 workers": [*python, "--workers", "2"],
        "2 ranks": [*ranks, *gslm_module],
        "Ray, 2 workers": [*python, "--engine", "ray", "--workers", "2"],
    }
    first = find_audio(work / "1 h")[:2]
    (work / "two.tsv").write_text(f"{work / '1 h'}\n" + "".join(f"{id_}\t1\n" for id_ in first))
    seconds = sum(soundfile.info(work / "1 h" / id_).duration for id_ in find_audio(work / "1 h"))
    reference: dict[str, bytes] = {}
    base = 0.0
    for way, command in ways.items():
        start_up = _timed(command, work, ["--manifest", work / "two.tsv", "--shard-size", "1"])
        net = _timed(command, work, [work / "1 h", "--shard-size", SHARD_SIZE]) - start_up
        made = {path.name: path.read_bytes() for path in (work / "corpus").iterdir()}
        reference, base = reference or made, base or net
        print(
            f"{way:16} {net:7.1f} s beside {start_up:.1f} s of start-up, {seconds / net:5.0f} x "
            f"real time, {base / net:.2f} x one process, same bytes: {made == reference}",
            flush=True,
        )


def _timed(command: Sequence[str], work: Path, options: Sequence[object]) -> float:
    shutil.rmtree(work / "corpus", ignore_errors=True)
    arguments = [*command, *options, "--units", work / "units", "-o", work / "corpus"]
    start = time.perf_counter()
    subprocess.run([str(x) for x in arguments], check=True, capture_output=True)
    return time.perf_counter() - start


class _Counter:
    """Stands for an encoder that pads batches, of HuBERT's layout, and counts what it would pad."""

    hop_length = 320
    chunking = half_minute_chunks(hop_length)
    n_frames = staticmethod(begun_frames)

    def __init__(self) -> None:
        self.full = self.filled = 0

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        lengths = [self.n_frames(len(clip)) for clip in clips]
        for group in like_lengths(lengths, MAX_PADDING):
            self.full += len(group) * lengths[group[0]]
            self.filled += sum(lengths[i] for i in group)
        return [torch.zeros(length, 0) for length in lengths]


def _padding(audio: Path) -> float:
    """Share of the frames in batches that are padding."""
    counter = _Counter()
    for group in clip_groups(audio, find_audio(audio), []):
        encode_clips(counter, [clip.waveform for clip in group if clip.waveform is not None])
    return 1 - counter.filled / counter.full


if __name__ == "__main__":
    main()
