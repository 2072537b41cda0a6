"""Weights in the files of others: only the tensors that are wanted, and never pickled code."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gslm.bundle import read_json_object
from gslm.errors import UserError

_SAFETENSORS = "model.safetensors"
_PICKLED = "pytorch_model.bin"

HUB_SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
"""Patterns of the files to ask the Hub for first."""
HUB_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
"""Patterns to ask for where a repository has no safetensors."""


def has_safetensors(folder: Path) -> bool:
    """Whether a model's folder holds its weights as safetensors, in one file or in several."""
    return any((folder / f"{_SAFETENSORS}{end}").is_file() for end in ("", ".index.json"))


def read_wanted(folder: Path, wanted: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Read tensors of a transformers folder, one by one.

    wanted: from a tensor's name in the file to the name that it gets, or None where it is not to
    be read. safetensors are preferred; `pytorch_model.bin` is mapped into memory and only the
    wanted tensors are copied. Raises `UserError` where there are no weights, or damaged ones.
    """
    if has_safetensors(folder):
        paths, read = _parts(folder, _SAFETENSORS), _read_wanted_safetensors
    else:
        paths, read = _parts(folder, _PICKLED), _read_pickled
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= read(path, wanted)
    return tensors


def load_pickled(path: Path) -> Any:
    """Read what `torch.save` wrote: tensors, numbers, text, lists and dictionaries, no code.

    Tensors are mapped from the file, so that only what is used is read. Raises `UserError` for
    a file that is no such file, is truncated, or asks to run something.
    """
    mapped = zipfile.is_zipfile(path)  # files from before torch 1.6 cannot be mapped
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise _not_torchs(path, "a pickle of another program, or none") from None
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks to run {asked[1]}" if asked else "holds more than tensors"
        raise UserError(
            f"{path}: {what}, which a file of weights need not; it was not run. Convert the "
            "file to safetensors where you trust it"
        ) from None
    except (KeyError, IndexError, EOFError):  # what these say means nothing to a reader
        raise _not_torchs(path, "no pickle, or one that is cut off") from None
    except Exception as error:  # bytes that are no pickle fail in any way
        raise _not_torchs(path, " ".join(str(error).split())[:120]) from None


def _not_torchs(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: damaged, truncated or not torch's ({reason}); copy it again")


def read_safetensors(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, Tensor | None]:
    """Tensors of a file by name; of those that are not wanted the names alone, with None.

    Raises `UserError` where the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; the model is incomplete")
    try:
        with safe_open(path, "pt") as file:
            return {
                name: file.get_tensor(name) if is_wanted(name) else None
                for name in file.keys()  # noqa: SIM118  (no dictionary)
            }
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or truncated ({error}); copy it again") from None


def fill_model(model: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Give a model of the meta device its weights, as float32; they must fit exactly.

    where: they were read, for errors. Raises `UserError` where a weight is missing, is too many,
    is of another shape, or holds anything but finite numbers.
    """
    kinds = {name: part.is_floating_point() for name, part in model.state_dict().items()}
    ready = {}
    try:
        for name, tensor in tensors.items():
            is_float = kinds.get(name, True)
            if is_float and (tensor.is_complex() or not tensor.isfinite().all()):
                raise UserError(f"{where}: {name} holds other than finite numbers; copy it again")
            ready[name] = tensor.float() if is_float else tensor
        model.load_state_dict(ready, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())[:200]
        raise UserError(f"{where}: the weights do not fit the encoder ({reason})") from None


def join_weight_norm(tensors: dict[str, Tensor], conv: str) -> None:
    """Multiply out the weight norm of the convolution named `conv`; in place.

    A direction (channels out, channels in, width) has a length for each step of the width, under
    torch's old names or its new ones.
    """
    for length, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if {f"{conv}.{length}", f"{conv}.{direction}"} <= set(tensors):
            g = tensors.pop(f"{conv}.{length}").float()
            v = tensors.pop(f"{conv}.{direction}").float()
            norm = torch.linalg.vector_norm(v, dim=(0, 1), keepdim=True)
            tensors[f"{conv}.weight"] = v * (g / norm)


def _parts(folder: Path, name: str) -> list[Path]:
    index = folder / f"{name}.index.json"
    if index.is_file():
        weight_map = read_json_object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{index}: has no weight_map; copy it again")
        # Names only: a part lies beside its index and nowhere else.
        parts = {str(part) for part in weight_map.values()}
        return [folder / Path(part).name for part in sorted(parts)]
    return [folder / name]


def _read_wanted_safetensors(path: Path, wanted: Callable[[str], str | None]) -> dict[str, Tensor]:
    read = read_safetensors(path, lambda name: wanted(name) is not None)
    named = {wanted(name): tensor for name, tensor in read.items()}
    return {ours: tensor for ours, tensor in named.items() if ours and tensor is not None}


def _read_pickled(path: Path, wanted: Callable[[str], str | None]) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"{path.parent}: holds no weights; expected {_SAFETENSORS} or {_PICKLED} beside "
            "config.json"
        )
    state = load_pickled(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: expected tensors by name, found {type(state).__name__}")
    named = {wanted(str(name)): value for name, value in state.items()}
    return {ours: value.clone() for ours, value in named.items() if ours and torch.is_tensor(value)}
