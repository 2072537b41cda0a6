"""Corpora: what goes in comes out, resumed runs agree, and damage is one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gslm import bundle, corpus
from gslm.bundle import read_json, write_json
from gslm.corpus import Corpus, CorpusRow, CorpusWriter, held_out_by_hash, shard_path
from gslm.errors import UserError
from gslm.types import Fingerprint

FINGERPRINT = Fingerprint("mfcc", "", 0, 50.0, "none", "0123456789abcdef", 8)
SOURCE = {"root": "audio", "shard_size": 3}


def row(i: int, id_: str | None = None) -> CorpusRow:
    """Row number i; every second has durations, every third pitch."""
    units = np.arange(i % 5 + 1, dtype=np.int32)
    durations = None if i % 2 else units + 1
    pitch = None if i % 3 else np.full(len(units), 100.0 + i, np.float32)
    n_samples = 320 * int(len(units) if durations is None else durations.sum())
    return CorpusRow(id_ or f"clip {i}.wav", units, durations, n_samples, f"spk{i % 2}", pitch)


def build(folder: Path, ids: list[str], held_out=None) -> Corpus:
    writer = CorpusWriter(folder, FINGERPRINT, SOURCE)
    shards = [ids[i : i + 3] for i in range(0, len(ids), 3)] or [[]]
    for index, part in enumerate(shards):
        writer.write_shard(index, [row(3 * index + j, id_) for j, id_ in enumerate(part)])
    return writer.finish(len(shards), held_out)


def same(left: CorpusRow, right: CorpusRow) -> bool:
    return (left.id, left.n_samples, left.speaker) == (
        right.id,
        right.n_samples,
        right.speaker,
    ) and all(
        (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b))
        for a, b in [
            (left.units, right.units),
            (left.durations, right.durations),
            (left.pitch, right.pitch),
        ]
    )


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_rows_come_back_as_they_went_in(tmp_path):
    rows = [row(i) for i in range(7)]
    found = build(tmp_path, [r.id for r in rows])
    assert all(same(*pair) for pair in zip(found.rows(), rows, strict=True))
    assert found.fingerprint == FINGERPRINT
    assert (len(found), found.n_rows, found.n_shards) == (7, 7, 3)
    assert found.n_units == sum(len(r.units) for r in rows)
    assert found.n_frames * 320 == found.n_samples == sum(r.n_samples for r in rows)
    assert found.units(rows[0]).fingerprint == FINGERPRINT
    assert found.skipped() == []


def test_an_empty_sequence_and_an_empty_shard_come_back(tmp_path):
    writer = CorpusWriter(tmp_path, FINGERPRINT, SOURCE)
    empty = CorpusRow("a", np.zeros(0, np.int32), np.zeros(0, np.int32), 0, "")
    writer.write_shard(0, [])
    writer.write_shard(1, [empty])
    assert [same(r, empty) for r in writer.finish(2).rows()] == [True]


def test_plain_pyarrow_reads_it(tmp_path):
    build(tmp_path, [f"{i}.wav" for i in range(7)])
    table = pq.read_table(sorted(tmp_path.glob("*.parquet")))
    assert table.column_names == ["id", "units", "durations", "n_samples", "speaker", "pitch"]
    assert table["id"].to_pylist() == [f"{i}.wav" for i in range(7)]
    assert table["units"][3].as_py() == row(3).units.tolist()


def test_only_trimmed_corpora_have_a_first_sample_and_lack_their_recordings_times(tmp_path):
    writer = CorpusWriter(tmp_path / "trimmed", FINGERPRINT, {"trimmed": True})
    writer.write_shard(0, [replace(row(1), first_sample=480)])
    trimmed = writer.finish(1)
    assert next(trimmed.rows()).first_sample == 480
    with pytest.raises(UserError, match="labelled times do not fit") as error:
        trimmed.require_times()
    one_line(error, "trimmed", "--trim-silence")
    plain = build(tmp_path / "plain", ["a.wav"])
    assert next(plain.rows()).first_sample == 0
    plain.require_times()
    assert not Corpus.is_at(tmp_path)
    assert Corpus.is_at(plain.folder)
    columns = pq.read_table(shard_path(plain.folder, 0)).column_names
    assert columns == ["id", "units", "durations", "n_samples", "speaker", "pitch"]


def test_a_corpus_of_unknown_durations_lacks_its_recordings_times(tmp_path):
    writer = CorpusWriter(tmp_path, FINGERPRINT, {"durations": "unknown"})
    writer.write_shard(0, [row(1)])
    with pytest.raises(UserError, match="durations of its units are unknown") as error:
        writer.finish(1).require_times()
    one_line(error, "--kind frames")


def test_two_files_of_one_basename_are_kept_apart(tmp_path):
    found = build(tmp_path, ["ann/one.wav", "bob/one.wav"])
    assert [r.id for r in found.rows()] == ["ann/one.wav", "bob/one.wav"]


def test_skipped_files_are_recorded_with_their_reason(tmp_path):
    writer = CorpusWriter(tmp_path, FINGERPRINT, SOURCE)
    writer.write_shard(0, [row(0)], [("b ü.wav", "holds no samples")])
    writer.write_shard(1, [row(1)], [("c.wav", "not audio")])
    found = writer.finish(2)
    assert found.skipped() == [("b ü.wav", "holds no samples"), ("c.wav", "not audio")]
    assert found.n_skipped == 2
    writer.write_shard(1, [row(1)])
    assert Corpus.open(tmp_path).skipped() == [("b ü.wav", "holds no samples")]


def test_a_resumed_writer_goes_on_and_gives_the_same_bytes(tmp_path):
    ids = [f"{i}.wav" for i in range(7)]
    build(tmp_path / "whole", ids)
    first = CorpusWriter(tmp_path / "parts", FINGERPRINT, SOURCE)
    first.write_shard(1, [row(3 + j, ids[3 + j]) for j in range(3)])
    with pytest.raises(UserError) as error:
        Corpus.open(tmp_path / "parts")
    one_line(error, "not finished")
    second = CorpusWriter(tmp_path / "parts", FINGERPRINT, SOURCE)
    assert [second.has_shard(i) for i in range(3)] == [False, True, False]
    second.write_shard(0, [row(j, ids[j]) for j in range(3)])
    second.write_shard(2, [row(6, ids[6])])
    second.finish(3)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("fingerprint", "source"),
    [
        (replace(FINGERPRINT, vocabulary_size=9), SOURCE),
        (FINGERPRINT, SOURCE | {"root": "other"}),
    ],
)
def test_other_settings_are_refused(tmp_path, fingerprint, source):
    before = build(tmp_path, ["a.wav"])
    with pytest.raises(UserError) as error:
        CorpusWriter(tmp_path, fingerprint, source)
    one_line(error, str(tmp_path), "other audio, units or settings")
    assert len(Corpus.open(tmp_path)) == len(before)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_default_split_holds_out_five_percent_at_least_20_at_most_half(n):
    hashes = [corpus._id_hash(f"{i}.wav") for i in range(n)]
    held_out = sum(hash_ < corpus._threshold(hashes) for hash_ in hashes)
    assert held_out == min(max(int(0.05 * n), 20), n // 2)


def test_the_split_depends_on_the_id_and_parts_the_rows(tmp_path):
    found = build(tmp_path, [f"{i}.wav" for i in range(60)])
    sides = {side: {r.id for r in found.rows(side)} for side in ("train", "held_out", "all")}
    assert len(sides["held_out"]) == 20
    assert sides["train"] | sides["held_out"] == sides["all"]
    assert not sides["train"] & sides["held_out"]
    assert all(found.is_held_out(id_) for id_ in sides["held_out"])
    with pytest.raises(UserError) as error:
        list(found.rows("test"))
    one_line(error, "held_out")


def test_the_split_is_known_before_anything_is_encoded(tmp_path):
    ids = [f"speaker {i % 3}/clip {i}.wav" for i in range(90)]
    corpus_rows = build(tmp_path, ids).rows("held_out")
    assert held_out_by_hash(ids) == {found.id for found in corpus_rows}


def test_a_split_can_be_planned_over_names_that_are_not_utf8():
    ids = [os.fsdecode(b"caf\xe9.wav"), *(f"{i}.wav" for i in range(9))]
    assert len(held_out_by_hash(ids)) == 5


def test_a_given_split_is_kept(tmp_path):
    found = build(tmp_path, [f"{i}.wav" for i in range(9)], held_out=["3.wav", "absent.wav"])
    assert [r.id for r in found.rows("held_out")] == ["3.wav"]
    assert len(list(found.rows("train"))) == 8
    with pytest.raises(UserError) as error:
        build(tmp_path / "b", ["a.wav"], held_out=["absent.wav"])
    one_line(error, "none of the 1 held-out ids")


@pytest.mark.parametrize("kept", [0, 10, 300, -20])
def test_a_damaged_shard_is_one_line(tmp_path, kept):
    found = build(tmp_path, [f"{i}.wav" for i in range(7)])
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError) as error:
        list(found.rows())
    one_line(error, path.name, "damaged shard")


def test_bytes_overwritten_inside_a_shard_never_pass_for_a_traceback(tmp_path):
    found = build(tmp_path, [f"{i}.wav" for i in range(3)])
    path = shard_path(tmp_path, 0)
    data = bytearray(path.read_bytes())
    data[8:120] = b"\xff" * 112
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        list(found.rows())
    one_line(error, path.name)


def test_a_missing_shard_is_one_line(tmp_path):
    found = build(tmp_path, ["a.wav"])
    shard_path(tmp_path, 0).unlink()
    with pytest.raises(UserError) as error:
        list(found.rows())
    one_line(error, "missing or damaged")


def test_folders_that_are_no_corpus_are_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        Corpus.open(tmp_path)
    one_line(error, "no corpus", "gslm units encode")
    build(tmp_path / "c", ["a.wav"])
    path = tmp_path / "c" / "corpus.json"
    about = read_json(path)
    for change, word in [
        ({"format": "other"}, "not a gslm corpus"),
        ({"version": 2}, "version 2"),
        ({"fingerprint": {}}, "fingerprint"),
    ]:
        write_json(path, about | change)
        with pytest.raises(UserError) as error:
            Corpus.open(tmp_path / "c")
        one_line(error, word)
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "n_rows"}))
    with pytest.raises(UserError) as error:
        Corpus.open(tmp_path / "c")
    one_line(error, "lacks 'n_rows'")


def test_what_a_killed_run_left_is_removed_at_the_start_alone(tmp_path):
    build(tmp_path, ["a.wav"])
    left = tmp_path / ".units-00001.parquet.123.tmp"
    left.write_bytes(b"PAR1")
    writer = CorpusWriter(tmp_path, FINGERPRINT, SOURCE)
    assert left.exists()  # a worker's writer must not touch what another worker writes
    writer.remove_unfinished()
    assert not left.exists()
    assert len(Corpus.open(tmp_path)) == 1


def test_a_full_disk_leaves_finished_shards(tmp_path, monkeypatch):
    writer = CorpusWriter(tmp_path, FINGERPRINT, SOURCE)
    writer.write_shard(0, [row(0)])
    before = shard_path(tmp_path, 0).read_bytes()

    def full(_table, path):
        Path(path).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corpus.pq, "write_table", full)
        for index in (0, 1):
            with pytest.raises(UserError) as error:
                writer.write_shard(index, [row(1)])
            one_line(error, "No space left")
    assert shard_path(tmp_path, 0).read_bytes() == before
    assert not writer.has_shard(1)
    assert not list(tmp_path.glob(".*"))
    assert bundle.read_json(tmp_path / "plan.json")["source"] == SOURCE
