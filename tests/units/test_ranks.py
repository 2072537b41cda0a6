"""Several processes, as torchrun and accelerate start them: k-means, fitting and encoding."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gslm.audio import find_audio, write_wav
from gslm.corpus import Corpus, CorpusWriter
from gslm.errors import UserError
from gslm.units.encode import encode_corpus
from gslm.units.encoders import MFCCEncoder
from gslm.units.fit import fit_units
from gslm.units.normalization import feature_statistics
from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans
from gslm.units.quantizers.spherical import fit_spherical
from gslm.units.shards import EncodingJob
from gslm.units.unit_encoder import UnitEncoder

N_RANKS = 2
KILLED = 9
STOPPED = 3
CONFIG = KMeansConfig(20, seed=4, n_starts=2, reservoir_rows=500, passes=8, tolerance=0.0)


def _rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(30, 6, generator=generator)
    labels = torch.randint(30, (5000,), generator=generator)
    return centres[labels] + torch.randn(5000, 6, generator=generator)


def _parts(rows: torch.Tensor, rank: int | None, split: int) -> tuple[torch.Tensor, ...]:
    """Blocks of one rank, or of a single process that sees those of both."""
    shares = [rows[:split], rows[split:]]
    mine = shares if rank is None else [shares[rank]]
    return tuple(block for share in mine for block in share.split(700) if len(share))


def _cluster(rank: int | None) -> dict[str, Any]:
    """Everything that k-means does over ranks, in one process or in one of several."""
    rows = _rows()
    found: dict[str, Any] = {}
    for name, split in (("uneven", 1234), ("nothing", 0)):
        fitted = fit_kmeans(lambda: _parts(rows, rank, split), CONFIG)  # noqa: B023
        found[name] = fitted.centroids
        found[name + " sums"] = torch.tensor([fitted.inertia, fitted.n_rows, fitted.n_passes])
    # More centroids than there are different rows: some die in each pass.
    few = rows[:40].repeat(3, 1)
    fitted = fit_kmeans(lambda: _parts(few, rank, 70), KMeansConfig(60, seed=1, passes=3))
    found["dead"] = fitted.centroids
    found["spherical"] = fit_spherical(lambda: _parts(rows, rank, 1234), CONFIG).centroids
    measured = feature_statistics(_parts(rows, rank, 0), over_processes=True, dim=6)
    found["statistics"] = torch.stack([measured.mean, measured.deviation])
    return found


def _fit(audio: Path) -> UnitEncoder:
    return fit_units(audio, find_audio(audio), MFCCEncoder(), 12, seed=3, progress=False)


def _encode(audio: Path, folder: Path, units: UnitEncoder) -> Corpus:
    return encode_corpus(audio, folder, units, shard_size=2, progress=False)


def _all_work(rank: int, folder: Path) -> None:
    found = _cluster(rank)
    units = _fit(folder / "audio")
    torch.save(found | {"units": units.centroids}, folder / f"found-{rank}.pt")
    alone = UnitEncoder.load(folder / "units")
    _open_slowly(rank)
    corpus = _encode(folder / "audio", folder / "ranks", alone)
    assert len(corpus) == 9
    with pytest.raises(UserError, match="starts workers itself"):
        encode_corpus(folder / "audio", folder / "ray", alone, engine="ray", progress=False)
    _die(rank, folder)


def _open_slowly(rank: int) -> None:
    """Rank 1 is still opening the corpus, a file half written, when rank 0 has long done so."""
    open_corpus = EncodingJob.writer
    half_written: list[Path] = []

    def slow(job: EncodingJob) -> CorpusWriter:
        if not half_written:
            half_written.append(job.folder / ".half-written.tmp")
            job.folder.mkdir(exist_ok=True)
            half_written[0].touch()
            time.sleep(1)
            half_written[0].unlink()
        return open_corpus(job)

    if rank == 1:
        EncodingJob.writer = slow  # type: ignore[method-assign]


def _die(rank: int, folder: Path) -> None:
    """Rank 1 is killed when it would write its second shard; the other one is told."""
    write = CorpusWriter.write_shard

    def killed(self, index, rows, skipped=()):
        if rank == 1 and index == 3:
            os._exit(KILLED)
        write(self, index, rows, skipped)

    CorpusWriter.write_shard = killed  # type: ignore[method-assign]
    try:
        _encode(folder / "audio", folder / "killed", UnitEncoder.load(folder / "units"))
    except UserError as error:
        (folder / f"error-{rank}.txt").write_text(str(error))
        os._exit(STOPPED)


def _start(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(N_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
    }
    _all_work(rank, folder)


def _in_ranks(folder: Path) -> list[int | None]:
    """Do all work in two fresh processes; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_start, args=(rank, port, folder)) for rank in range(N_RANKS)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    return codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Nine good clips and a bad one, units of them, their corpus, and what two ranks made."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    for i in range(9):
        n = int(16_000 * rng.uniform(0.5, 1.5))
        swell = np.abs(np.sin(np.arange(n) / (2000 + 200 * i)))
        sound = 0.1 * swell * np.convolve(rng.standard_normal(n), np.ones(1 + i), "same")
        write_wav(folder / "audio" / f"clip {i}.wav", sound.astype(np.float32))
    (folder / "audio" / "bad.wav").write_text("no audio")
    units = _fit(folder / "audio")
    units.save(folder / "units")
    _encode(folder / "audio", folder / "alone", UnitEncoder.load(folder / "units"))
    # The last thing that they do is to die.
    assert _in_ranks(folder) == [STOPPED, KILLED]
    return folder


