"""JSON, safetensors and bundles: what is written whole stays whole, what is damaged is one line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gslm import bundle
from gslm.bundle import (
    check_bundle,
    config_from_json,
    config_to_json,
    read_json,
    read_tensors,
    tensors_hash,
    write_atomically,
    write_json,
    write_manifest,
    write_tensors,
)
from gslm.errors import UserError
from gslm.types import Fingerprint
from gslm.units.soft import SoftConfig

FINGERPRINT = Fingerprint("mfcc", "", 0, 50.0, "none", "0123456789abcdef", 8)


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def stage(folder: Path, fingerprint: Fingerprint) -> None:
    write_json(folder / "config.json", {"fingerprint": fingerprint.to_json()})


def test_json_reads_back(tmp_path):
    data = {"a": [1, 2.5, None], "ü": "日本"}
    write_json(tmp_path / "new" / "a.json", data)
    assert read_json(tmp_path / "new" / "a.json") == data


def test_damaged_json_is_one_line(tmp_path):
    (tmp_path / "half.json").write_text('{"a": [1,')
    (tmp_path / "latin.json").write_bytes(b'"\xff"')
    for name in ("half.json", "latin.json", "missing.json"):
        with pytest.raises(UserError) as error:
            read_json(tmp_path / name)
        one_line(error, name)


def test_tensors_read_back_in_float32(tmp_path):
    tensors = {
        "weight": torch.randn(3, 4).t(),
        "ids": torch.arange(5),
        "scalar": torch.tensor(2.0),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    write_tensors(tmp_path / "half.safetensors", tensors, torch.float16)
    half = read_tensors(tmp_path / "half.safetensors")
    assert half["weight"].dtype == torch.float32
    assert half["ids"].dtype == torch.int64
    assert torch.equal(half["weight"], tensors["weight"].half().float())


def test_tensors_that_share_memory_are_written(tmp_path):
    whole = torch.randn(4, 4)
    write_tensors(tmp_path / "a.safetensors", {"a": whole, "b": whole, "c": whole[1]})
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["c"], whole[1])


@pytest.mark.parametrize("kept", [0, 4, 20, 200, -1])
def test_truncated_tensors_are_one_line(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"weight": torch.randn(20, 20)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError) as error:
        read_tensors(path)
    one_line(error, "model.safetensors", "damaged or truncated")


def test_foreign_and_missing_tensors_are_one_line(tmp_path):
    (tmp_path / "text.safetensors").write_text("I am text and not tensors. " * 20)
    for name in ("text.safetensors", "missing.safetensors"):
        with pytest.raises(UserError) as error:
            read_tensors(tmp_path / name)
        one_line(error, name)


def test_half_precision_keeps_the_hash(tmp_path):
    tensors = {"b": torch.randn(5), "a": torch.randn(2, 3), "n": torch.arange(3)}
    expected = tensors_hash(tensors)
    assert len(expected) == 16
    write_tensors(tmp_path / "half.safetensors", tensors, torch.float16)
    assert tensors_hash(read_tensors(tmp_path / "half.safetensors")) == expected
    assert tensors_hash(dict(reversed(tensors.items()))) == expected
    for name, tensor in tensors.items():
        changed = tensors | {name: tensor + 1}
        assert tensors_hash(changed) != expected
    assert tensors_hash(tensors | {"a": tensors["a"].reshape(3, 2)}) != expected


@pytest.mark.parametrize("failing", [OSError(28, "No space left on device"), UserError("full")])
def test_a_full_disk_keeps_the_old_file(tmp_path, failing):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def half(target: Path) -> None:
        target.write_bytes(b"ha")
        raise failing

    with pytest.raises(UserError) as error:
        write_atomically(path, half)
    one_line(error)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_a_full_disk_keeps_old_tensors(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.ones(2)})

    def full(_tensors, target):
        Path(target).write_bytes(b"ha")
        raise bundle.SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr(bundle, "save_file", full)
    with pytest.raises(UserError) as error:
        write_tensors(path, {"a": torch.zeros(2)})
    one_line(error, "No space left", "model.safetensors")
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))


def test_a_file_that_is_a_folder_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        with pytest.raises(UserError, match="is a folder; name a file in it"):
            write_json(path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        write_json(tmp_path / "file" / "a.json", {})
    one_line(error, "a.json")


@dataclass(frozen=True)
class Sizes:
    """A configuration."""

    n_units: int
    dims: tuple[int, ...] = (1, 2)
    scale: float = 0.5
    steps: tuple[tuple[int, int], ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    is_causal: bool = False
    name: str = ""


def test_configurations_read_back():
    sizes = Sizes(7, (3,), math.pi, (), {"a": [1]}, True, "x")
    data = json.loads(json.dumps(config_to_json(sizes)))
    assert config_from_json(Sizes, data, "here") == sizes
    assert config_from_json(Sizes, {"n_units": 1, "scale": 2, "steps": [[1, 2]]}, "here").scale == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"n_units": 1, "colour": 2}, ["unknown settings colour", "known are about, dims"]),
        ({"dims": [1]}, ["missing settings n_units"]),
        ({"n_units": "x"}, ["setting n_units should be a whole number, not 'x'"]),
        ({"n_units": 3.5}, ["setting n_units should be a whole number, not 3.5"]),
        ({"n_units": True}, ["setting n_units should be a whole number, not True"]),
        ({"n_units": 1, "scale": "x"}, ["setting scale should be a number, not 'x'"]),
        ({"n_units": 1, "scale": None}, ["setting scale should be a number, not None"]),
        ({"n_units": 1, "is_causal": 1}, ["setting is_causal should be true or false, not 1"]),
        ({"n_units": 1, "name": 5}, ["setting name should be text, not 5"]),
        ({"n_units": 1, "dims": 3}, ["setting dims", "not 3"]),
        ({"n_units": 1, "dims": [1, "x"]}, ["setting dims", "not [1, 'x']"]),
        ({"n_units": 1, "steps": [[1, 2], [3]]}, ["setting steps", "not [[1, 2], [3]]"]),
        ({"n_units": 1, "about": [1]}, ["setting about should be an object, not [1]"]),
        ({"n_units": "x" * 1000}, ["setting n_units", "xxx"]),
        ([1], ["expected an object"]),
        (None, ["expected an object"]),
    ],
)
def test_wrong_configurations_are_one_line(data, words):
    with pytest.raises(UserError) as error:
        config_from_json(Sizes, data, "config.json")
    one_line(error, "config.json", *words)


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_soft_units_have_a_finite_temperature_above_zero(temperature):
    data = {"feature_dim": 39, "n_units": 5, "temperature": temperature}
    with pytest.raises(UserError) as error:
        config_from_json(SoftConfig, data, "soft.json")
    one_line(error, f"temperature {temperature} must be a number above 0")


def test_a_bundle_of_one_mind_is_accepted(tmp_path):
    for name in ("units", "ulm", "vocoder"):
        stage(tmp_path / name, FINGERPRINT)
    write_manifest(tmp_path, {"settings": "x"})
    manifest = check_bundle(tmp_path)
    assert sorted(manifest["stages"]) == ["ulm", "units", "vocoder"]
    assert manifest["settings"] == "x"


def test_stages_that_disagree_are_both_named(tmp_path):
    other = replace(FINGERPRINT, encoder="log-mel", vocabulary_size=9)
    stage(tmp_path / "units", FINGERPRINT)
    stage(tmp_path / "vocoder", other)
    write_manifest(tmp_path, {})
    with pytest.raises(UserError) as error:
        check_bundle(tmp_path)
    one_line(error, "/units", "/vocoder", str(FINGERPRINT), str(other))


def test_folders_that_are_no_bundle_are_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        check_bundle(tmp_path)
    one_line(error, "not a bundle", "gslm train")
    for data in ([], {"format": "other"}, "text"):
        write_json(tmp_path / "bundle.json", data)
        with pytest.raises(UserError) as error:
            check_bundle(tmp_path)
        one_line(error, "not a gslm bundle")


def test_a_bundle_of_a_newer_version_is_one_line(tmp_path):
    stage(tmp_path / "units", FINGERPRINT)
    write_manifest(tmp_path, {"version": 99})
    with pytest.raises(UserError) as error:
        check_bundle(tmp_path)
    one_line(error, "version 99", "install")


def test_damaged_stage_configurations_are_one_line(tmp_path):
    stage(tmp_path / "units", FINGERPRINT)
    write_manifest(tmp_path, {})
    for text in ("[1]", '{"fingerprint": 3}', "{", "null"):
        (tmp_path / "units" / "config.json").write_text(text)
        with pytest.raises(UserError) as error:
            check_bundle(tmp_path)
        one_line(error, "units/config.json")
