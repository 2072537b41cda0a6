"""Units from audio files: times real time, share of the matmul rate, workers, kill and resume.

    python benchmarks/units_from_files.py AUDIO_DIR [--whisper tiny.en] [--hours 2] [--quick]

Repeats the folder by links until `--hours` of audio are listed. For log-mel and Whisper layer 3,
fits K = 100 on a part, then encodes with one and two workers of one thread each. Start-up (the
workers' imports) is measured on one clip and shown apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import torch
from machine import matmul_rate

from gslm.audio import find_audio, read_audio
from gslm.units.chunking import cut
from gslm.units.encode import encode_corpus
from gslm.units.encoders import WhisperEncoder, begun_frames, load_encoder
from gslm.units.fit import fit_units
from gslm.units.unit_encoder import UnitEncoder

WORKERS = 2


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("--whisper", default="tiny.en", help="folder or Hub name")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true", help="three minutes of audio")
    arguments = parser.parse_args()
    source = arguments.whisper
    if source == "tiny.en":
        from gslm.pretrained import whisper_tiny_en

        source = whisper_tiny_en()
    torch.set_num_threads(WORKERS)
    rate = matmul_rate()
    print(f"matmul 2048^3, {WORKERS} threads: {rate:.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        hours = 0.05 if arguments.quick else arguments.hours
        seconds = repeat_audio(arguments.audio, work / "audio", hours * 3600)
        print(f"audio: {seconds / 3600:.2f} hours, {len(find_audio(work / 'audio'))} files")
        for name in ("log-mel", source):
            encoder = load_encoder(name, 3)
            ids = find_audio(arguments.audio)
            units = fit_units(arguments.audio, ids, encoder, 100, max_frames=20_000, progress=False)
            _measure(work, units, seconds, rate)


def _measure(work: Path, units: UnitEncoder, seconds: float, rate: float) -> None:
    name = units.encoder.name
    one_clip = find_audio(work / "audio")[:WORKERS]
    startup = _timed(work, work / f"{name}-start", units, WORKERS, ids=one_clip, shard_size=1)
    total = _timed(work, work / f"{name}-2", units, WORKERS)
    net = total - startup
    print(f"{name}: {total:.1f} s, start-up {startup:.1f} s; {seconds / net:.0f} x real time")
    if isinstance(units.encoder, WhisperEncoder):
        gflop = _gflop(work / "audio", units.encoder)
        print(
            f"{name}: {gflop / seconds:.2f} GFLOP a second of audio; {gflop / net:.0f} GFLOP/s, "
            f"{gflop / net / rate:.0%} of the matmul rate"
        )
    _timed(work, work / f"{name}-1", units, 1)
    _killed_and_resumed(work, work / f"{name}-resumed", units, total / 2)
    reference = _contents(work / f"{name}-2")
    print(f"{name}: one worker the same bytes: {_contents(work / f'{name}-1') == reference}")
    same = _contents(work / f"{name}-resumed") == reference
    print(f"{name}: after kill -9 and resume the same bytes: {same}")


def _timed(work: Path, folder: Path, units: UnitEncoder, workers: int, **settings) -> float:
    start = time.perf_counter()
    encode_corpus(work / "audio", folder, units, workers=workers, progress=False, **settings)
    return time.perf_counter() - start


def _killed_and_resumed(work: Path, folder: Path, units: UnitEncoder, after_s: float) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_timed, args=(work, folder, units, 1))
    process.start()
    time.sleep(after_s + 5)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    n_shards = len(list(folder.glob("units-*.parquet")))
    print(f"{units.encoder.name}: killed with {n_shards} shards written")
    _timed(work, folder, units, 1)


def repeat_audio(source: Path, target: Path, seconds: float) -> float:
    """Link the folder's files again and again until they make `seconds` of audio."""
    lengths = {id_: len(read_audio(source / id_)) / 16_000 for id_ in find_audio(source)}
    total = 0.0
    copy = 0
    while total < seconds:
        for id_, length in lengths.items():
            path = target / f"copy-{copy:03d}" / id_
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / id_, path)
            except OSError:
                shutil.copyfile(source / id_, path)
            total += length
            if total >= seconds:
                break
        copy += 1
    return total


def _gflop(root: Path, encoder: WhisperEncoder) -> float:
    """Products of convolutions, projections and attention, over the chunks as they are cut."""
    config = encoder.model.config
    d, mels = config.d_model, config.n_mels
    linear = 2 * (4 * d * d + 2 * d * config.ffn_dim)
    total = 0
    for id_ in find_audio(root):
        for chunk in cut([read_audio(root / id_)], encoder.chunking, encoder.hop_length):
            n = begun_frames(len(chunk.samples))
            total += 2 * (2 * n) * 3 * mels * d + 2 * n * 3 * d * d
            total += config.layer * (n * linear + 4 * n * n * d)
    return total / 1e9


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    main()