def _same_files(first: Path, second: Path) -> bool:
    names = [sorted(path.name for path in each.iterdir()) for each in (first, second)]
    return names[0] == names[1] and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names[0]
    )


def test_kmeans_over_ranks_equals_one_process(folder):
    alone = _cluster(None)
    ranks = [torch.load(folder / f"found-{rank}.pt") for rank in range(N_RANKS)]
    for name, expected in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        assert torch.allclose(ranks[0][name], expected, rtol=1e-5, atol=1e-5), name


def test_units_fitted_over_ranks_equal_those_of_one_process(folder):
    ranks = [torch.load(folder / f"found-{rank}.pt")["units"] for rank in range(N_RANKS)]
    assert torch.equal(ranks[0], ranks[1])
    alone = UnitEncoder.load(folder / "units").centroids
    assert torch.allclose(ranks[0], alone, rtol=1e-4, atol=1e-4)


def test_ranks_write_the_same_bytes(folder):
    assert _same_files(folder / "alone", folder / "ranks")
    assert [id_ for id_, _ in Corpus.open(folder / "ranks").skipped()] == ["bad.wav"]


def test_torchrun_starts_the_command_as_ranks(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(N_RANKS)]
    command += ["-m", "gslm", "units", "encode", folder / "audio", "--units", folder / "units"]
    command += ["--output", folder / "torchrun", "--shard-size", "2"]
    done = _run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("9 recordings") == 1
    assert _same_files(folder / "alone", folder / "torchrun")
    refused = _run([*command, "--workers", "2"])
    assert refused.returncode != 0
    assert "leave it out" in refused.stderr


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_killed_rank_stops_the_run_which_then_goes_on(folder):
    error = (folder / "error-0.txt").read_text()
    assert "another process of this run has stopped" in error
    assert "\n" not in error
    kept = {path: path.stat().st_mtime_ns for path in (folder / "killed").glob("*.parquet")}
    assert sorted(path.name[6:11] for path in kept) == ["00000", "00001", "00002", "00004"]
    with pytest.raises(UserError, match="is not finished"):
        Corpus.open(folder / "killed")
    _encode(folder / "audio", folder / "killed", UnitEncoder.load(folder / "units"))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert _same_files(folder / "alone", folder / "killed")
