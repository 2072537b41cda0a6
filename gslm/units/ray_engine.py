"""Encoding a corpus on a Ray cluster, or on a Ray that is started here for the purpose."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from gslm.errors import UserError
from gslm.units.shards import EncodingJob, bound_kernel_cache, encode_shards, runs_of_shards


def encode_on_ray(
    job: EncodingJob, indices: Sequence[int], workers: int | None = None
) -> Generator[int, None, None]:
    """Encode shards in Ray tasks; yields the number of each once it is on disk.

    workers: most tasks at once, as many as the cluster has cores where None. The cluster is the
    one that this process joined, or that RAY_ADDRESS names, else one started on this machine and
    stopped at the end. Its nodes must see the folders under the same paths. The encoder goes into
    Ray's object store once, and each worker process takes it from there once.

    Raises `UserError` where Ray is not installed or a task's process dies again and again.
    """
    if not indices:
        return
    ray = _ray()
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    running: list[Any] = []
    try:
        workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # A worker of Ray's has another working folder.
        shared = ray.put(replace(job, root=job.root.absolute(), folder=job.folder.absolute()))
        task = ray.remote(num_cpus=job.threads)(_encode_run)
        waiting = runs_of_shards(indices, workers)[::-1]
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(task.remote([shared], waiting.pop()))
            done, running = ray.wait(running, num_returns=1)
            yield from ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{job.folder}: a Ray worker died ({reason}); run the same command again, perhaps "
            "with fewer workers: finished shards are kept"
        ) from None
    finally:
        for reference in running:
            ray.cancel(reference)
        if started_here:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine ray: Ray is not installed; install it with `pip install 'gslm[ray]'`"
        ) from None
    return ray


def _encode_run(shared: list[Any], indices: list[int]) -> list[int]:
    return list(encode_shards(_job(shared[0]), indices))


@lru_cache(maxsize=1)
def _job(reference: Any) -> EncodingJob:
    """The job behind a reference, taken from the object store once a process."""
    bound_kernel_cache()
    job: EncodingJob = _ray().get(reference)
    return job
