"""Encoding in processes of this machine: the same bytes, and clean ends however a run is ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gslm.audio import find_audio, write_wav
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.units import encode
from gslm.units.encode import encode_corpus
from gslm.units.encoders import MFCCEncoder
from gslm.units.fit import fit_units
from gslm.units.shards import encode_shards

N_CLIPS = 200


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """200 clips of 12 seconds, which are links to four, a long one and a bad one."""
    root = tmp_path_factory.mktemp("many clips")
    rng = np.random.default_rng(0)
    for i, seconds in enumerate([12, 12, 12, 12, 65]):
        swell = np.abs(np.sin(np.arange(seconds * 16_000) / (2000 + 300 * i)))
        sound = 0.1 * swell * rng.standard_normal(len(swell))
        write_wav(root / f"clip {i:03d}.wav", sound.astype(np.float32))
    for i in range(5, N_CLIPS + 1):
        os.link(root / f"clip {i % 4:03d}.wav", root / f"clip {i:03d}.wav")
    (root / "bad.wav").write_text("no audio")
    return root


@pytest.fixture(scope="module")
def units(audio):
    return fit_units(audio, find_audio(audio)[:5], MFCCEncoder(), 12, progress=False)


@pytest.fixture(scope="module")
def whole(audio, units, tmp_path_factory) -> dict[str, bytes]:
    """The files of the corpus that one process makes."""
    folder = tmp_path_factory.mktemp("whole")
    _encode(audio, folder, units)
    return _bytes(folder)


def _encode(audio, folder, units, **settings) -> Corpus:
    return encode_corpus(audio, folder, units, shard_size=2, progress=False, **settings)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _goes_on(audio, folder, units, whole) -> bool:
    """Whether another run keeps the shards of a stopped one and makes the whole corpus."""
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("units-*.parquet")}
    assert 0 < len(kept) < len(find_audio(audio)) // 2
    _encode(audio, folder, units)
    return _bytes(folder) == whole and all(
        path.stat().st_mtime_ns == written for path, written in kept.items()
    )


def _soon_gone(group: int) -> bool:
    """Whether all processes of a group end within a few seconds."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_as_many_workers_as_cores_where_there_is_enough_to_do(audio, units, tmp_path, monkeypatch):
    asked: list[int] = []

    def alone(job, indices, workers):
        asked.append(workers)
        return encode_shards(job, indices)

    monkeypatch.setattr(encode, "encode_in_processes", alone)
    monkeypatch.setattr(encode.os, "cpu_count", lambda: 7)
    few = ["clip 000.wav", "clip 001.wav", "clip 002.wav"]
    _encode(audio, tmp_path / "little", units, workers=None, ids=few)
    _encode(audio, tmp_path / "much", units, workers=None)
    assert asked == [1, 7]


def test_two_workers_write_the_same_bytes(audio, units, whole, tmp_path):
    corpus = _encode(audio, tmp_path / "two", units, workers=2)
    assert _bytes(tmp_path / "two") == whole
    assert [id_ for id_, _ in corpus.skipped()] == ["bad.wav"]


def test_a_killed_worker_is_told_and_loses_its_shard_alone(
    audio, units, whole, tmp_path, monkeypatch
):
    class KillsOne:
        """A progress bar that kills a worker when the first shards are done."""

        def __init__(self, **settings):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            if workers := multiprocessing.active_children():
                workers[0].kill()

    with monkeypatch.context() as patch, pytest.raises(UserError, match="a worker died") as error:
        patch.setattr(encode, "tqdm", KillsOne)
        _encode(audio, tmp_path / "c", units, workers=2)
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()
    assert _goes_on(audio, tmp_path / "c", units, whole)


@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C to a group of processes")
def test_ctrl_c_ends_all_workers_without_a_traceback(audio, units, whole, tmp_path):
    units.save(tmp_path / "u")
    folder = tmp_path / "c"
    command = ["units", "encode", audio, "--units", tmp_path / "u", "-o", folder]
    # A shell's background job ignores Ctrl-C, and what it starts, such as this suite, does too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(
        [sys.executable, "-m", "gslm", *command, "--workers", "2", "--shard-size", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    while run.poll() is None and not list(folder.glob("units-*.parquet")):
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    printed = run.communicate(timeout=120)[0]
    assert run.returncode == 130, printed
    assert "Traceback" not in printed
    assert "Error" not in printed
    assert _soon_gone(run.pid)
    assert _goes_on(audio, folder, units, whole)
