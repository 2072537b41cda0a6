"""fairseq's dict.txt and binarised data: `train.idx` and `train.bin` of `--dataset-impl mmap`.

The dictionary gives each symbol a number: 0 to 3 are `<s>`, `<pad>`, `</s>`, `<unk>`, then the
lines of dict.txt follow, usually by falling frequency, so unit u is hardly ever number u + 4. Every
recording ends in `</s>`. There are no names and no durations. The older kind of index (`TNTIDX`,
of `--dataset-impl lazy` and `cached`), in whose data every number is one higher, is read as well;
the compressed one (`HUFFIDX`) is refused.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gslm.errors import UserError
from gslm.units.formats.lines import MAX_ID, Entry, read_lines, write_lines, write_together

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_END = SPECIAL.index("</s>")
_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQ")
"""Magic, version, type, number of items; then their sizes (int32) and pointers in bytes (int64)."""

_OLD_MAGIC = b"TNTIDX\0\0"
_OLD_HEADER = struct.Struct("<8s5Q")
"""Magic, version, type, bytes of a symbol, number of items and of sizes; then int64 each: where
the items' sizes and their data begin, both with the end, and the sizes."""

_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_UINT16, _UINT32 = 8, 9


@dataclass(frozen=True)
class UnitDictionary:
    """What numbers a dict.txt gives to units."""

    units: NDArray[np.int64]
    """Unit of each number (n,); -1 where the symbol is none, as of the four special ones."""
    numbers: dict[int, int]
    """Number of each unit."""


def read_dictionary(path: str | Path) -> UnitDictionary:
    """Read dict.txt: `symbol count`, and perhaps `#fairseq:overwrite`.

    Raises `UserError` for another kind of line, a symbol given twice, or no unit at all.
    """
    units = [-1] * len(SPECIAL)
    numbers: dict[int, int] = {}
    seen: set[str] = set(SPECIAL)
    for where, line in read_lines(path):
        parts = line.split()
        overwrite = parts[-1:] == ["#fairseq:overwrite"]
        if overwrite:
            parts.pop()
        if len(parts) != 2 or not parts[1].isdigit():
            raise UserError(f"{where}: expected a symbol and its count, such as '71 2043'")
        symbol = parts[0]
        if symbol in seen and not overwrite:
            raise UserError(f"{where}: {symbol[:60]!r} is there twice; copy the dictionary again")
        seen.add(symbol)
        unit = int(symbol) if _is_unit(symbol) else -1
        if unit >= 0:
            numbers[unit] = len(units)
        units.append(unit)
    if not numbers:
        raise UserError(f"{path}: names no units; expected lines such as '71 2043'")
    return UnitDictionary(np.array(units, dtype=np.int64), numbers)


def write_dictionary(path: str | Path, counts: NDArray[np.int64]) -> None:
    """Write dict.txt of all units, from the count of each (K,).

    Like fairseq's: by falling count, then by spelling, filled up to a multiple of 8 symbols.
    Units that never occur are in it too, with a count of 0, so that any corpus of the same
    vocabulary can use it.
    """
    order = sorted(range(len(counts)), key=lambda unit: (-int(counts[unit]), str(unit)))
    n_filler = -(len(SPECIAL) + len(order)) % 8

    def lines() -> Iterator[str]:
        yield from (f"{unit} {counts[unit]}\n" for unit in order)
        yield from (f"madeupword{number:04d} 0\n" for number in range(n_filler))

    write_lines(Path(path), lines())


def unit_counts(entries: Iterable[Entry], vocabulary_size: int) -> NDArray[np.int64]:
    """How often each unit occurs, (K,)."""
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for entry in entries:
        counts += np.bincount(entry.units, minlength=vocabulary_size)
    return counts


def data_files(path: str | Path) -> tuple[Path, Path]:
    """`.idx` and `.bin` from the name of either, or from what they share."""
    prefix = str(path).removesuffix(".idx").removesuffix(".bin")
    return Path(f"{prefix}.idx"), Path(f"{prefix}.bin")


