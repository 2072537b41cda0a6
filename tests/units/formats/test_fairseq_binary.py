"""fairseq's dict.txt, .idx and .bin, byte by byte."""

from __future__ import annotations

import struct
from unittest.mock import Mock

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.units.formats.fairseq_binary import (
    read_dictionary,
    read_fairseq,
    unit_counts,
    write_dictionary,
    write_fairseq,
)
from gslm.units.formats.lines import Entry

# As fairseq-preprocess sorts them: by count. Unit 71 is number 4, unit 3 number 6.
DICTIONARY = "71 40\n12 30\n3 2\nmadeupword0000 0\n"
ITEMS = [[4, 5, 5, 2], [6, 2], [5, 4, 6, 4, 2]]
UNITS = [[71, 12, 12], [3], [12, 71, 3, 71]]
CODES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}


def save(folder, items, code=8, magic=b"MMIDIDX\0\0", version=1, name="train"):
    """A data set, as fairseq's MMapIndexedDatasetBuilder lays it out."""
    dtype = np.dtype(CODES.get(code, "<f8"))
    sizes = np.array([len(item) for item in items], "<i4")
    pointers = np.concatenate([[0], np.cumsum(sizes.astype("<i8") * dtype.itemsize)])[:-1]
    (folder / "dict.txt").write_text(DICTIONARY)
    (folder / f"{name}.bin").write_bytes(np.concatenate(items).astype(dtype).tobytes())
    header = magic + struct.pack("<Q", version) + struct.pack("<B", code)
    header += struct.pack("<Q", len(items))
    (folder / f"{name}.idx").write_bytes(
        header + sizes.tobytes() + pointers.astype("<i8").tobytes()
    )
    return folder / name


def _units(path, dictionary):
    return [entry.units.tolist() for entry in read_fairseq(path, dictionary)]


@pytest.mark.parametrize("code", CODES)
def test_data_of_every_type_is_read_through_the_dictionary(code, tmp_path):
    prefix = save(tmp_path, ITEMS, code)
    for path in (prefix, f"{prefix}.idx", f"{prefix}.bin"):
        assert _units(path, tmp_path / "dict.txt") == UNITS


def save_old(folder, items, code=4):
    """A data set as fairseq's IndexedDatasetBuilder lays it out: every number one higher."""
    dtype = np.dtype(CODES[code])
    ends = np.cumsum([0, *map(len, items)])
    numbers = [code, dtype.itemsize, len(items), len(items), *range(len(items) + 1), *ends]
    numbers += map(len, items)
    (folder / "dict.txt").write_text(DICTIONARY)
    (folder / "old.bin").write_bytes((np.concatenate(items) + 1).astype(dtype).tobytes())
    (folder / "old.idx").write_bytes(b"TNTIDX\0\0" + struct.pack("<Q", 1))
    with (folder / "old.idx").open("ab") as file:
        file.write(struct.pack(f"<{len(numbers)}q", *map(int, numbers)))
    return folder / "old"


@pytest.mark.parametrize("code", CODES)
def test_data_of_the_older_kind_is_read(code, tmp_path):
    prefix = save_old(tmp_path, ITEMS, code)
    assert _units(prefix, tmp_path / "dict.txt") == UNITS
    index = (tmp_path / "old.idx").read_bytes()
    data = (tmp_path / "old.bin").read_bytes()
    wild = index[:-24] + struct.pack("<q", 2**62) + index[-16:]
    for idx, bin_, message in [
        (index[:-8], data, "cut off or damaged"),
        (index[:30], data, "begins with MMIDIDX or TNTIDX"),
        (index, data[: -np.dtype(CODES[code]).itemsize], "points past the end"),
        (wild, data, "points past the end"),
    ]:
        (tmp_path / "old.idx").write_bytes(idx)
        (tmp_path / "old.bin").write_bytes(bin_)
        with pytest.raises(UserError, match=message):
            _units(prefix, tmp_path / "dict.txt")


def test_data_written_here_is_laid_out_as_fairseqs(tmp_path):
    prefix = save(tmp_path, ITEMS)
    entries = [Entry("", np.array(units, np.int32)) for units in UNITS]
    dictionary = read_dictionary(tmp_path / "dict.txt")
    write_fairseq(tmp_path / "ours", entries, dictionary)
    for end in ("idx", "bin"):
        assert (tmp_path / f"ours.{end}").read_bytes() == prefix.with_suffix(f".{end}").read_bytes()


def test_a_dictionary_is_sorted_as_fairseq_sorts(tmp_path):
    entries = [Entry("", np.array(units, np.int32)) for units in ([10, 2, 2], [2, 10, 9, 1])]
    write_dictionary(tmp_path / "dict.txt", unit_counts(entries, 12))
    lines = (tmp_path / "dict.txt").read_text().splitlines()
    assert lines[:4] == ["2 3", "10 2", "1 1", "9 1"]
    assert lines[4:] == [f"{unit} 0" for unit in (0, 11, 3, 4, 5, 6, 7, 8)]
    assert (len(lines) + 4) % 8 == 0
    write_dictionary(tmp_path / "dict.txt", np.ones(5, np.int64))
    lines = (tmp_path / "dict.txt").read_text().splitlines()
    assert lines[5:] == [f"madeupword{i:04d} 0" for i in range(7)]


def test_more_symbols_than_16_bits_hold_are_written_and_read(tmp_path):
    (tmp_path / "dict.txt").write_text("".join(f"{u} 1\n" for u in range(70_000)))
    dictionary = read_dictionary(tmp_path / "dict.txt")
    write_fairseq(tmp_path / "big", [Entry("", np.array([69_999, 0], np.int32))], dictionary)
    assert (tmp_path / "big.idx").read_bytes()[17] == 9
    assert _units(tmp_path / "big", tmp_path / "dict.txt") == [[69_999, 0]]


