"""Corpus to file to corpus: the same units, and what a format cannot hold is chosen or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gslm.corpus import Corpus, CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.types import Fingerprint, deduplicate
from gslm.units.formats.exporting import ExportSettings, export_corpus
from gslm.units.formats.importing import ImportSettings, import_corpus

K = 11
FINGERPRINT = Fingerprint("hubert", "w" * 16, 6, 50.0, "none", "c" * 16, K)
IDS = [
    f"{speaker}/clip {i}{end}" for i, speaker in enumerate("abc") for end in (".wav", ".v2.flac")
]
FORMATS = ["text", "textless", "slamkit", "slamkit-tokens", "unit-hifigan", "resynthesis", "s2ut"]
FORMATS.append("fairseq")


def make_corpus(folder: Path, ids=IDS, merged=True, pitch=False, seed=0, channels=False) -> Corpus:
    """Random units with runs; with `channels`, recordings that follow each other are as long."""
    random = np.random.default_rng(seed)
    rows = []
    for number, id_ in enumerate(ids):
        if not (channels and number % 2):
            n_frames = int(random.integers(4, 60))
        frames = random.integers(0, K, n_frames).repeat(random.integers(1, 4))[:n_frames]
        units, durations = deduplicate(frames)
        f0 = None
        if pitch:
            f0 = random.integers(0, 300, len(units)).astype(np.float32).repeat(durations)
        units, durations = (units, durations) if merged else (frames.astype(np.int32), None)
        rows.append(CorpusRow(id_, units, durations, 320 * n_frames, id_.split("/")[0], f0))
    writer = CorpusWriter(folder, FINGERPRINT, {"made": "by a test", "merged": merged})
    writer.write_shard(0, rows[:3])
    writer.write_shard(1, rows[3:])
    return writer.finish(2)


def round_trip(corpus, tmp_path, format_, written=None, read=None, progress=False):
    written, read = written or {}, read or {}
    path = tmp_path / "out" / "file"
    export_corpus(corpus, path, ExportSettings(format_, **written), progress)
    settings = {"fingerprint": FINGERPRINT, "shard_size": 4, **read}
    return import_corpus(path, tmp_path / "back", ImportSettings(format_, **settings), progress)[0]


def frames_of(corpus) -> list[list[int]]:
    return [corpus.units(row).expanded().ids.tolist() for row in corpus.rows()]


def runs_of(corpus) -> list[list[int]]:
    return [corpus.units(row).deduplicated().ids.tolist() for row in corpus.rows()]


@pytest.mark.parametrize("merged", [True, False], ids=["runs", "frames"])
@pytest.mark.parametrize("format_", FORMATS)
def test_every_frame_comes_back(format_, merged, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", merged=merged)
    back = round_trip(corpus, tmp_path, format_, {"deduplicate": False}, {"kind": "frames"})
    assert frames_of(back) == frames_of(corpus)
    assert back.fingerprint == FINGERPRINT
    assert (back.n_frames, back.n_shards) == (corpus.n_frames, 2)
    assert back.n_samples == corpus.n_samples
    assert all((row.durations is not None) for row in back.rows())


@pytest.mark.parametrize("format_", FORMATS)
def test_runs_come_back(format_, tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    back = round_trip(corpus, tmp_path, format_, {"deduplicate": True}, {"kind": "runs"})
    assert runs_of(back) == runs_of(corpus)
    if format_ in ("textless", "slamkit"):
        assert frames_of(back) == frames_of(corpus)
    else:
        assert back.source["durations"] == "unknown"


@pytest.mark.parametrize("format_", FORMATS)
def test_the_formats_own_way_is_the_same_in_both_directions(format_, tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    back = round_trip(corpus, tmp_path, format_)
    assert runs_of(back) == runs_of(corpus)
    if format_ not in ("slamkit-tokens", "s2ut", "fairseq"):
        assert frames_of(back) == frames_of(corpus)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("format_", ["text", "textless", "slamkit"])
def test_frames_are_stored_as_asked(format_, kept, tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    back = round_trip(corpus, tmp_path, format_, {}, {"deduplicate": kept})
    assert frames_of(back) == frames_of(corpus)
    assert all((row.durations is None) != kept for row in back.rows())


@pytest.mark.parametrize("format_", ["slamkit", "slamkit-tokens", "unit-hifigan", "resynthesis"])
def test_paths_come_back_whole(format_, tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    root = {"root": "/data/audio"}
    back = round_trip(corpus, tmp_path, format_, root, root)
    assert [row.id for row in back.rows()] == IDS
    if format_ == "unit-hifigan":
        assert [row.speaker for row in back.rows()] == [id_[0] for id_ in IDS]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_manifest_gives_the_ids_and_lengths_back(format_, tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    manifest = tmp_path / "m.tsv"
    export_corpus(corpus, manifest, ExportSettings("manifest", root="/data/audio"), False)
    lines = manifest.read_text().splitlines()
    assert lines[0] == "/data/audio"
    assert lines[1:] == [f"{row.id}\t{row.n_samples}" for row in corpus.rows()]
    named = {} if format_ not in ("text", "textless") else {"names": "none"}
    back = round_trip(corpus, tmp_path, format_, named, {"manifest": manifest})
    assert [row.id for row in back.rows()] == IDS
    assert [row.n_samples for row in back.rows()] == [row.n_samples for row in corpus.rows()]
    assert runs_of(back) == runs_of(corpus)


@pytest.mark.parametrize("names", ["basename", "path", "audio", "none"])
def test_names_of_quantized_text(names, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", ids=["local.flac", "a/x.calf.wav", "b/y|z/lo.v2"])
    path = tmp_path / "units.txt"
    settings = ExportSettings("text", names=names)
    if names in ("path", "audio"):
        with pytest.raises(UserError, match=r"y\|z.*cannot hold a name with '\|'"):
            export_corpus(corpus, path, settings, False)
        assert not path.exists() and not list(tmp_path.glob(".*.tmp"))
        return
    export_corpus(corpus, path, settings, False)
    expected = ["local|", "x.calf|", "lo.v2|"] if names == "basename" else ["", "", ""]
    units = [" ".join(map(str, frames)) for frames in frames_of(corpus)]
    assert path.read_text().splitlines() == [a + b for a, b in zip(expected, units, strict=True)]


def test_names_that_collide_are_listed_and_not_merged(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", ids=["a/x.wav", "b/x.wav", "b/y.wav", "c/z.wav"])
    path = tmp_path / "units.txt"
    with pytest.raises(UserError, match=r"1 names .* x \(a/x\.wav, b/x\.wav\); use --names path"):
        export_corpus(corpus, path, ExportSettings("text"), False)
    assert not path.exists()
    export_corpus(corpus, path, ExportSettings("text", names="path"), False)
    assert [line.split("|")[0] for line in path.read_text().splitlines()] == [
        "a/x",
        "b/x",
        "b/y",
        "c/z",
    ]
    path.write_text("x|1\ny|2\nx|3\nx|4\ny|5\n")
    with pytest.raises(UserError, match=r"2 names stand for more than one recording: x, y;"):
        import_corpus(path, tmp_path / "back", ImportSettings("text"), False)
    assert not (tmp_path / "back").exists()


def test_stereo_recordings_come_back_from_dgslm(tmp_path):
    ids = [f"talk {i}-channel{c}.wav" for i in range(3) for c in (1, 2)]
    corpus = make_corpus(tmp_path / "corpus", ids=ids, channels=True)
    back = round_trip(corpus, tmp_path, "dgslm")
    assert [row.id for row in back.rows()] == [id_.removesuffix(".wav") for id_ in ids]
    assert frames_of(back) == frames_of(corpus)
    text = (tmp_path / "out" / "file").read_text().splitlines()
    assert text[0].startswith("{'audio': 'talk 0', 'unitA': '") and len(text) == 3


def test_channels_that_do_not_pair_are_refused(tmp_path):
    for name, ids, message in [
        ("mono", ["a.wav", "b.wav"], "dgslm takes recordings called name-channel1 and name-ch"),
        ("half", ["a-channel1.wav", "b-channel1.wav"], "a: a-channel2 is missing"),
        ("unlike", ["a-channel1.wav", "a-channel2.wav"], "a unit a frame of both"),
    ]:
        corpus = make_corpus(tmp_path / name, ids=ids)
        with pytest.raises(UserError, match=message):
            export_corpus(corpus, tmp_path / "out", ExportSettings("dgslm"), False)
    with pytest.raises(UserError, match="leave out --deduplicate"):
        export_corpus(corpus, tmp_path / "out", ExportSettings("dgslm", deduplicate=True), False)


def test_preferences_come_back_in_threes(tmp_path):
    roles = ("prompt", "chosen", "rejected")
    ids = [f"s/{number}_{role}.wav" for role in roles for number in (1, 2)]
    corpus = make_corpus(tmp_path / "corpus", ids=ids)
    root = {"root": "/data"}
    back = round_trip(corpus, tmp_path, "slamkit-preference", root, root)
    expected = {row.id: runs for row, runs in zip(corpus.rows(), runs_of(corpus), strict=True)}
    found = {row.id: runs for row, runs in zip(back.rows(), runs_of(back), strict=True)}
    assert found == expected
    lines = [json.loads(line) for line in (tmp_path / "out" / "file").read_text().splitlines()]
    assert [line["chosen_path"] for line in lines] == [
        "/data/s/1_chosen.wav",
        "/data/s/2_chosen.wav",
    ]
    for name, ids, message in [
        ("two", ["1_prompt.wav", "1_rejected.wav"], "1: 1_chosen is missing"),
        ("other", ["1.wav"], "takes recordings called name_prompt, name_chosen and name_rejected"),
        ("twice", ["1_prompt.wav", "1_prompt.flac"], "1_prompt.flac: there is another 1_prompt"),
    ]:
        corpus = make_corpus(tmp_path / name, ids=ids)
        with pytest.raises(UserError, match=message):
            export_corpus(corpus, tmp_path / "bad", ExportSettings("slamkit-preference"), False)
        assert not (tmp_path / "bad").exists()


def test_a_manifest_names_both_channels(tmp_path):
    (tmp_path / "m.tsv").write_text("/data\nd/talk.wav\t1600\n")
    (tmp_path / "u.txt").write_text("talk-channel1|1 1 2 3 4\ntalk-channel2|5 5 5 5 5\n")
    settings = ImportSettings("text", manifest=tmp_path / "m.tsv")
    corpus, _ = import_corpus(tmp_path / "u.txt", tmp_path / "back", settings, False)
    assert [row.id for row in corpus.rows()] == ["d/talk-channel1", "d/talk-channel2"]


@pytest.mark.parametrize("merged", [True, False], ids=["runs", "frames"])
def test_pitch_comes_back_through_textless(merged, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", merged=merged, pitch=True)
    back = round_trip(corpus, tmp_path, "textless")
    for before, after in zip(corpus.rows(), back.rows(), strict=True):
        assert np.array_equal(before.pitch, after.pitch)
    assert (tmp_path / "out" / "file.f0s").is_file()
    # What has no pitch, written over it, does not keep that of others.
    other = make_corpus(tmp_path / "other", merged=merged)
    export_corpus(other, tmp_path / "out" / "file", ExportSettings("textless"), False)
    back, _ = import_corpus(tmp_path / "out" / "file", tmp_path / "b", ImportSettings("textless"))
    assert all(row.pitch is None for row in back.rows())


def test_s2ut_pairs_source_recordings_with_target_units(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", ids=["en/s1.wav", "en/s2.wav"])
    (tmp_path / "es.tsv").write_text("/data/es\nx/s2.flac\t3210\ns1.flac\t1600\n")
    export_corpus(
        corpus, tmp_path / "t", ExportSettings("s2ut", sources=tmp_path / "es.tsv"), False
    )
    rows = [line.split("\t") for line in (tmp_path / "t").read_text().splitlines()]
    assert rows[0] == ["id", "src_audio", "src_n_frames", "tgt_audio", "tgt_n_frames"]
    assert [row[:3] for row in rows[1:]] == [
        ["s1", "/data/es/s1.flac", "10"],
        ["s2", "/data/es/x/s2.flac", "20"],
    ]
    assert [row[3].split() for row in rows[1:]] == [list(map(str, r)) for r in runs_of(corpus)]
    (tmp_path / "es.tsv").write_text("/data/es\ns1.flac\t1600\n")
    settings = ExportSettings("s2ut", sources=tmp_path / "es.tsv")
    with pytest.raises(UserError, match="s2: the manifest of --sources names no such"):
        export_corpus(corpus, tmp_path / "t", settings, False)
    (tmp_path / "es.tsv").write_text("/data/es\n../s1.flac\t1600\n")
    with pytest.raises(UserError, match="leads outside /data/es"):
        export_corpus(corpus, tmp_path / "t", settings, False)


def test_an_interrupted_import_goes_on(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    path = tmp_path / "u.txt"
    export_corpus(corpus, path, ExportSettings("text", names="path"), False)
    settings = ImportSettings("text", FINGERPRINT, shard_size=2)
    import_corpus(path, tmp_path / "back", settings, False)
    before = {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()}
    (tmp_path / "back" / "corpus.json").unlink()
    (tmp_path / "back" / "units-00001.parquet").unlink()
    import_corpus(path, tmp_path / "back", settings, False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()} == before
    path.write_text(path.read_text() + "more|1 2\n")
    with pytest.raises(UserError, match="choose a new folder"):
        import_corpus(path, tmp_path / "back", settings, False)


def test_only_a_split_is_written(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    names = []
    for split in ("train", "held_out"):
        path = tmp_path / split
        export_corpus(corpus, path, ExportSettings("text", names="audio", split=split), False)
        names.append([line.split("|")[0] for line in path.read_text().splitlines()])
        assert names[-1] == [row.id for row in corpus.rows(split)]
    assert names[1] and sorted(names[0] + names[1]) == sorted(IDS)