def new_dictionary_path(path: str | Path) -> Path:
    """Where the dictionary of data written at `path` goes."""
    return data_files(path)[0].parent / "dict.txt"


def find_dictionary(path: str | Path) -> Path:
    """The dictionary beside binarised data: dict.txt, or `dict.unitA.txt` for `train.unitA`."""
    index = data_files(path)[0]
    language = index.stem.rpartition(".")[2]
    for name in ("dict.txt", f"dict.{language}.txt"):
        if (index.parent / name).is_file():
            return index.parent / name
    raise UserError(f"{index.parent}: holds no dict.txt; name the dictionary with --dictionary")


def read_fairseq(path: str | Path, dictionary: str | Path) -> Iterator[Entry]:
    """Yield an entry for each item of `.idx` and `.bin`, without a name.

    path: either file, or what their names share. Raises `UserError` for an index of another kind,
    one that does not fit its data, or a symbol that is no unit.
    """
    index_path, data_path = data_files(path)
    to_unit = read_dictionary(dictionary).units
    index = _open(index_path, data_path)
    for item, (begin, size) in enumerate(zip(index.begins, index.sizes, strict=True)):
        symbols = np.array(index.symbols[begin : begin + size], dtype=np.int64) - index.shift
        where = f"{data_path}, item {item}"
        if len(symbols) and symbols[-1] == _END:
            symbols = symbols[:-1]
        if not len(symbols):
            raise UserError(f"{where}: holds no units; leave it out")
        if symbols.min() < 0 or symbols.max() >= len(to_unit):
            raise UserError(f"{where}: symbol {symbols.max()} is not in {dictionary}; name its own")
        units = to_unit[symbols]
        if units.min() < 0:
            number = int(symbols[units.argmin()])
            name = SPECIAL[number] if number < len(SPECIAL) else f"number {number}"
            raise UserError(f"{where}: {name} is no unit; is {dictionary} this data's own?")
        yield Entry("", units.astype(np.int32), where=where)


class _Index(NamedTuple):
    """Where items lie. Arrays are left on disk."""

    sizes: NDArray[np.integer]
    """Symbols of each item (n,), its end included."""
    begins: NDArray[np.int64]
    """Its first symbol in the data (n,)."""
    symbols: NDArray[np.integer]
    """The data (n_symbols,)."""
    shift: int
    """By how much numbers in the data are above those of the dictionary."""


