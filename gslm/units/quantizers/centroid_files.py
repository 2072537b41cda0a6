"""Centroids that others fitted: GSLM's km.bin, and NumPy's .npy and .npz.

A km.bin is what joblib.dump made of scikit-learn's KMeans or MiniBatchKMeans: a pickle with the
bytes of its arrays in between. A pickle is a program that may call anything. Here it is read with
stand-ins in place of all classes and functions that it names, so that nothing of it runs: they only
keep what they are given, and names outside numpy, scikit-learn and joblib are refused.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickle
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.errors import UserError

_MAX_BYTES = 4 * 2**30
"""Most that a compressed file may unfold to: far above any k-means, far below a bomb."""

_BLOCK = 2**20
_CENTERS = "cluster_centers_"
_NUMBERS = re.compile(r"[<>=|]?[biuf][1248]")
"""Types of arrays that are read, as NumPy spells them: whole numbers, floats, truth values."""

_PREFIXES = ("numpy.", "sklearn.", "joblib.", "scipy.")
_HARMLESS = {("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")}
_HARMLESS |= {(module, "object") for module in ("builtins", "__builtin__")}


class _RefusedError(Exception):
    """A name that no k-means needs."""


def read_centroids(path: str | Path) -> Tensor:
    """Read the centroids of a km.bin, .npy or .npz file, told apart by how they begin.

    Returns float32 (K, D). Of an .npz the array `cluster_centers_` or `centroids` is read, or its
    only one. Raises `UserError` for another kind of file, a pickle that asks for more than a
    k-means holds (it is not run), and centroids that are not a finite matrix.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if start.startswith(b"\x93NUMPY"):
            centers = np.load(path, allow_pickle=False)
        elif start.startswith(b"PK\x03\x04"):
            centers = _from_npz(path)
        elif start.startswith(b"ZF"):
            raise UserError(
                f"{path}: of joblib before 0.10, which gslm does not read; save it again with a "
                "newer joblib, or its cluster_centers_ with numpy.save"
            )
        else:
            centers = _from_pickle(path, start)
    except UserError:
        raise
    except _RefusedError as refused:
        raise UserError(
            f"{path}: asks to run {refused}, which a k-means has no need of; it was not run"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle can fail in any way
        # A byte that begins no instruction of a pickle is a KeyError.
        what = "no pickle" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        reason = " ".join(what.split())[:120]
        raise UserError(
            f"{path}: not readable as centroids ({reason}); expected a km.bin, .npy or .npz"
        ) from None
    return _checked(path, centers)


def _checked(path: Path, centers: NDArray[Any]) -> Tensor:
    if centers.ndim != 2 or 0 in centers.shape or centers.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: holds {centers.dtype} of shape {centers.shape}; expected centroids (K, D)"
        )
    matrix = np.ascontiguousarray(centers, dtype=np.float32)
    if not np.isfinite(matrix).all():
        raise UserError(f"{path}: its centroids hold NaN or infinite values; fit them again")
    return torch.from_numpy(matrix.copy())


