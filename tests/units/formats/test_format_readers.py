"""Each format as its own toolkit writes it, by hand, and what is wrong with a file of it."""

from __future__ import annotations

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.units.formats.importing import read_entries
from gslm.units.formats.manifest import manifest_root, read_manifest

# textlesslib's and dGSLM's from their READMEs, SlamKit's from its example_data, unit-hifigan's
# from its README, the others by the scripts named in the modules.
SAMPLES = {
    "text": "1272-128104-0000|71 12 12 57\n84-121123-0001-channel2|3\nprompt__0|4 4\n",
    "slamkit": '{"units": [3, 49, 7], "duration": [1, 1, 4], "file_name": "../audio/a.flac"}\n',
    "slamkit-tokens": '{"file_name": "../audio/a.flac", "audio_repr": "<Un3><Un49><Un7>"}\n',
    "slamkit-preference": '{"prompt_path": "p.wav", "chosen_path": "c.wav", "rejected_path": '
    '"other.wav", "prompt": {"audio_repr": "<Un3><Un49>"}, "chosen": {"audio_repr": "<Un7>"}, '
    '"rejected": {"audio_repr": "<Un0>"}}\n',
    "unit-hifigan": '{"audio":"audio-1.wav","units":[24,24,173],"speaker":"spkr02"}\n'
    '{"audio":"audio-2.wav","units":[1],"style":"laughing"}\n',
    "resynthesis": "{'audio': '/data/LJ001.wav', 'hubert': '7 7 21', 'duration': 1.25}\n"
    "{'audio': '/data/p1/a.wav', 'cpc_km100': '5'}\n"
    "{'audio': '/data/p1/b.wav', 'codes': '6 6'}\n",
    "dgslm": "{'audio': 'file_1', 'unitA': '8 8 352', 'unitB': '217 8 8'}\n",
    "s2ut": "id\tsrc_audio\tsrc_n_frames\ttgt_audio\ttgt_n_frames\n"
    "s1\t/data/es/s1.wav\t321\t63 18 4\t3\n",
}
EXPECTED = {
    "text": [
        ("1272-128104-0000", [71, 12, 12, 57]),
        ("84-121123-0001-channel2", [3]),
        ("prompt__0", [4, 4]),
    ],
    "slamkit": [("../audio/a.flac", [3, 49, 7])],
    "slamkit-tokens": [("../audio/a.flac", [3, 49, 7])],
    "slamkit-preference": [("p.wav", [3, 49]), ("c.wav", [7]), ("other.wav", [0])],
    "unit-hifigan": [("audio-1.wav", [24, 24, 173]), ("audio-2.wav", [1])],
    "resynthesis": [
        ("/data/LJ001.wav", [7, 7, 21]),
        ("/data/p1/a.wav", [5]),
        ("/data/p1/b.wav", [6, 6]),
    ],
    "dgslm": [("file_1-channel1", [8, 8, 352]), ("file_1-channel2", [217, 8, 8])],
    "s2ut": [("s1", [63, 18, 4])],
}


def _read(tmp_path, format_, text):
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    return list(read_entries(path, format_))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"], ids=["unix", "windows", "blank lines"])
@pytest.mark.parametrize("format_", SAMPLES)
def test_a_sample_is_read(format_, ending, tmp_path):
    if format_ == "text" and ending == "\n\n":
        # A recording without units.
        with pytest.raises(UserError, match="line 2: holds no units; remove it"):
            _read(tmp_path, format_, SAMPLES[format_].replace("\n", ending))
        return
    entries = _read(tmp_path, format_, SAMPLES[format_].replace("\n", ending))
    assert [(entry.name, entry.units.tolist()) for entry in entries] == EXPECTED[format_]
    assert all(entry.units.dtype == np.int32 for entry in entries)


