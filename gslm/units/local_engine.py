"""Encoding a corpus in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from gslm.errors import UserError
from gslm.units.shards import EncodingJob, bound_kernel_cache, encode_shards, runs_of_shards


def encode_in_processes(
    job: EncodingJob, indices: Sequence[int], workers: int
) -> Generator[int, None, None]:
    """Encode shards in `workers` processes, or in this one; yields each number once on disk.

    Where this process is interrupted or dies, its workers end at once: what is lost is the shard
    that each of them was at. Raises `UserError` where a worker died.
    """
    workers = min(workers, len(indices))
    if workers <= 1:
        yield from encode_shards(job, indices)
        return
    # A fresh interpreter for each worker: a fork of one whose torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    parent_ends, lifeline = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job, parent_ends))
    try:
        with _ctrl_c_held():
            runs = [pool.submit(_work, run) for run in runs_of_shards(indices, workers)]
        for future in as_completed(runs):
            yield from future.result()
    except BaseException as error:
        lifeline.close()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(
            f"{job.folder}: a worker died, perhaps for lack of memory; run the same command "
            "again with fewer workers, finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        lifeline.close()
        parent_ends.close()


_worker_job: list[EncodingJob] = []


def _start_worker(job: EncodingJob, parent_ends: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and ends us
    threading.Thread(target=_end_with, args=(parent_ends,), daemon=True).start()
    bound_kernel_cache()
    _worker_job[:] = [job]


def _end_with(parent_ends: Connection) -> None:
    """End this process once nobody holds the other end of the pipe any more."""
    with contextlib.suppress(EOFError, OSError):
        parent_ends.recv()
    os._exit(1)


def _work(indices: list[int]) -> list[int]:
    return list(encode_shards(_worker_job[0], indices))


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Ctrl-C waits until the end, and processes started meanwhile never hear it.

    Else those that are still importing would each print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
