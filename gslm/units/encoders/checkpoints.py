"""Reading Whisper's weights: a transformers folder, a Hub name, or a CTranslate2 folder."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from gslm.bundle import config_from_json, read_json_object
from gslm.errors import UserError
from gslm.hub import folder_from_hub
from gslm.units.encoders.base import Chunking
from gslm.units.encoders.weight_files import HUB_SAFETENSORS, fill_model, read_wanted
from gslm.units.encoders.whisper import WhisperConfig, WhisperEncoder, WhisperModel

_HEAD_DIM = 64  # of every Whisper that OpenAI released


def load_whisper(
    source: str | Path, layer: int, chunking: Chunking | None = None
) -> WhisperEncoder:
    """Read the first `layer` layers of a Whisper encoder.

    source: a folder with transformers' config.json and model.safetensors, a folder with
    CTranslate2's model.bin, or the name of a model on the Hugging Face Hub. Weights become
    float32. Raises `UserError` where nothing of the kind is found or the weights are quantised,
    and its kind `NoSuchLayerError` where the model has fewer layers.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = folder_from_hub(
            str(source), ("config.json", *HUB_SAFETENSORS), "model", "a Whisper model"
        )
    if (folder / "model.bin").is_file():
        config, tensors = _read_ctranslate2(folder / "model.bin", layer)
    elif (folder / "config.json").is_file():
        config, tensors = _read_transformers(folder, layer)
    else:
        raise UserError(
            f"{source}: holds no Whisper encoder; expected config.json with model.safetensors "
            "(transformers) or model.bin (CTranslate2)"
        )
    return WhisperEncoder(whisper_model(config, tensors, source), chunking)


def whisper_model(
    config: WhisperConfig, tensors: dict[str, Tensor], where: str | Path
) -> WhisperModel:
    """Build the model around tensors that were read at `where`; they must fit exactly."""
    with torch.device("meta"):
        model = WhisperModel(config)
    tensors = {"embed_positions.weight": sinusoids(config.max_frames, config.d_model)} | tensors
    fill_model(model, tensors, where)
    return model


