import json
import struct

import numpy as np
import pytest

from gslm.audio import write_wav
from gslm.errors import UserError
from gslm.eval.bootstrap import Interval
from gslm.eval.clips import clip_id, collect_clips, read_ids, read_transcripts
from gslm.eval.commands import app
from gslm.eval.judge import load_judge, whisper_size
from gslm.eval.report import require_writable_table, write_table
from gslm.eval.wer import ErrorReport, count_errors, score_clips


def edit_distance(a, b):
    """The slow, obvious reference."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "sub/b.wav", "sub/ü c.wav", "untold.wav"):
        write_wav(tmp_path / "audio" / name, np.zeros(1600, np.float32))
    (tmp_path / "t.tsv").write_text(
        "id\ttext\na.flac\tPress 1 now\nsub/b.wav\thello there\nsub/ü c\t[tone]\nno-audio\tx y\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("Press 1 to record", "press one to the record"),
        ("one two three", ""),
        ("the cat sat", "a cat has sat down"),
        ("don't go", "Don’t go!"),
    ],
)
def test_errors_equal_an_edit_distance(reference, hypothesis):
    pytest.importorskip("jiwer")
    found = count_errors("x", reference, hypothesis)
    r, h = found.reference, found.hypothesis
    assert found.word_errors == edit_distance(r.split(), h.split())
    assert found.character_errors == edit_distance(r, h)
    assert (found.n_words, found.n_characters) == (len(r.split()), len(r))


def test_ids_meet_whatever_the_suffix(folder):
    texts = read_transcripts(folder / "t.tsv")
    clips = collect_clips(folder / "audio", texts)
    assert [c.id for c in clips] == ["a", "sub/b", "sub/ü c"]
    assert clip_id("version 1.2/x.y.flac") == "version 1.2/x.y"
    assert clip_id("version 1.2") == "version 1.2"


def test_clips_without_words_are_left_out_and_rates_add_up(folder):
    pytest.importorskip("jiwer")
    clips = collect_clips(folder / "audio", read_transcripts(folder / "t.tsv"))
    report = score_clips(clips, lambda waveform: "press one", "fake")
    found = [(c.id, c.word_errors, c.n_words) for c in report.clips]
    assert found == [("a", 1, 3), ("sub/b", 2, 2)]
    assert report.word_error_rate.estimate == pytest.approx(3 / 5)
    heard = iter(["press one now", "hello"])
    better = score_clips(clips[:2], lambda waveform: next(heard), "fake")
    assert report.word_difference(better).estimate == pytest.approx(2 / 5)
    with pytest.raises(UserError, match="different clips"):
        report.word_difference(ErrorReport("fake", better.clips[:1]))


def test_what_is_missing_or_doubled_is_named(folder):
    texts = read_transcripts(folder / "t.tsv")
    with pytest.raises(UserError, match="no-audio"):
        collect_clips(folder / "audio", texts, ["no-audio", "a"])
    with pytest.raises(UserError, match="untold"):
        collect_clips(folder / "audio", texts, ["untold"])
    (folder / "bad.tsv").write_text("a\tx\nb only\n")
    with pytest.raises(UserError, match=r"bad\.tsv:2"):
        read_transcripts(folder / "bad.tsv")
    (folder / "twice.tsv").write_text("a.wav\tx\na.flac\ty\n")
    with pytest.raises(UserError, match="twice"):
        read_transcripts(folder / "twice.tsv")
    write_wav(folder / "audio" / "a.flac.wav", np.zeros(1600, np.float32))
    (folder / "audio" / "a.flac.wav").rename(folder / "audio" / "a.mp3")
    with pytest.raises(UserError, match="differ only"):
        collect_clips(folder / "audio", texts)


def test_id_lists_take_first_column_and_comments(tmp_path):
    (tmp_path / "ids").write_text("# made by hand\na/b.flac\t0123\n\nc\n")
    assert read_ids(tmp_path / "ids") == ["a/b", "c"]


def test_tables_as_tsv_and_json(tmp_path):
    pytest.importorskip("jiwer")
    rows = [count_errors("a", "one two", "one")]
    write_table(tmp_path / "t.tsv", rows)
    header, line = (tmp_path / "t.tsv").read_text().splitlines()
    assert dict(zip(header.split("\t"), line.split("\t"), strict=True))["word_errors"] == "1"
    write_table(tmp_path / "t.json", rows, {"judge": "x"})
    whole = json.loads((tmp_path / "t.json").read_text())
    assert whole["summary"] == {"judge": "x"}
    assert whole["clips"][0]["hypothesis"] == "one"


def test_a_table_of_any_rows_is_json_without_nan(tmp_path):
    write_table(tmp_path / "t.json", [Interval(float("nan"), 0.0, 1.0)], {"x": [1.5]}, key="rows")
    text = (tmp_path / "t.json").read_text()
    whole = json.loads(text, parse_constant=pytest.fail)
    assert whole == {
        "summary": {"x": [1.5]},
        "rows": [{"estimate": None, "low": 0.0, "high": 1.0}],
    }


def test_a_table_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for table in (tmp_path, tmp_path / "file" / "t.tsv"):
        words = ("mos", str(tmp_path / "none"), "-o", str(table))
        with pytest.raises(UserError, match="name a file"):
            app(words, result_action="return_value")
    require_writable_table(tmp_path / "new" / "t.tsv")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("vocabulary", "width", "size"),
    [(51865, 512, "base"), (51864, 384, "tiny.en"), (51866, 1280, "large"), (100, 77, "")],
)
def test_size_is_read_from_the_weights(tmp_path, vocabulary, width, size):
    head = b"\6\0\0\0" + b"decoder/embeddings/weight\0\2" + struct.pack("<II", vocabulary, width)
    (tmp_path / "model.bin").write_bytes(head + b"\0" * 100)
    assert whisper_size(tmp_path) == size


def test_a_folder_without_weights_is_told_in_one_line(tmp_path):
    pytest.importorskip("faster_whisper")
    with pytest.raises(UserError, match=r"no model\.bin") as error:
        load_judge(str(tmp_path))
    assert "\n" not in str(error.value)