def test_what_else_the_samples_hold_is_read(tmp_path):
    assert _read(tmp_path, "slamkit", SAMPLES["slamkit"])[0].durations.tolist() == [1, 1, 4]
    assert [e.speaker for e in _read(tmp_path, "unit-hifigan", SAMPLES["unit-hifigan"])] == [
        "spkr02",
        "",
    ]
    entries = _read(tmp_path, "resynthesis", SAMPLES["resynthesis"])
    assert [entry.n_samples for entry in entries] == [20_000, None, None]


def test_lines_without_names_are_read(tmp_path):
    entries = _read(tmp_path, "text", "71 12 57\n4\n")
    assert [(entry.name, entry.units.tolist()) for entry in entries] == [
        ("", [71, 12, 57]),
        ("", [4]),
    ]


def test_the_other_s2ut_tables_are_read(tmp_path):
    tables = [
        "id\taudio\tn_frames\ttgt_text\ttgt_n_frames\ns1\ta.wav\t10\t4 5\t2\n",
        "id\ttgt_text\ns1\t4 5\n",
    ]
    for table in tables:
        [entry] = _read(tmp_path, "s2ut", table)
        assert (entry.name, entry.units.tolist()) == ("s1", [4, 5])


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("suffix", ["", ".units"])
def test_textless_streams_are_read_together(named, suffix, tmp_path):
    names = ["1272-128104-0000\t", "b.c\t"] if named else ["", ""]
    rows = {"units": ["71 12 56", "4"], "durations": ["2 1 1", "7"], "f0s": ["110 0 98", "230"]}
    for stream, lines in rows.items():
        text = "".join(f"{n}{line}\n" for n, line in zip(names, lines, strict=True))
        (tmp_path / f"out.{stream}").write_text(text)
    first, second = read_entries(tmp_path / f"out{suffix}", "textless")
    assert first.name == names[0].strip() and second.name == names[1].strip()
    assert first.units.tolist() == [71, 12, 56] and second.units.tolist() == [4]
    assert first.durations.tolist() == [2, 1, 1] and second.durations.tolist() == [7]
    assert first.f0.tolist() == [110, 0, 98] and second.f0.tolist() == [230]
    (tmp_path / "out.f0s").unlink()
    (tmp_path / "out.durations").unlink()
    first, _ = read_entries(tmp_path / f"out{suffix}", "textless")
    assert first.durations is None and first.f0 is None


@pytest.mark.parametrize(
    ("stream", "text", "message"),
    [
        ("durations", "2 1\n", "differ in length"),
        ("durations", "a\t2 1 1\n", "name different recordings"),
        ("durations", "2 0 1\n", "duration of 0"),
        ("durations", "2 1 1\n3\n", "another number of lines"),
        ("f0s", "", "another number of lines"),
        ("f0s", "1 2 x\n", "'x' is no unit"),
    ],
)
def test_textless_streams_that_disagree_are_refused(stream, text, message, tmp_path):
    (tmp_path / "out.units").write_text("71 12 56\n")
    (tmp_path / f"out.{stream}").write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_entries(tmp_path / "out", "textless"))