def test_an_overwritten_symbol_is_read_under_both_numbers(tmp_path):
    (tmp_path / "dict.txt").write_text("7 3\n8 2\n7 9 #fairseq:overwrite\n")
    dictionary = read_dictionary(tmp_path / "dict.txt")
    assert dictionary.units.tolist() == [-1, -1, -1, -1, 7, 8, 7]
    assert dictionary.numbers == {7: 6, 8: 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7 3\n7 2\n", "line 2: '7' is there twice"),
        ("7\n", "line 1: expected a symbol and its count"),
        ("hello 3\n", "names no units"),
        ("<pad> 3\n", "'<pad>' is there twice"),
    ],
)
def test_what_is_no_dictionary_is_refused(text, message, tmp_path):
    (tmp_path / "dict.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_dictionary(tmp_path / "dict.txt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"magic": b"HUFFIDX\0\0"}, "compressed kind.*--dataset-impl mmap"),
        ({"magic": b"something"}, "begins with MMIDIDX or TNTIDX"),
        ({"version": 2}, "version 2"),
        ({"code": 6}, "type 6"),
        ({"items": [[4, 3, 2]]}, "item 0: <unk> is no unit"),
        ({"items": [[4, 2, 4, 2]]}, "item 0: </s> is no unit"),
        ({"items": [[4, 2], [7, 2]]}, "item 1: number 7 is no unit"),
        ({"items": [[4, 9, 2]]}, "symbol 9 is not in"),
        ({"items": [[2]]}, "item 0: holds no units"),
    ],
)
def test_data_of_another_kind_is_refused(settings, message, tmp_path):
    prefix = save(tmp_path, **({"items": ITEMS} | settings))
    with pytest.raises(UserError, match=message):
        _units(prefix, tmp_path / "dict.txt")


def test_an_index_that_does_not_fit_its_data_is_refused(tmp_path):
    prefix = save(tmp_path, ITEMS)
    index, data = (tmp_path / "train.idx").read_bytes(), (tmp_path / "train.bin").read_bytes()
    for idx, bin_, message in [
        (index[:-1], data, "cut off"),
        (index, data[:-2], "points past the end"),
        (index, b"", "holds no recordings"),
        (index[:-8] + struct.pack("<q", 2**62), data, "points past the end"),
        (index[:-8] + struct.pack("<q", -2), data, "points past the end"),
        (index[:-8] + struct.pack("<q", 3), data, "points past the end"),
        (index[:18] + struct.pack("<Q", 2**61) + index[26:], data, "cut off"),
    ]:
        (tmp_path / "train.idx").write_bytes(idx)
        (tmp_path / "train.bin").write_bytes(bin_)
        with pytest.raises(UserError, match=message):
            _units(prefix, tmp_path / "dict.txt")
    (tmp_path / "train.bin").unlink()
    with pytest.raises(UserError, match=r"train\.bin: not readable"):
        _units(prefix, tmp_path / "dict.txt")


def test_a_unit_outside_the_dictionary_is_refused(tmp_path):
    (tmp_path / "dict.txt").write_text(DICTIONARY)
    dictionary = read_dictionary(tmp_path / "dict.txt")
    for unit in (4, 72):
        entry = Entry("", np.array([71, unit], np.int32), where="a.wav")
        with pytest.raises(UserError, match=f"a.wav: the dictionary has no unit {unit}"):
            write_fairseq(tmp_path / "out", [entry], dictionary)
    assert not (tmp_path / "out.bin").exists() and not list(tmp_path.glob(".*"))


def test_an_export_that_fails_leaves_no_dictionary(tmp_path, monkeypatch):
    from test_format_round_trips import make_corpus

    from gslm.units.formats import fairseq_binary
    from gslm.units.formats.exporting import ExportSettings, export_corpus

    corpus = make_corpus(tmp_path / "corpus")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fairseq_binary, "_numbers", Mock(side_effect=KeyboardInterrupt))
        export_corpus(corpus, tmp_path / "data" / "train", ExportSettings("fairseq"), False)
    assert not list((tmp_path / "data").iterdir())
    export_corpus(corpus, tmp_path / "data" / "train", ExportSettings("fairseq"), False)


def test_one_dictionary_serves_two_corpora_and_is_not_overwritten(tmp_path):
    from test_format_round_trips import make_corpus

    from gslm.units.formats.exporting import ExportSettings, export_corpus
    from gslm.units.formats.importing import read_entries

    train, valid = (make_corpus(tmp_path / n, seed=s) for s, n in enumerate(("train", "valid")))
    data = tmp_path / "data"
    files = export_corpus(train, data / "train", ExportSettings("fairseq"), False)
    assert [file.name for file in files] == ["train.idx", "train.bin", "dict.txt"]
    with pytest.raises(UserError, match="use it with --dictionary"):
        export_corpus(valid, data / "valid", ExportSettings("fairseq"), False)
    settings = ExportSettings("fairseq", dictionary=data / "dict.txt")
    export_corpus(valid, data / "valid", settings, False)
    for name, corpus in (("train", train), ("valid", valid)):
        found = [entry.units.tolist() for entry in read_entries(data / name, "fairseq")]
        assert found == [row.units.tolist() for row in corpus.rows()]
    (data / "dict.txt").rename(data / "dict.unitA.txt")
    for end in ("idx", "bin"):
        (data / f"valid.{end}").rename(data / f"valid.unitA.{end}")
    assert len(list(read_entries(data / "valid.unitA", "fairseq"))) == len(valid)
    with pytest.raises(UserError, match="name the dictionary with --dictionary"):
        list(read_entries(data / "train", "fairseq"))
