"""What the processes of one training run tell each other; alone, every function does nothing.

Gradients are averaged here just before a step, rather than by a wrapper around each module:
modules stay plain, a task may call their other methods, and several losses with networks that
are frozen in turn (a GAN) need no special care.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn


def this_process() -> PartialState:
    """Device and place of this process; joins those that torchrun or accelerate started."""
    # accelerate forms a group of CPU processes only where it is told that there is no GPU.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


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
