"""Encoding on a local Ray cluster: the same bytes, resumed, with a bound on what is in flight."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gslm.audio import find_audio, write_wav
from gslm.corpus import Corpus, shard_path
from gslm.errors import UserError
from gslm.units.encode import encode_corpus
from gslm.units.encoders import MFCCEncoder
from gslm.units.fit import fit_units


@pytest.fixture(scope="module")
def ray():
    """A Ray of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: no wheel for this platform")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Nine clips, one of them long, and a bad one."""
    root = tmp_path_factory.mktemp("for ray")
    rng = np.random.default_rng(0)
    for i in range(9):
        n = int(16_000 * (65 if i == 4 else rng.uniform(0.5, 1.5)))
        swell = np.abs(np.sin(np.arange(n) / (2000 + 200 * i)))
        sound = 0.1 * swell * np.convolve(rng.standard_normal(n), np.ones(1 + i), "same")
        write_wav(root / "a b" / f"clip {i}.wav", sound.astype(np.float32))
    (root / "bad.wav").write_text("no audio")
    return root


@pytest.fixture(scope="module")
def units(audio):
    return fit_units(audio, find_audio(audio), MFCCEncoder(), 12, progress=False)


def _encode(audio, folder, units, **settings) -> Corpus:
    return encode_corpus(audio, folder, units, shard_size=2, progress=False, **settings)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_ray_writes_the_bytes_of_local_workers(ray, audio, units, tmp_path, monkeypatch):
    n_running, n_put = [], []
    wait, put = ray.wait, ray.put
    monkeypatch.setattr(
        ray, "wait", lambda running, **rest: n_running.append(len(running)) or wait(running, **rest)
    )
    monkeypatch.setattr(ray, "put", lambda value: n_put.append(1) or put(value))
    _encode(audio, tmp_path / "local", units)
    monkeypatch.chdir(tmp_path)  # workers have another folder than this process
    corpus = _encode(audio, "ray", units, engine="ray", workers=None)
    assert _bytes(tmp_path / "local") == _bytes(tmp_path / "ray")
    assert [id_ for id_, _ in corpus.skipped()] == ["bad.wav"]
    assert max(n_running) == 2
    assert len(n_put) == 1


def test_a_run_on_ray_goes_on_and_then_has_nothing_to_do(ray, audio, units, tmp_path, monkeypatch):
    _encode(audio, tmp_path / "c", units)
    before = _bytes(tmp_path / "c")
    kept = shard_path(tmp_path / "c", 0).stat().st_mtime_ns
    shard_path(tmp_path / "c", 3).unlink()
    (tmp_path / "c" / "corpus.json").unlink()
    _encode(audio, tmp_path / "c", units, engine="ray")
    assert _bytes(tmp_path / "c") == before
    assert shard_path(tmp_path / "c", 0).stat().st_mtime_ns == kept
    monkeypatch.setattr(ray, "remote", None)
    _encode(audio, tmp_path / "c", units, engine="ray")
    assert _bytes(tmp_path / "c") == before


def test_ctrl_c_cancels_what_runs_and_keeps_what_is_done(ray, audio, units, tmp_path, monkeypatch):
    whole = _encode(audio, tmp_path / "whole", units)
    cancelled, get, cancel = [], ray.get, ray.cancel

    def interrupted(reference):
        get(reference)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ray, "get", interrupted)
        patch.setattr(ray, "cancel", lambda task: cancelled.append(1) or cancel(task))
        _encode(audio, tmp_path / "c", units, engine="ray", workers=2)
    assert len(cancelled) == 1  # of two workers, one had brought its shard
    assert ray.is_initialized()
    assert any(shard_path(tmp_path / "c", i).is_file() for i in range(whole.n_shards))
    _encode(audio, tmp_path / "c", units, engine="ray")
    assert _bytes(tmp_path / "c") == _bytes(tmp_path / "whole")


def test_what_a_worker_cannot_write_is_one_line(ray, audio, units, tmp_path):
    shard_path(tmp_path / "c", 2).mkdir(parents=True)
    (shard_path(tmp_path / "c", 2) / "in the way").touch()
    with pytest.raises(UserError, match=r"units-00002\.parquet: is a folder") as error:
        _encode(audio, tmp_path / "c", units, engine="ray")
    assert "\n" not in str(error.value)
    assert type(error.value).__module__ == "gslm.errors"


def test_a_missing_ray_is_told_in_one_line(audio, units, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'gslm\[ray\]'"):
        _encode(audio, tmp_path / "c", units, engine="ray")


def test_an_unknown_engine_is_an_error(audio, units, tmp_path):
    with pytest.raises(UserError, match="choose local or ray"):
        _encode(audio, tmp_path / "c", units, engine="spark")
