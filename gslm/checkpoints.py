"""A training run's folder: whole checkpoints, the best weights, and how they are read back."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gslm.bundle import read_json, read_tensors, write_json, write_tensors
from gslm.errors import UserError

_PREFIX = "checkpoint-"


class Checkpoints:
    """Checkpoints below one folder; each is whole or not there at all."""

    def __init__(self, folder: Path, keep: int) -> None:
        """keep: newest checkpoints that stay when another is written, at least 1."""
        self.folder = folder
        self.keep = keep

    def latest(self) -> Path | None:
        """Folder of the newest whole checkpoint, or None."""
        return max(self.folder.glob(_PREFIX + "*"), default=None)

    def save(
        self,
        step: int,
        weights: dict[str, dict[str, nn.Module]],
        state: dict[str, Any],
        progress: dict[str, Any],
    ) -> None:
        """Write the checkpoint of `step`, then delete those beyond `keep`.

        weights: modules by file name, then by key; state: what `torch.save` takes and
        `weights_only` reads back; progress: what JSON holds. Raises `UserError` where the disk
        is full; older checkpoints stay.
        """
        target = self.folder / f"{_PREFIX}{step:08d}"
        temporary = self.folder / f".{target.name}.tmp"
        self._sweep()
        try:
            temporary.mkdir(parents=True)
            for name, modules in weights.items():
                write_modules(temporary / f"{name}.safetensors", modules)
            torch.save(state, temporary / "state.pt")
            write_json(temporary / "progress.json", progress)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        except (OSError, RuntimeError, UserError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{target}: cannot write the checkpoint ({reason}); "
                "free some space, then run the same command again"
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in sorted(self.folder.glob(_PREFIX + "*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _sweep(self) -> None:
        """Delete what a killed process left half written."""
        for left in self.folder.glob(f".{_PREFIX}*.tmp"):
            shutil.rmtree(left, ignore_errors=True)


def read_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `state` and `progress` that `Checkpoints.save` wrote; no code can hide in either."""
    path = checkpoint / "state.pt"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: damaged ({reason}); delete the folder {checkpoint.name} to train without it"
        ) from None
    return state, read_json(checkpoint / "progress.json")


def write_modules(path: Path, modules: dict[str, nn.Module]) -> None:
    """Write the weights of several modules into one file, atomically."""
    tensors: dict[str, Tensor] = {}
    for key, module in modules.items():
        tensors |= {f"{key}/{name}": value for name, value in module.state_dict().items()}
    write_tensors(path, tensors)


def read_modules(path: Path, modules: dict[str, nn.Module]) -> None:
    """Load what `write_modules` wrote; `UserError` where it is damaged or of other modules."""
    tensors = read_tensors(path)
    for key, module in modules.items():
        prefix = f"{key}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError:
            raise UserError(
                f"{path}: holds the weights of another model than this {key}; "
                "choose another folder or delete this one"
            ) from None
