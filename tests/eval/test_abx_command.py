"""`gslm eval abx` over audio, a corpus and folders of arrays."""

import json
import sys

import numpy as np
import pytest
import torch

from gslm import cli
from gslm.audio import write_wav
from gslm.eval.abx import AbxScorer, AbxTask, phone_task
from gslm.eval.abx_items import read_items, slice_features
from gslm.eval.abx_sources import _named, read_frames
from gslm.units.encode import encode_corpus

HEADER = "#file onset offset #phone prev-phone next-phone speaker"
N_FILES = 4


def write_items(path, name="f{}"):
    random = np.random.default_rng(0)
    lines = [HEADER]
    for i in range(60):
        onset = random.uniform(0, 0.8)
        phone, context, speaker = random.integers(0, (3, 2, 2))
        file = name.format(i % N_FILES)
        lines.append(f"{file} {onset:.3f} {onset + 0.1:.3f} p{phone} c{context} c0 s{speaker}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(*arguments, monkeypatch):
    """Exit code of `gslm eval abx`."""
    monkeypatch.setattr(sys, "argv", ["gslm", "eval", "abx", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.fixture
def arrays(tmp_path):
    """Item file, and a folder of features for it."""
    random = np.random.default_rng(1)
    (tmp_path / "features/deep").mkdir(parents=True)
    for i in range(N_FILES):
        np.save(tmp_path / f"features/deep/f{i}.npy", random.random((55, 4), dtype=np.float32))
    return write_items(tmp_path / "made.item"), tmp_path / "features"


def test_a_folder_of_arrays_is_scored_and_every_pair_written(arrays, tmp_path, capsys, monkeypatch):
    item, folder = arrays
    run(item, folder, "--slicing", "librilight", "-o", tmp_path / "t.json", monkeypatch=monkeypatch)
    items = read_items(item)
    tokens = slice_features(
        items, lambda name: np.load(folder / f"deep/{name}.npy"), frame_rate=50,
        slicing="librilight",
    )  # fmt: skip
    table = json.loads((tmp_path / "t.json").read_text())
    printed = capsys.readouterr().out
    for speaker in ("within", "across"):
        found = AbxScorer(items, phone_task(speaker))(tokens)
        assert table["summary"]["error_rate"][speaker] == found.error_rate
        assert (
            f"{speaker} speaker, within context, angular: {100 * found.error_rate:.2f}" in printed
        )
        rates = [pair["error_rate"] for pair in table["pairs"] if pair["condition"] == speaker]
        assert np.mean(rates) == pytest.approx(found.error_rate)
    told = {name: table["summary"][name] for name in ("frame_rate", "unit_length", "context")}
    assert told == {"frame_rate": 50.0, "unit_length": False, "context": "within"}


@pytest.mark.parametrize("suffix", [".pt", ".txt"])
def test_arrays_of_other_kinds_score_alike(arrays, tmp_path, capsys, monkeypatch, suffix):
    item, folder = arrays
    run(item, folder, "--speaker", "within", monkeypatch=monkeypatch)
    expected = capsys.readouterr().out
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.rglob("*.npy"):
        frames = np.load(path)
        if suffix == ".pt":
            torch.save(torch.from_numpy(frames), other / f"{path.stem}.pt")
        else:
            np.savetxt(other / f"{path.stem}.txt", frames, fmt="%.9g")
    run(item, other, "--speaker", "within", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("layout", ["column", "row"])
def test_text_of_whole_numbers_is_units(arrays, tmp_path, capsys, monkeypatch, layout):
    item, folder = arrays
    units = np.random.default_rng(3).integers(0, 4, (N_FILES, 55))
    for path in folder.rglob("*.npy"):
        ids = units[int(path.stem[1:])]
        np.save(path, ids)
        (tmp_path / "other").mkdir(exist_ok=True)
        text = ids[:, None] if layout == "column" else ids[None]
        np.savetxt(tmp_path / f"other/{path.stem}.txt", text, fmt="%d")
    run(item, folder, monkeypatch=monkeypatch)
    expected = capsys.readouterr().out
    assert "one-hot" in expected
    run(item, tmp_path / "other", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n2\n", np.array([1, 2])),
        ("1e300\n-3\n", np.array([2**31, -1])),  # none of them is a unit
        ("1.5\n2\n", np.array([[1.5], [2]])),
        ("nan\n2\n", np.array([[np.nan], [2]])),
        ("inf 0.5\n", np.array([[np.inf, 0.5]])),
        ("0.5 2 3\n", np.array([[0.5, 2, 3]])),
        ("1 2\n3 4\n", np.array([[1.0, 2], [3, 4]])),
    ],
)
def test_text_is_units_only_where_it_is_one_line_of_whole_numbers(tmp_path, text, expected):
    (tmp_path / "a.txt").write_text(text)
    found = read_frames(tmp_path / "a.txt")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_any_columns_are_a_task(arrays, tmp_path, capsys, monkeypatch):
    item, folder = arrays
    words = ("--on", "speaker", "--by", "phone", "prev-phone", "-o", tmp_path / "t.json")
    assert run(item, folder, *words, monkeypatch=monkeypatch) == 0
    items = read_items(item)
    tokens = slice_features(items, lambda name: np.load(folder / f"deep/{name}.npy"), frame_rate=50)
    found = AbxScorer(items, AbxTask("speaker", ("phone", "prev-phone")))(tokens)
    name = "ON speaker, BY phone, prev-phone, ACROSS -"
    assert f"{name}, angular: {100 * found.error_rate:.2f} %" in capsys.readouterr().out
    summary = json.loads((tmp_path / "t.json").read_text())["summary"]
    assert summary["error_rate"] == {name: found.error_rate}
    words = ("--by", "prev-phone", "--across", "speaker", "--max-x-across", "1")
    assert run(item, folder, *words, monkeypatch=monkeypatch) == 0
    assert "ON phone, BY prev-phone, ACROSS speaker" in capsys.readouterr().out


def test_oddities_of_an_item_file_are_told(arrays, capsys, monkeypatch):
    item, folder = arrays
    lines = item.read_text().splitlines()
    more = [lines[3], lines[4], lines[3], "f0 1.0 1.11 p0 c0 c0 s0"]
    item.write_text("\n".join([*lines, *more]) + "\n")
    assert run(item, folder, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "made.item:62 says what a line before it does (and 2 more such lines)" in printed
    assert "cut: 1 tokens whose file ends a frame before they do" in printed


def test_audio_and_its_corpus_score_alike(tmp_path, tiny_bundle, capsys, monkeypatch):
    random = np.random.default_rng(2)
    for i in range(N_FILES):
        waveform = np.repeat(random.standard_normal(1100), 16) * random.random(17_600)
        write_wav(tmp_path / f"audio/s/f{i}.wav", (0.2 * waveform).astype(np.float32))
    item = write_items(tmp_path / "made.item", "s/f{}")
    units = tiny_bundle
    run(item, tmp_path / "audio", "--units", units, monkeypatch=monkeypatch)
    expected = capsys.readouterr().out
    assert "one-hot" in expected
    import gslm.units

    encode_corpus(tmp_path / "audio", tmp_path / "corpus", gslm.units.load(units))
    run(item, tmp_path / "corpus", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == expected
    run(item, tmp_path / "audio", "--units", units, "--continuous", monkeypatch=monkeypatch)
    assert "features of" in (printed := capsys.readouterr().out)
    assert "angular" in printed
    run(item, tmp_path / "corpus", "--distance", "edit", monkeypatch=monkeypatch)
    assert "edit: " in capsys.readouterr().out
    for words, message in {
        (tmp_path / "audio",): "holds audio and no features; give --units",
        (tmp_path / "corpus", "--frame-rate", "25"): "--frame-rate is for a folder of arrays",
        (tmp_path / "audio", "--units", units, "--frame-rate", "50"): "--frame-rate is for",
    }.items():
        assert run(item, *words, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err


def test_an_exact_name_is_that_file_beside_others_of_its_stem(tmp_path):
    items = read_items(write_items(tmp_path / "made.item", "s/f{}.flac"))
    paths = [f"s/f{i}.{end}" for i in range(N_FILES) for end in ("flac", "wav")]
    assert list(_named(items, paths)) == paths[::2]


def break_item(item, folder):
    item.write_text(item.read_text() + "nobody 0 0.1 p0 c0 c0 s0\n")


def break_times(item, folder):
    item.write_text(item.read_text() + "f0 7.0 7.5 p0 c0 c0 s0\n")


def break_frames(item, folder):
    np.save(folder / "deep/f1.npy", np.full((55, 4), np.nan))


def break_array(item, folder):
    (folder / "deep/f1.npy").write_bytes(b"\x93NUMPY")


def strings(item, folder):
    np.save(folder / "deep/f1.npy", np.array(["a"] * 55))


def other_units(item, folder):
    item.write_text(item.read_text() + "f0 1e300 1e301 p0 c0 c0 s0\n")


def htk_times(item, folder):
    item.write_text(item.read_text() + "f0 1000000 1e12 p0 c0 c0 s0\n")


def one_speaker(item, folder):
    item.write_text(item.read_text().replace(" s1", " s0"))
    empty_folder(item, folder)  # told before the frames are read


def double_file(item, folder):
    (folder / "other").mkdir()
    np.save(folder / "other/f1.npy", np.zeros((55, 4)))


def empty_folder(item, folder):
    for path in folder.rglob("*.npy"):
        path.unlink()


@pytest.mark.parametrize(
    ("break_", "options", "message"),
    [
        (break_item, (), "made.item:62: names nobody, of which there are no features"),
        (break_times, (), "made.item:62: ends at 7.5 s, after its file f0 does"),
        (other_units, (), "made.item:62: ends at 1e+301 s, after its file f0 does"),
        (htk_times, (), "made.item:62: ends at 1e+12 s, after its file f0 does"),
        (htk_times, ("--slicing", "librilight"), "made.item:62: ends at 1e+12 s"),
        (strings, (), "f1: features of shape (55,) and type <U1"),
        (break_frames, (), "f1: its features hold NaN"),
        (break_array, (), "f1.npy: not readable as an array"),
        (double_file, (), "names f1, which may be deep/f1.npy or other/f1.npy"),
        (empty_folder, (), "holds neither audio nor features"),
        (one_speaker, (), "no triplet fits the task (ON phone, BY prev-phone, next-phone, ACROSS"),
        (None, ("--distance", "edit"), "distance 'edit' does not suit features"),
        (None, ("--continuous",), "--continuous needs --units"),
        (None, ("--max-group", "1"), "groups of at least 2"),
        (None, ("--speaker", "nobody"), "nobody"),
        (None, ("--frame-rate", "0"), "frame rate 0"),
        (None, ("--frame-rate", "1e300"), "give the features' own frame rate"),
        (None, ("--seed", "-1"), "seed -1; it must be 0 or above"),
        (None, ("--threads", "-3"), "--threads -3"),
        (None, ("--speaker", "within", "--max-x-across", "2"), "--max-x-across: no task is"),
        (None, ("--unit-length",), "--unit-length changes nothing of the usual distances"),
        (None, ("--unit-length", "--distance", "edit"), "--unit-length changes nothing of edit"),
        (None, ("--on", "speaker", "--speaker", "any"), "leave out --speaker and --context"),
        (None, ("--by", "dialect"), "has no column 'dialect'"),
        (empty_folder, ("-o", "."), "a folder; name a file"),
        (empty_folder, ("-o", __file__ + "/t.tsv"), "cannot be written to; name a file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arrays, capsys, monkeypatch, break_, options, message
):
    if break_:
        break_(*arrays)
    assert run(*arrays, *options, monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert message in printed[-1]
    assert printed[-1].startswith("gslm: ")