@pytest.mark.parametrize(
    ("format_", "text", "message"),
    [
        ("text", "a|1 2\nb|1 x 2\n", r"line 2: 'x' is no unit"),
        ("text", "a|1 -2\n", "line 1: '-2'"),
        ("text", "a|1_0\n", "'1_0'"),
        ("text", "a|1 ٣\n", "no unit"),
        ("text", "a|99999999999\n", "99999999999 among the units"),
        ("text", f"a|1 {'9' * 5000}\n", "line 1: 9{60}… among the units"),
        ("text", "a|\n", "holds no units"),
        ("text", "|1 2\n", "no name"),
        ("slamkit", '{"units": [1], "file_name": "a"', "line 1: not JSON"),
        ("slamkit", "[1]\n", "expected a JSON object"),
        ("slamkit", '{"units": [1.0], "file_name": "a"}\n', r"1\.0 among the units"),
        ("slamkit", '{"units": [true], "file_name": "a"}\n', "True among the units"),
        ("slamkit", '{"units": [-1], "file_name": "a"}\n', "-1 among the units"),
        ("slamkit", '{"units": [], "file_name": "a"}\n', "no units"),
        ("slamkit", '{"units": [1], "duration": [0], "file_name": "a"}\n', "a frame or more"),
        ("slamkit", '{"units": [1], "duration": [1, 1], "file_name": "a"}\n', "2 durations"),
        ("slamkit", '{"units": [1]}\n', "lacks 'file_name'"),
        ("slamkit", '{"units": [1], "file_name": 3}\n', "'file_name' is 3"),
        ("slamkit-tokens", '{"file_name": "a", "audio_repr": "hello <Un3>"}\n', "more than units"),
        ("slamkit-tokens", '{"file_name": "a", "audio_repr": ""}\n', "or none"),
        ("slamkit-preference", '{"prompt_path": "p.wav"}\n', "line 1: lacks 'prompt'"),
        ("slamkit-preference", '{"prompt": "<Un3>"}\n', "'prompt' is no object"),
        ("slamkit-preference", '{"prompt": {"audio_repr": "<Un3>"}}\n', "lacks 'prompt_path'"),
        ("unit-hifigan", '{"audio": "a"}\n', "lacks 'units'"),
        ("resynthesis", "/data/a.wav\n", "a dictionary as Python prints it"),
        ("resynthesis", "{'audio': 'a', 'f0': '1'}\n", "none of"),
        ("resynthesis", "{'audio': 'a', 'hubert': '1', 'duration': -2}\n", "duration of -2"),
        ("resynthesis", "{'audio': 'a', 'hubert': [1]}\n", "expected text"),
        ("dgslm", "{'audio': 'a', 'unitA': '1 2', 'unitB': '1'}\n", "2 units in one channel, 1"),
        ("dgslm", "{'audio': 'a', 'unitA': '1 2'}\n", "lacks 'unitB'"),
        ("s2ut", "id\tsrc_audio\ns1\ta.wav\n", "no S2UT table"),
        ("s2ut", "id\ttgt_text\ns1\n", "line 2: 1 cells, but 2 columns"),
        ("s2ut", "id\ttgt_audio\ttgt_n_frames\ns1\t4 5\t3\n", "2 units, but tgt_n_frames says 3"),
        ("s2ut", "id\ttgt_audio\ttgt_n_frames\ns1\t/data/a.wav\t3\n", "no unit"),
        ("s2ut", "", "no S2UT table"),
        ("manifest", "/data\na.wav\t5\n", "gslm units encode --manifest"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(format_, text, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        _read(tmp_path, format_, text)
    assert str(error.value).startswith(str(tmp_path / "file"))
    assert "\n" not in str(error.value)


def test_no_line_of_python_is_run(tmp_path):
    program = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"
    for line in (program, f"{{'audio': {program}, 'hubert': '1'}}", "(" * 100_000):
        with pytest.raises(UserError, match="as Python prints it"):
            _read(tmp_path, "resynthesis", line + "\n")
    assert not (tmp_path / "ran").exists()


def test_missing_and_foreign_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        list(read_entries(tmp_path / "none", "text"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00a|1\n")
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_entries(tmp_path / "binary", "text"))
    with pytest.raises(UserError, match="not readable"):
        list(read_entries(tmp_path, "text"))


def test_an_audio_manifest_is_read(tmp_path):
    path = tmp_path / "m.tsv"
    path.write_text("/datasets/dev-clean\n1272/a b.flac\t93680\n1272/local.flac\n")
    assert manifest_root(path).as_posix() == "/datasets/dev-clean"
    assert list(read_manifest(path)) == [("1272/a b.flac", 93_680), ("1272/local.flac", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no manifest"),
        ("a.wav\t5\n", "no manifest"),
        ("/d\na.wav\tx\n", "line 2: expected"),
        (f"/d\na.wav\t{'9' * 5000}\n", "line 2: expected"),
    ],
    ids=range(4),
)
def test_what_is_no_manifest_is_refused(text, message, tmp_path):
    (tmp_path / "m.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_manifest(tmp_path / "m.tsv"))
