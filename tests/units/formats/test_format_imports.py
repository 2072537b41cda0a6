"""Importing: whose units they are, how long recordings last, what they are called."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from gslm.cli import app
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.units.formats.exporting import ExportSettings, export_corpus
from gslm.units.formats.importing import ImportSettings, import_corpus


def _import(tmp_path, text, format_="text", **settings):
    (tmp_path / "u.txt").write_text(text, encoding="utf-8")
    return import_corpus(
        tmp_path / "u.txt", tmp_path / "corpus", ImportSettings(format_, **settings), False
    )


def run(*tokens) -> None:
    app(
        list(map(str, tokens)), exit_on_error=False, print_error=False, result_action="return_value"
    )


def test_units_of_an_unknown_encoder_say_so(tmp_path):
    corpus, _ = _import(tmp_path, "a|1 1 7\nb|0\n", frame_rate=25.0)
    found = corpus.fingerprint
    assert (found.encoder, found.vocabulary_size, found.frame_rate) == ("imported", 8, 25.0)
    assert [row.n_samples for row in corpus.rows()] == [3 * 640, 640]
    [row, _] = corpus.rows()
    assert (row.units.tolist(), row.durations.tolist()) == ([1, 7], [2, 1])


def test_a_unit_too_large_to_guess_a_vocabulary_from_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"line 2: unit 2147483647 .* say --vocabulary-size"):
        _import(tmp_path, "a|1 6\nb|1 2147483647\n")
    assert not (tmp_path / "corpus").exists()
    corpus, _ = _import(tmp_path, "b|1 20000000\n", vocabulary_size=2**25)
    assert corpus.fingerprint.vocabulary_size == 2**25


def test_a_name_that_no_file_can_hold_is_told_before_anything_is_written(tmp_path):
    line = '{"audio": "\\ud800.wav", "units": [1]}\n'
    with pytest.raises(UserError, match=r"line 1: 'audio' is .* half a character"):
        _import(tmp_path, line, "unit-hifigan")
    assert not (tmp_path / "corpus").exists()


def _pair(number, **units):
    names = {"prompt": "p.wav", "chosen": f"c{number}.wav", "rejected": f"r{number}.wav"}
    units = {"prompt": "<Un3>", "chosen": "<Un1>", "rejected": "<Un2>", **units}
    pair = {f"{role}_path": name for role, name in names.items()}
    return json.dumps(pair | {role: {"audio_repr": units[role]} for role in names}) + "\n"


def test_a_prompt_of_several_pairs_is_stored_once(tmp_path):
    corpus, _ = _import(tmp_path, _pair(1) + _pair(2), "slamkit-preference", shard_size=2)
    ids = ["p.wav", "c1.wav", "r1.wav", "c2.wav", "r2.wav"]
    assert [row.id for row in corpus.rows()] == ids
    assert corpus.n_rows == 5
    with pytest.raises(UserError, match=r"1 names stand for more than one recording: p\.wav"):
        _import(tmp_path, _pair(1) + _pair(2, prompt="<Un4>"), "slamkit-preference")


def test_a_unit_outside_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 2: unit 7 of a vocabulary of 7, which ends at 6"):
        _import(tmp_path, "a|1 6\nb|7\n", vocabulary_size=7)
    assert not (tmp_path / "corpus").exists()


def test_the_command_takes_the_fingerprint_of_a_folder_of_units(tiny_bundle, tmp_path, capsys):
    import gslm.units

    known = gslm.units.load(tiny_bundle).fingerprint
    (tmp_path / "u.txt").write_text("a|1 1 7\n")
    arguments = ("units", "import", tmp_path / "u.txt", "--format", "text", "--units", tiny_bundle)
    run(*arguments, "-o", tmp_path / "c")
    assert Corpus.open(tmp_path / "c").fingerprint == known
    assert "1 recordings, 2 units, 3 frames" in capsys.readouterr().out
    with pytest.raises(UserError, match="leave out their flags"):
        run(*arguments, "--vocabulary-size", 9, "-o", tmp_path / "d")
    (tmp_path / "u.txt").write_text("a|8\n")
    with pytest.raises(UserError, match="unit 8 of a vocabulary of 8"):
        run(*arguments, "-o", tmp_path / "d")


def test_the_commands_go_there_and_back(tmp_path, capsys):
    (tmp_path / "u.txt").write_text("a|1 1 7\nb|2 2\n")
    run("units", "import", tmp_path / "u.txt", "--format", "text", "-o", tmp_path / "c")
    run("units", "export", tmp_path / "c", "--format", "text", "-o", tmp_path / "back.txt")
    assert (tmp_path / "back.txt").read_text() == "a|1 1 7\nb|2 2\n"
    tokens = tmp_path / "tokens.jsonl"
    run("units", "export", tmp_path / "c", "--format", "slamkit-tokens", "-o", tokens)
    assert "durations lost" in capsys.readouterr().out
    assert '"<Un1><Un7>"' in tokens.read_text()


def test_lengths_that_do_not_fit_the_manifest_are_refused(tmp_path):
    (tmp_path / "m.tsv").write_text("/data\na.wav\t16000\n")
    manifest = tmp_path / "m.tsv"
    frames = " ".join(["3", "4"] * 25)
    for ends_short in (0, 1, 3):
        text = f"a|{frames}"[: None if not ends_short else -2 * ends_short]
        corpus, _ = _import(tmp_path, text + "\n", manifest=manifest)
        assert [row.n_samples for row in corpus.rows()] == [16_000]
        for file in (tmp_path / "corpus").iterdir():
            file.unlink()
    with pytest.raises(
        UserError, match=r"3 frames, but 16000 samples .* 50 frames.*samples at 16 kHz$"
    ):
        _import(tmp_path, "a|1 2 3\n", manifest=manifest)
    corpus, remarks = _import(tmp_path, "a|1 2 3\n", manifest=manifest, kind="runs")
    assert [row.durations for row in corpus.rows()] == [None]
    assert any("durations are unknown" in remark for remark in remarks)


def test_what_looks_wrong_is_remarked(tmp_path):
    for kind, text, remark in [
        ("frames", "a|1 2 3\n", "no unit follows itself"),
        ("runs", "a|1 1 3\n", "units repeat"),
        ("frames", "a|1 1 3\n", None),
    ]:
        folder = tmp_path / f"{kind} {remark}"
        folder.mkdir()
        _, remarks = _import(folder, text, kind=kind)
        assert (remark is None and not remarks) or remark in remarks[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c|1 1\n", "line 1: c is not there in"),
        ("x|1 1\n", r"x fits a/x\.wav, b/x\.wav in"),
        ("1 1\n2 2\n", "2 recordings, but .* lists 3"),
        ("1 1\n2 2\n3 3\n4 4\n", "line 4: .* lists only 3"),
        ("y|1 1\nb/y.wav|1 1\n", "1 names stand for more than one recording: b/y.wav"),
    ],
)
def test_names_that_a_manifest_does_not_tell_apart_are_refused(text, message, tmp_path):
    (tmp_path / "m.tsv").write_text("/data\na/x.wav\t640\nb/x.wav\t640\nb/y.wav\t640\n")
    with pytest.raises(UserError, match=message):
        _import(tmp_path, text, manifest=tmp_path / "m.tsv")


def test_ids_never_lead_out_of_the_root(tmp_path):
    text = "../a|1\n/b/./c|2\n./d.wav|3\n"
    assert [row.id for row in _import(tmp_path, text)[0].rows()] == ["a", "b/c", "d.wav"]
    for name in ("..", "a/../b", "/"):
        with pytest.raises(UserError, match="names no recording"):
            _import(tmp_path, f"{name}|1\n")
    with pytest.raises(UserError, match="/b/c is not below /data"):
        _import(tmp_path, "/data/a|1\n/b/c|1\n", root="/data/")


@pytest.mark.parametrize("path", ["../a.wav", "/etc/a.wav", "b/../../a.wav"])
def test_a_manifest_never_leads_out_of_its_root(path, tmp_path):
    (tmp_path / "m.tsv").write_text(f"/data\n{path}\t640\nb.wav\t640\n")
    for text, message in {"a|1 1\n": "a is not there in", "1 1\n2 2\n": "leads outside"}.items():
        with pytest.raises(UserError, match=message):
            _import(tmp_path, text, manifest=tmp_path / "m.tsv")
    assert not (tmp_path / "corpus").exists()
    # Encoding passes such a line over, so units that were made from it lack its recording.
    corpus, _ = _import(tmp_path, "b|1 1\n", manifest=tmp_path / "m.tsv")
    assert [row.id for row in corpus.rows()] == ["b.wav"]


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no recordings"):
        _import(tmp_path, "")
    with pytest.raises(UserError, match="above 0"):
        _import(tmp_path, "a|1\n", frame_rate=0)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Five times the lines: a shard is held, not the file of 230 kB."""
    line = " ".join(map(str, np.random.default_rng(0).integers(0, 100, 400)))
    peaks = []
    for n in (40, 200):
        folder = tmp_path / str(n)
        folder.mkdir()
        text = "".join(f"{i}|{line}\n" for i in range(n))
        (folder / "u.txt").write_text(text)
        del text
        tracemalloc.start()
        settings = ImportSettings("text", shard_size=10)
        corpus, _ = import_corpus(folder / "u.txt", folder / "corpus", settings, False)
        export_corpus(corpus, folder / "back.txt", ExportSettings("text"), False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (folder / "back.txt").read_bytes() == (folder / "u.txt").read_bytes()
    assert peaks[1] < peaks[0] + 100_000


def test_a_manifest_says_what_is_encoded(tiny_bundle, mixed_audio, tmp_path):
    manifest = tmp_path / "m.tsv"
    manifest.write_text(f"{mixed_audio}\nnarrow.wav\t8000\nann/one.wav\t9600\nlost.wav\t1\n")
    arguments = ("units", "encode", "--units", tiny_bundle, "--manifest", manifest)
    run(*arguments, "-o", tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert [row.id for row in corpus.rows()] == ["ann/one.wav", "narrow.wav"]
    assert [id_ for id_, _ in corpus.skipped()] == ["lost.wav"]
    manifest.write_text("/elsewhere\none.wav\t9600\n")
    run(*arguments, mixed_audio / "ann", "-o", tmp_path / "d")
    assert [row.id for row in Corpus.open(tmp_path / "d").rows()] == ["one.wav"]
    manifest.write_text("/elsewhere\n")
    with pytest.raises(UserError, match="lists no recordings"):
        run(*arguments, "-o", tmp_path / "e")
    with pytest.raises(UserError, match="name a folder of audio, or a --manifest"):
        run("units", "encode", "--units", tiny_bundle, "-o", tmp_path / "e")


def test_settings_that_a_format_cannot_follow_are_refused(tmp_path):
    corpus, _ = _import(tmp_path, "a|1 1\n")
    for settings, message in [
        (ExportSettings("manifest"), "give it with --root"),
        (ExportSettings("slamkit", names="none"), "--names none: slamkit names every recording"),
        (ExportSettings("resynthesis", key="f0"), "--key f0"),
        (ExportSettings("text", key="codes"), "--key is for --format resynthesis, not text"),
        (ExportSettings("text", sources=tmp_path), "--sources is for --format s2ut"),
        (ExportSettings("text", dictionary=tmp_path), "--dictionary is for --format fairseq"),
        (ExportSettings("text", root="/data"), "--root goes before whole paths alone"),
        (ExportSettings("fairseq", names="path"), "--names path: fairseq's data hold no names"),
        (ExportSettings("text", split="held_out"), "no recordings in --split held_out"),
        (ExportSettings("textless", split="held_out"), "no recordings in --split held_out"),
        (ExportSettings("fairseq", split="held_out"), "no recordings in --split held_out"),
    ]:
        with pytest.raises(UserError, match=message):
            export_corpus(corpus, tmp_path / "out", settings, False)
        assert not list(tmp_path.glob("*out*"))
    with pytest.raises(UserError, match="--dictionary is for --format fairseq, not text"):
        _import(tmp_path, "a|1 1\n", dictionary=tmp_path / "nowhere.txt")
    for folder in (tmp_path, "."):
        with pytest.raises(UserError, match="a folder; name the file to write"):
            export_corpus(corpus, folder, ExportSettings("text"), False)


def test_centroids_are_assembled_with_an_encoder_of_their_dimension(tmp_path):
    import gslm.units

    centers = np.random.default_rng(0).standard_normal((5, 39)).astype(np.float32)
    np.save(tmp_path / "c.npy", centers)
    arguments = ("units", "assemble", "--encoder", "mfcc", "--centroids", tmp_path / "c.npy")
    run(*arguments, "-o", tmp_path / "units")
    made = gslm.units.load(tmp_path / "units")
    assert np.array_equal(made.centroids.numpy(), centers)
    assert (made.normalization, made.n_units) == ("none", 5)
    np.save(tmp_path / "c.npy", centers[:, :13])
    with pytest.raises(UserError, match=r"\(5, 13\) do not fit mfcc features of 39 dimensions"):
        run(*arguments, "-o", tmp_path / "other")
    assert not (tmp_path / "other").exists()
