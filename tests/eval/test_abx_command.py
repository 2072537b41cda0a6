"""`gslm eval abx` over audio, a corpus and folders of arrays."""

import json
import sys

import numpy as np
import pytest
import torch

from gslm import cli
from gslm.audio import write_wav
from gslm.eval.abx import AbxScorer, phone_task
from gslm.eval.abx_items import read_items, slice_features
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
        rates = [clip["error_rate"] for clip in table["clips"] if clip["speaker"] == speaker]
        assert np.mean(rates) == pytest.approx(found.error_rate)


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


def break_item(item, folder):
    item.write_text(item.read_text() + "nobody 0 0.1 p0 c0 c0 s0\n")


def break_times(item, folder):
    item.write_text(item.read_text() + "f0 7.0 7.5 p0 c0 c0 s0\n")


def break_frames(item, folder):
    np.save(folder / "deep/f1.npy", np.full((55, 4), np.nan))


def break_array(item, folder):
    (folder / "deep/f1.npy").write_bytes(b"\x93NUMPY")


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