def sinusoids(n_positions: int, dim: int) -> Tensor:
    """Whisper's fixed positions: sines in the first half of (n_positions, dim), cosines after."""
    half = dim // 2
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = torch.arange(n_positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _read_transformers(folder: Path, layer: int) -> tuple[WhisperConfig, dict[str, Tensor]]:
    where = folder / "config.json"
    found = read_json_object(where)
    try:
        sizes = {
            "d_model": found["d_model"],
            "n_heads": found["encoder_attention_heads"],
            "ffn_dim": found["encoder_ffn_dim"],
            "n_mels": found["num_mel_bins"],
            "max_frames": found["max_source_positions"],
            "n_layers": found["encoder_layers"],
        }
    except KeyError as error:
        raise UserError(f"{where}: not a Whisper configuration (no {error})") from None
    config = config_from_json(WhisperConfig, sizes | {"layer": layer}, where)
    return config, read_wanted(folder, lambda name: _wanted_name(name, config))


def _wanted_name(full_name: str, config: WhisperConfig) -> str | None:
    """The encoder's name for a tensor of a Whisper, or None where the cut encoder has none."""
    before, encoder, name = full_name.rpartition("encoder.")
    is_needed = bool(encoder) and before in ("", "model.")
    if name.startswith("layers."):
        is_needed &= int(name.split(".")[1]) < config.layer
    elif name.startswith("layer_norm."):
        is_needed &= config.layer == config.n_layers
    return name if is_needed else None


def _read_ctranslate2(path: Path, layer: int) -> tuple[WhisperConfig, dict[str, Tensor]]:
    """Read an encoder from CTranslate2's flat list of variables."""
    variables = _ctranslate2_variables(path, lambda name: name.startswith("encoder/"))
    try:
        d_model, n_mels, _ = variables["encoder/conv1/weight"].shape
        ffn_dim = len(variables["encoder/layer_0/ffn/linear_0/bias"])
    except (KeyError, ValueError):
        raise UserError(f"{path}: not a Whisper model of CTranslate2") from None
    n_heads = variables.get("encoder/num_heads")
    n_layers = sum(name.endswith("self_attention/linear_0/bias") for name in variables)
    positions = variables.get("encoder/position_encodings/encodings")
    config = WhisperConfig(
        d_model=d_model,
        n_heads=d_model // _HEAD_DIM if n_heads is None else int(n_heads),
        ffn_dim=ffn_dim,
        n_mels=n_mels,
        max_frames=1500 if positions is None else len(positions),
        n_layers=n_layers,
        layer=layer,
    )
    _require_float_weights(variables, path)
    return config, _transformers_names(variables, config, path)


def _require_float_weights(variables: dict[str, Tensor], path: Path) -> None:
    # Quantised weights are rounded: with their scales they would still make other units than the
    # model that they were made from, and no hash would tell that it is the same model.
    for name, values in variables.items():
        if name.endswith("/weight") and not values.is_floating_point():
            kind = str(values.dtype).removeprefix("torch.")
            raise UserError(
                f"{path}: the weights are quantised ({kind}); give a float16 or float32 "
                "conversion, or a transformers folder"
            )


def _transformers_names(
    variables: dict[str, Tensor], config: WhisperConfig, path: Path
) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}

    def take(source: str, target: str) -> None:
        norm = source.endswith("layer_norm")
        for theirs, ours in (
            ("gamma" if norm else "weight", "weight"),
            ("beta" if norm else "bias", "bias"),
        ):
            renamed[f"{target}.{ours}"] = variables[f"encoder/{source}/{theirs}"]

    try:
        take("conv1", "conv1")
        take("conv2", "conv2")
        for i in range(config.layer):
            theirs, ours = f"layer_{i}", f"layers.{i}"
            take(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            take(f"{theirs}/self_attention/linear_0", f"{ours}.stacked")
            take(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            take(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            take(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            take(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            weights = renamed.pop(f"{ours}.stacked.weight").chunk(3)
            biases = renamed.pop(f"{ours}.stacked.bias").chunk(3)
            for letter, weight, bias in zip("qkv", weights, biases, strict=True):
                renamed[f"{ours}.self_attn.{letter}_proj.weight"] = weight
                if letter != "k":  # Whisper's keys have no bias
                    renamed[f"{ours}.self_attn.{letter}_proj.bias"] = bias
        if config.layer == config.n_layers:
            take("layer_norm", "layer_norm")
    except KeyError as error:
        raise UserError(f"{path}: variable {error} is missing; expected float weights") from None
    if (positions := variables.get("encoder/position_encodings/encodings")) is not None:
        renamed["embed_positions.weight"] = positions
    return renamed


_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def _ctranslate2_variables(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Variables of a CTranslate2 file by name; of the others only the headers are read."""
    variables: dict[str, Tensor] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            (version,) = _unpack(file, "I")
            if not 2 <= version <= 16:
                raise ValueError(f"version {version}")
            _name(file)
            _revision, count = _unpack(file, "II")
            for _ in range(count):
                name = _name(file)
                (rank,) = _unpack(file, "B")
                shape = _unpack(file, f"{rank}I")
                dtype, n_bytes = _unpack(file, "BI")
                if file.tell() + n_bytes > size:
                    raise ValueError(f"{name} ends after the file")
                if not wanted(name):
                    file.seek(n_bytes, 1)
                    continue
                if dtype not in _DTYPES:
                    raise ValueError(f"{name} has a type that is not known")
                values = np.frombuffer(bytearray(file.read(n_bytes)), _DTYPES[dtype])
                variables[name] = torch.from_numpy(values.reshape(shape))
        except (struct.error, ValueError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: damaged, truncated or not CTranslate2's ({error}); copy it again"
            ) from None
    return variables


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _name(file: BinaryIO) -> str:
    (length,) = _unpack(file, "H")
    return file.read(length).rstrip(b"\0").decode()
