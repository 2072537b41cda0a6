"""Settings: frozen dataclasses read from TOML, each field overridable by `key=value`."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from gslm.errors import UserError

Settings = TypeVar("Settings")


def load_settings(
    settings_type: type[Settings], path: str | Path | None, overrides: Sequence[str] = ()
) -> Settings:
    """Read `path` (TOML; defaults where None), then apply overrides such as `ulm.size=tiny`.

    Raises `UserError` for unknown fields, values of the wrong type and unreadable files.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such settings file") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as TOML ({error})") from None
    for override in overrides:
        _apply(data, override)
    return from_dictionary(settings_type, data, str(path or "settings"))


def from_dictionary(settings_type: type[Settings], data: dict[str, Any], where: str) -> Settings:
    """Build nested settings from nested dictionaries; fields not named keep their defaults.

    Where a nested field has a default of its own, only the values named are replaced in it.
    """
    return typing.cast(Settings, _merged(_default(settings_type, where), data, where))


def to_toml(settings: Any) -> str:
    """Settings as TOML text that `load_settings` reads back to an equal value."""
    lines: list[str] = []
    _write_table(settings, (), lines)
    return "\n".join(lines).strip() + "\n"


def _default(settings_type: type[Any], where: str) -> Any:
    try:
        return settings_type()
    except TypeError:
        raise UserError(f"{where}: {settings_type.__name__} has fields without a default") from None


def _merged(default: Any, data: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(type(default))
    names = {field.name for field in dataclasses.fields(default)}
    changes = {}
    for name, value in data.items():
        if name not in names:
            known = ", ".join(sorted(names))
            raise UserError(f"{where}: no setting {name!r}; known here are {known}")
        current = getattr(default, name)
        place = f"{where}: {name}"
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise UserError(f"{place} is a table of settings, not {value!r}")
            changes[name] = _merged(current, value, place)
        else:
            changes[name] = _checked(hints[name], value, place)
    return dataclasses.replace(default, **changes)


def _checked(hint: Any, value: Any, place: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{place} should be a list, not {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(_checked(inner, item, place) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise UserError(f"{place} should be of type {hint.__name__}, not {value!r}")
    return value


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"setting {override!r}: write it as name=value, as in ulm.size=tiny")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.strip().split(".")
    for table in tables:
        data = data.setdefault(table, {})
        if not isinstance(data, dict):
            raise UserError(f"setting {override!r}: {table} is not a table of settings")
    data[name] = value


def _write_table(settings: Any, path: tuple[str, ...], lines: list[str]) -> None:
    nested = []
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            nested.append((field.name, value))
        else:
            value = list(value) if isinstance(value, tuple) else value
            lines.append(f"{field.name} = {json.dumps(value)}")
    for name, value in nested:
        _write_table(value, (*path, name), lines)
