"""What the processes of one run tell each other; alone, every function does nothing.

Gradients are averaged here just before a step, rather than by a wrapper around each module:
modules stay plain, a task may call their other methods, and several losses with networks that
are frozen in turn (a GAN) need no special care.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

from gslm.errors import UserError

_LONGEST_WAIT = timedelta(days=30)  # one process may have hours of work left when others are done


def this_process() -> PartialState:
    """Device and place of this process; joins those that torchrun or accelerate started."""
    # accelerate forms a group of CPU processes only where it is told that there is no GPU.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def use_own_device(encoder: object) -> None:
    """Put an encoder's network (its `model`) on the device of this process.

    Alone, only on a CUDA device: what a single process does elsewhere is made for the processor.
    """
    process = this_process()
    model = getattr(encoder, "model", None)
    wanted = process.num_processes > 1 or process.device.type == "cuda"
    if wanted and isinstance(model, nn.Module):
        model.to(process.device)


def wait_for_all() -> None:
    """Return once every process has come here, however long the others take.

    Raises `UserError` where one of them has stopped.
    """
    if this_process().num_processes > 1:
        with _others_may_stop():
            dist.barrier(_host_group(dist.group.WORLD))


def add_over_processes(*tensors: Tensor) -> None:
    """Replace CPU tensors by their sums over processes, which have them in the same shapes.

    Raises `UserError` where a process has stopped.
    """
    if this_process().num_processes > 1:
        with _others_may_stop():
            for tensor in tensors:
                dist.all_reduce(tensor, group=_host_group(dist.group.WORLD))


def copy_of_first(tensor: Tensor) -> Tensor:
    """The first process' tensor, on the CPU; the others give one of the same shape and type.

    Raises `UserError` where a process has stopped.
    """
    if this_process().num_processes > 1:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        with _others_may_stop():
            dist.broadcast(tensor, src=0, group=_host_group(dist.group.WORLD))
    return tensor


@lru_cache(maxsize=1)
def _host_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All processes, speaking over their CPUs, whatever their accelerators use."""
    ranks = dist.get_process_group_ranks(world)
    return dist.new_group(ranks, backend="gloo", timeout=_LONGEST_WAIT)


@contextmanager
def _others_may_stop() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # "[file:line] What happened. More of it": only what happened is of use here.
        reason = re.sub(r"^\[\S*\]\s*", "", " ".join(str(error).split())).split(". ")[0][:120]
        raise UserError(
            f"another process of this run has stopped ({reason}); mend what it says, if it says "
            "anything, then run the same command again: finished work is kept"
        ) from None


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over processes; all must have taken the same path."""
    n_processes = this_process().num_processes
    if n_processes > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= n_processes


def copy_from_first(modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights."""
    if this_process().num_processes > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, src=0)


def value_of_first(value: float) -> float:
    """The first process' value, so that all decide alike."""
    state = this_process()
    if state.num_processes == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float32, device=state.device)
    dist.broadcast(shared, src=0)
    return float(shared)


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    state = this_process()
    if state.num_processes == 1:
        return flag
    raised = torch.tensor([float(flag)], device=state.device)
    dist.all_reduce(raised)
    return bool(raised > 0)


def random_states() -> dict[str, list[Tensor]]:
    """Random states of all processes (uint8), for the processor and for the GPU in use."""
    state = this_process()
    own = {"cpu": torch.get_rng_state()}
    if state.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(state.device)
    if state.num_processes == 1:
        return {key: [value] for key, value in own.items()}
    return {key: _gathered(value.to(state.device)) for key, value in own.items()}


def _gathered(value: Tensor) -> list[Tensor]:
    values = [torch.empty_like(value) for _ in range(this_process().num_processes)]
    dist.all_gather(values, value)
    return [each.cpu() for each in values]


def restore_random_states(states: dict[str, list[Tensor]]) -> None:
    """Set this process' random state; left alone where the number of processes has changed."""
    process = this_process()
    if len(states["cpu"]) != process.num_processes:
        return
    torch.set_rng_state(states["cpu"][process.process_index])
    if process.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"][process.process_index], process.device)
