"""Reading and writing what a bundle holds: JSON, safetensors, hashes and configurations."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gslm.errors import CannotWriteError, UserError
from gslm.types import Fingerprint

STAGES = ("units", "tokenizer", "ulm", "vocoder")
_FORMAT = "gslm-bundle"
_VERSION = 1

Config = TypeVar("Config")


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it over `path`.

    Raises `CannotWriteError` where the disk is full or the folder cannot be written; what stood at
    `path` before stays as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise CannotWriteError(f"{path}: is a folder; name a file in it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        # Some writers make files that only their owner may read; a bundle is there to be shared.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CannotWriteError(
            f"{path}: cannot write ({error}); free some space or choose another folder, "
            "then run the same command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or damaged one is a one-line `UserError`."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; anything else is a one-line `UserError`."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def write_tensors(
    path: str | Path, tensors: dict[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write tensors as safetensors, atomically; floating ones as `dtype` where it is given."""

    def prepared(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return (
            tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        ).contiguous()

    ready = {name: prepared(tensor).clone() for name, tensor in sorted(tensors.items())}
    write_atomically(path, lambda target: save_file(ready, target))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file, half precision widened to float32.

    A missing, truncated or foreign file is a one-line `UserError`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; the bundle or checkpoint is incomplete")
    try:
        tensors = load_file(path)
    except (SafetensorError, struct.error, ValueError, OSError) as error:
        raise UserError(f"{path}: damaged or truncated ({error}); copy it again") from None
    return {
        name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for name, tensor in tensors.items()
    }


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, shapes and float16 values, in name order.

    Values are rounded to float16 first, so that a bundle saved in half precision keeps its hash.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def config_to_json(config: Any) -> dict[str, Any]:
    """A frozen dataclass as a plain dictionary, a `Fingerprint` inside included."""
    return dataclasses.asdict(config)


def config_from_json(config_type: type[Config], data: Any, where: str | Path) -> Config:
    """Build a configuration dataclass from a dictionary read at `where`.

    Lists become tuples. Unknown or missing keys, and values of other types than the fields', are
    a one-line `UserError`.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object with the fields of {config_type.__name__}")
    known = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise UserError(
            f"{where}: unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    missing = sorted(
        name
        for name, field in known.items()
        if name not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    if missing:
        raise UserError(f"{where}: missing settings {', '.join(missing)}")
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
    for name, kind in get_type_hints(config_type).items():
        if name in values and not _fits(values[name], kind):
            raise UserError(
                f"{where}: setting {name} should be {_SPOKEN.get(get_origin(kind) or kind, kind)}, "
                f"not {repr(data[name])[:60]}"
            )
    return config_type(**values)


_SPOKEN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "an object",
}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON suits a field of type `kind`; a float may be a whole number."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(each) == len(value) and all(map(_fits, value, each))
    if origin in (int, float):  # true and false are whole numbers in Python
        return isinstance(value, int | origin) and not isinstance(value, bool)
    # What may be one of several types is left to its reader.
    return origin not in (bool, str, dict) or isinstance(value, origin)


def write_manifest(bundle: str | Path, about: dict[str, Any]) -> None:
    """Write `bundle.json`: which stages there are, their fingerprints, and what made them."""
    bundle = Path(bundle)
    stages = {}
    for stage in STAGES:
        if (bundle / stage / "config.json").is_file():
            config = read_json_object(bundle / stage / "config.json")
            stages[stage] = {"fingerprint": config.get("fingerprint")}
    write_json(
        bundle / "bundle.json",
        {"format": _FORMAT, "version": _VERSION, "stages": stages, **about},
    )


def check_bundle(bundle: str | Path) -> dict[str, Any]:
    """Read `bundle.json` and make sure that all stages were made for the same units.

    Returns the manifest. Raises `UserError` for a folder that is no bundle, is of a newer
    version, or whose stages disagree (both fingerprints are named).
    """
    bundle = Path(bundle)
    if not (bundle / "bundle.json").is_file():
        raise UserError(f"{bundle}: not a bundle (no bundle.json); make one with `gslm train`")
    manifest = read_json(bundle / "bundle.json")
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise UserError(f"{bundle}: bundle.json is not a gslm bundle's")
    if manifest.get("version") != _VERSION:
        raise UserError(
            f"{bundle}: bundle of version {manifest.get('version')}, this gslm reads {_VERSION}; "
            "install the gslm that made it"
        )
    reference: tuple[str, Fingerprint] | None = None
    for stage in STAGES:
        config_path = bundle / stage / "config.json"
        if not config_path.is_file():
            continue
        data = read_json_object(config_path).get("fingerprint")
        found = Fingerprint.from_json(data, str(config_path))
        if reference is None:
            reference = (stage, found)
        else:
            reference[1].require_same(found, f"{bundle}/{reference[0]}", f"{bundle}/{stage}")
    return manifest