def _from_npz(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as arrays:
        if any(part.file_size > _MAX_BYTES for part in arrays.zip.infolist()):
            raise ValueError(f"unfolds to over {_MAX_BYTES >> 30} GiB")
        names = [name for name in (_CENTERS, "centroids") if name in arrays.files]
        if not names and len(arrays.files) == 1:
            names = arrays.files
        if not names:
            raise UserError(
                f"{path}: holds {', '.join(arrays.files) or 'nothing'}; expected an array called "
                f"{_CENTERS} or centroids"
            )
        return arrays[names[0]]


def _from_pickle(path: Path, start: bytes) -> NDArray[Any]:
    with path.open("rb") as file:
        unfolded = _unfolded(file, start)
        found = _InertUnpickler(file if unfolded is None else unfolded).load()
    state = getattr(found, "state", None)
    if isinstance(state, dict):
        found = state.get(_CENTERS)
    if isinstance(found, _Array) and found.values is not None:
        return found.values
    raise UserError(f"{path}: holds no {_CENTERS}; expected scikit-learn's KMeans, fitted")


def _unfolded(file: IO[bytes], start: bytes) -> IO[bytes] | None:
    """The file's bytes where it is compressed in one of joblib's ways, None where it is not."""
    if start[:1] == b"\x78":
        decompressor: Any = zlib.decompressobj()
    elif start.startswith(b"\x1f\x8b"):
        decompressor = zlib.decompressobj(31)
    elif start.startswith(b"BZ"):
        decompressor = bz2.BZ2Decompressor()
    elif start.startswith((b"\xfd7zXZ", b"\x5d\x00")):
        decompressor = lzma.LZMADecompressor()
    elif start.startswith(b"\x04\x22\x4d\x18"):
        raise ValueError("compressed with lz4; save it again without")
    else:
        return None
    whole = io.BytesIO()
    for part in _parts(file, decompressor):
        if whole.tell() + len(part) > _MAX_BYTES:
            raise ValueError(f"unfolds to over {_MAX_BYTES >> 30} GiB")
        whole.write(part)
    whole.seek(0)
    return whole


def _parts(file: IO[bytes], decompressor: Any) -> Iterator[bytes]:
    """What the file unfolds to, at most a megabyte at a time."""
    block = file.read(_BLOCK)
    while not decompressor.eof:
        part = decompressor.decompress(block, _BLOCK)
        # What it has not yet read, zlib gives back; bz2 and lzma keep it.
        block = getattr(decompressor, "unconsumed_tail", b"")
        if not block and getattr(decompressor, "needs_input", True):
            block = file.read(_BLOCK)
            if not block and not part and not decompressor.eof:
                raise ValueError("cut off")
        yield part


class _Inert:
    """Stands for any class or function: takes what it is given, keeps the state, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Inert):
    """Stands for an array: its numbers where they are plain, None where not."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        """As numpy.ndarray's: version, shape, type, whether by columns, bytes."""
        _, shape, dtype, by_columns, raw = state
        self.values = _array(raw, _dtype(dtype), shape, "F" if by_columns else "C")


class _Frombuffer(_Array):
    """Stands for numpy's `_frombuffer` of pickle protocol 5: bytes, type, shape, order."""

    def __init__(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        self.values = _array(raw, _dtype(dtype), shape, order)


def _array(raw: Any, dtype: np.dtype[Any] | None, shape: Any, order: str) -> NDArray[Any] | None:
    if dtype is None or not isinstance(raw, str | bytes | bytearray):
        return None
    # A pickle of Python 2 has text where this one has bytes.
    buffer = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _dtype(stand_in: Any) -> np.dtype[Any] | None:
    """NumPy's type from the call that makes it, such as `dtype('f8')`; None for no numbers."""
    arguments = getattr(stand_in, "arguments", ())
    name = arguments[0] if arguments else ""
    if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
        return None
    state = getattr(stand_in, "state", None)
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    dtype = np.dtype(name)
    if order not in ("<", ">"):
        return dtype
    return dtype.newbyteorder("<" if order == "<" else ">")


class _InertUnpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Reads a pickle without running what it names. In Python, since arrays lie in between."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")

        class NumpyArrayWrapper(_Array):
            """Stands for joblib's: once its state is there, the array's bytes follow."""

            def __setstate__(self, state: Any) -> None:
                self.values = _bytes_that_follow(file, state)

        self._wrapper = NumpyArrayWrapper

    def find_class(self, module: str, name: str) -> Any:
        """A fresh stand-in, so that a pickle that alters one alters nothing else."""
        if name in ("NDArrayWrapper", "ZNDArrayWrapper"):
            raise ValueError("of joblib before 0.10, with arrays in files beside; save it again")
        if name == "NumpyArrayWrapper" and module.startswith("joblib."):
            return self._wrapper
        if (module, name) == ("_codecs", "encode"):
            # How protocols 0 to 2 give bytes.
            return lambda text, _="latin1": text.encode("latin1")
        if f"{module}.".startswith(_PREFIXES) or (module, name) in _HARMLESS:
            known = {"_reconstruct": _Array, "_frombuffer": _Frombuffer}
            return type(name.rpartition(".")[2], (known.get(name, _Inert),), {})
        raise _RefusedError(f"{module}.{name}"[:80])

    def persistent_load(self, pid: Any) -> Any:
        """Nothing lies outside a k-means."""
        raise _RefusedError(f"persistent object {str(pid)[:40]}")

    def get_extension(self, code: int) -> Any:
        """Nor is it registered with copyreg."""
        raise _RefusedError(f"extension {code}")


def _bytes_that_follow(file: IO[bytes], state: Any) -> NDArray[Any]:
    """An array as joblib writes it: perhaps padding, after a byte with its length; the numbers."""
    dtype, shape, order = _dtype(state["dtype"]), tuple(state["shape"]), state["order"]
    if dtype is None:
        raise ValueError("holds an array of other things than numbers")
    if state.get("numpy_array_alignment_bytes") is not None:
        file.read(file.read(1)[0])
    n_bytes = dtype.itemsize
    for length in shape:
        n_bytes *= int(length)
    if not 0 <= n_bytes <= _MAX_BYTES:
        raise ValueError(f"an array of shape {shape}")
    raw = file.read(n_bytes)
    if len(raw) != n_bytes:
        raise ValueError("cut off within an array")
    array = _array(raw, dtype, shape, order)
    assert array is not None
    return array