def _open(index_path: Path, data_path: Path) -> _Index:
    try:
        with index_path.open("rb") as file:
            header = file.read(_OLD_HEADER.size)
        n_index_bytes, n_bytes = index_path.stat().st_size, data_path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{error.filename}: not readable ({error.strerror}); .idx and .bin belong together"
        ) from None
    dtype, n, old = _parsed(header, index_path, n_index_bytes)
    n_symbols = n_bytes // dtype.itemsize
    if n == 0 or n_symbols == 0:
        raise UserError(f"{index_path}: holds no recordings")
    begins: NDArray[np.int64]
    if old:
        begins = np.memmap(index_path, "<i8", "r", _OLD_HEADER.size + 8 * (n + 1), (n,))
        sizes = np.memmap(index_path, "<i8", "r", _OLD_HEADER.size + 16 * (n + 1), (n,))
    else:
        sizes = np.memmap(index_path, "<i4", "r", _HEADER.size, (n,))
        pointers = np.memmap(index_path, "<i8", "r", _HEADER.size + 4 * n, (n,))
        begins = np.where(pointers % dtype.itemsize, -1, pointers // dtype.itemsize)
    # First each, then both: the sum of two wild ones would overflow.
    if (
        min(sizes.min(), begins.min()) < 0
        or max(sizes.max(), begins.max()) > n_symbols
        or (begins + sizes).max() > n_symbols
    ):
        raise UserError(f"{index_path}: points past the end of {data_path.name}; copy both again")
    symbols = np.memmap(data_path, dtype, "r", shape=(n_symbols,))
    return _Index(sizes, begins, symbols, int(old))


def _parsed(header: bytes, path: Path, n_file_bytes: int) -> tuple[np.dtype[np.integer], int, bool]:
    """Type of the data, number of items, and whether the index is of the older kind."""
    if header.startswith(b"HUFFIDX"):
        raise UserError(
            f"{path}: of fairseq's compressed kind, which gslm does not read; binarise again with "
            "fairseq-preprocess --dataset-impl mmap"
        )
    old = header.startswith(_OLD_MAGIC)
    layout = _OLD_HEADER if old else _HEADER
    if len(header) < layout.size or not header.startswith((_MAGIC, _OLD_MAGIC)):
        raise UserError(f"{path}: not fairseq's index, which begins with MMIDIDX or TNTIDX")
    _, version, code, *_, n = layout.unpack(header[: layout.size])
    if version != 1 or code not in _DTYPES:
        raise UserError(f"{path}: version {version}, type {code}; expected 1 and whole numbers")
    # Of the older kind n counts sizes, of which a line of units has one.
    if n_file_bytes != layout.size + (8 * (3 * n + 2) if old else 12 * n):
        raise UserError(f"{path}: cut off or damaged; it names {n} items")
    return np.dtype(_DTYPES[code]), n, old


def write_fairseq(
    path: str | Path, entries: Iterable[Entry], dictionary: UnitDictionary
) -> list[Path]:
    """Write `.idx` and `.bin`; names and durations are lost. Gives the two files."""
    paths = list(data_files(path))
    write_together(paths, lambda targets: _write_data(targets, entries, dictionary))
    return paths


def write_fairseq_anew(
    path: str | Path, entries: Iterable[Entry], counts: NDArray[np.int64]
) -> list[Path]:
    """Write `.idx`, `.bin` and a dict.txt of units with `counts` (K,). Gives the three files."""
    paths = [*data_files(path), new_dictionary_path(path)]

    def write(targets: list[Path]) -> None:
        write_dictionary(targets[2], counts)
        _write_data(targets[:2], entries, read_dictionary(targets[2]))

    write_together(paths, write)
    return paths


def _write_data(targets: list[Path], entries: Iterable[Entry], dictionary: UnitDictionary) -> None:
    index_path, data_path = targets
    code = _UINT16 if len(dictionary.units) < 65_500 else _UINT32
    dtype = np.dtype(_DTYPES[code])
    to_number = np.full(max(dictionary.numbers) + 1, -1, dtype=np.int64)
    to_number[list(dictionary.numbers)] = list(dictionary.numbers.values())
    sizes = array("i")  # as the index itself: four bytes an item
    with data_path.open("wb") as file:
        for entry in entries:
            numbers = _numbers(entry, to_number)
            sizes.append(len(numbers))
            file.write(numbers.astype(dtype).tobytes())
    lengths = np.array(sizes, dtype="<i4")
    ends = np.cumsum(lengths.astype("<i8")) * dtype.itemsize
    with index_path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, 1, code, len(sizes)))
        file.write(lengths.tobytes())
        file.write((ends - lengths.astype("<i8") * dtype.itemsize).tobytes())


def _numbers(entry: Entry, to_number: NDArray[np.int64]) -> NDArray[np.int64]:
    known = entry.units < len(to_number)
    numbers = to_number[np.where(known, entry.units, 0)]
    if not known.all() or numbers.min() < 0:
        missing = entry.units[~known | (numbers < 0)][0]
        raise UserError(f"{entry.where}: the dictionary has no unit {missing}; use its own corpus'")
    return np.append(numbers, _END)


def _is_unit(symbol: str) -> bool:
    return symbol.isascii() and symbol.isdigit() and len(symbol) < 11 and int(symbol) <= MAX_ID
