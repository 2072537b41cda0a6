"""Phone-timed sets: flite's times, alignment, item lines by hand, and whole sets in small."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from gslm.audio import read_audio
from gslm.errors import UserError
from gslm.eval.abx_items import read_items
from gslm.eval.alignment import Aligner, AlignmentError, spoken_words
from gslm.eval.commands import app
from gslm.eval.flite_speech import phones_of, speak
from gslm.eval.item_files import write_items
from gslm.eval.make_abx import ABXSetsConfig, make_abx_sets
from gslm.eval.sentences import example_sentences
from gslm.packages import file_hash
from gslm.sources import Prompts, clean_transcript, flite, prompts, read_transcripts, wordnet
from gslm.units.phone_labels import ClipPhones, PhoneLabels

CLIPS = ["agent-pass", "vm-goodbye", "digits/7", "beep"]


def clip(names: str, bounds: list[float], id_: str = "s/a", speaker: str = "s") -> ClipPhones:
    times = np.array(bounds)
    return ClipPhones(id_, names.split(), times[:-1], times[1:], speaker)


def test_items_are_phones_between_two_others(tmp_path):
    spoken = clip("SIL K AE T S SIL DH AH", [0, 0.1, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    hole = ClipPhones("s/b", ["A", "B", "C"], np.array([0, 0.1, 0.3]), np.array([0.1, 0.2, 0.4]))
    assert write_items(tmp_path / "t.item", [spoken, hole], "triphone") == 2
    assert (tmp_path / "t.item").read_text() == (
        "#file onset offset #phone prev-phone next-phone speaker\n"
        "s/a 0.1000 0.4000 AE K T s\n"
        "s/a 0.2500 0.5000 T AE S s\n"
    )
    write_items(tmp_path / "p.item", [spoken, hole], "phoneme")
    assert (tmp_path / "p.item").read_text().splitlines()[1:] == [
        "s/a 0.2500 0.3000 AE K T s",
        "s/a 0.3000 0.4000 T AE S s",
    ]
    with pytest.raises(UserError, match="clips with spaces"):
        write_items(tmp_path / "p.item", [clip("A B C", [0, 1, 2, 3], "a b")], "phoneme")


def test_flite_phones_are_folded_and_fill_the_clip():
    found = phones_of("pau:0.2 ax:0.3 hh:0.35 pau:0.503", 0.5, "x", "rms")
    assert found.names == ["SIL", "AH", "HH", "SIL"]
    np.testing.assert_allclose(found.onsets, [0, 0.2, 0.3, 0.35])
    np.testing.assert_allclose(found.offsets, [0.2, 0.3, 0.35, 0.5])
    for printed in ("pau:0.2 ax:0.3 pau:0.6", "", "pau:0.5", "pau:0.2 hh:0.3 ax:0.5"):
        with pytest.raises(UserError, match=r"^x: flite's phones end at"):
            phones_of(printed, 0.5, "x", "rms")
    with pytest.raises(UserError, match="printed no phone times but 'Segmentation fault"):
        phones_of("Segmentation fault", 0.5, "x", "rms")


def test_words_are_those_of_the_dictionary():
    assert spoken_words("Press 1, don't 'wait'.") == ["press", "one", "don't", "wait"]
    for text in ("dial 42", "room b2", "3.5 miles"):
        with pytest.raises(AlignmentError, match="holds a number"):
            spoken_words(text)


def write_wordnet(folder: Path, examples: list[str]) -> Path:
    quoted = "; ".join(f'"{example}"' for example in examples)
    folder.mkdir()
    (folder / "data.verb").write_text(f"0001 29 v 01 go 0 | to move; {quoted}\n")
    return folder


def test_sentences_are_plain_and_unlike_the_prompts(tmp_path):
    plain = [f"the {word} dog ran down the road" for word in ("old", "red", "big", "sad")]
    other = [
        "too few words",
        "the dog of Mr Smith ran down here",
        "he paid 20 dollars for the old dog",
        "we told him to please enter your password now",
    ]
    folder = write_wordnet(tmp_path / "wn", plain + other)
    unlike = ["Please enter your password, now."]
    found = example_sentences(folder, 3, 0, unlike)
    assert found == example_sentences(folder, 3, 0, unlike)
    assert len(set(found)) == 3
    assert set(found) <= set(plain)
    assert found != example_sentences(folder, 3, 1, unlike)
    assert set(example_sentences(folder, 5, 0)) == {*plain, other[-1]}
    with pytest.raises(UserError, match="holds 4 sentences"):
        example_sentences(folder, 5, 0, unlike)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voices": ("kim",)}, "voices kim"),
        ({"voices": ()}, "choose some of"),
        ({"voices": ("rms", "rms")}, "each once"),
        ({"sentences": 0}, "0 sentences"),
    ],
)
def test_settings_are_checked_first(settings, message):
    with pytest.raises(UserError, match=message):
        ABXSetsConfig(**settings)


def test_a_folder_that_is_taken_is_told_before_any_work(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty") as error:
        app(["make", "abx", "-o", str(tmp_path)], result_action="return_value")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def fetched(*sources):
    """What the sources give; skips where packages are out of reach, and only there."""
    try:
        return [source() for source in sources]
    except UserError as error:
        if not re.match(r"(Debian|PyPI) package ", str(error)):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def aligner():
    pytest.importorskip("pocketsphinx", reason="extra `make` aligns")
    return Aligner({"frobnicate": "F R AA B N IH K EY T"})


def test_alignment_finds_the_times_that_flite_spoke_at(aligner, tmp_path):
    (program,) = fetched(flite)
    text = "the old dog ran down the road to frobnicate"
    spoken = speak(program, "slt", text, "x", tmp_path / "x.wav")
    assert not (tmp_path / "x.wav").exists()
    assert spoken.phones.offsets[-1] == len(spoken.waveform) / 16_000
    level = {"SIL": [], "AA": []}
    for name, on, off in zip(
        spoken.phones.names, spoken.phones.onsets, spoken.phones.offsets, strict=True
    ):
        part = spoken.waveform[round(on * 16_000) : round(off * 16_000)]
        level.setdefault(name, []).append(float(np.abs(part).mean()))
    assert max(level["SIL"]) < 0.1 * min(level["AA"])
    # Without the pauses, which the aligner may see or not.
    found = aligner.align(spoken.waveform, text, "x", "slt")
    again = aligner.align(spoken.waveform, text, "x", "slt")
    np.testing.assert_array_equal(found.onsets, again.onsets)
    assert found.onsets[0] == 0
    assert found.offsets[-1] == len(spoken.waveform) / 16_000
    np.testing.assert_array_equal(found.onsets[1:], found.offsets[:-1])
    true = [(n, t) for n, t in zip(spoken.phones.names, spoken.phones.onsets, strict=True)]
    true = [(n, t) for n, t in true if n != "SIL"]
    ours = [(n, t) for n, t in zip(found.names, found.onsets, strict=True) if n != "SIL"]
    both = [(a[1], b[1]) for a, b in zip(true, ours, strict=False) if a[0] == b[0]]
    assert len(both) > 0.7 * len(true)
    assert np.median([abs(a - b) for a, b in both]) < 0.02


@pytest.mark.parametrize(
    ("waveform", "text", "message"),
    [
        (np.zeros(16_000, np.float32), "gszlm", "not in the dictionary: gszlm"),
        (np.zeros(16_000, np.float32), "", "no word"),
        (np.zeros(0, np.float32), "hello", "fit|length"),
        (np.zeros(1, np.float32), "hello there my old friend", "fit|length"),
        (np.full(160, np.nan, np.float32), "hello", "holds NaN"),
    ],
    ids=["unknown word", "no word", "no sample", "one sample", "NaN"],
)
def test_what_cannot_be_aligned_is_told(aligner, waveform, text, message):
    with pytest.raises(AlignmentError, match=message):
        aligner.align(waveform, text, "x", "s")


@pytest.fixture(scope="module")
def few_prompts(tmp_path_factory) -> Prompts:
    """Four of the English prompts, one of them a tone, and a file that is no audio."""
    english, _, _ = fetched(lambda: prompts("en"), wordnet, flite)
    audio = tmp_path_factory.mktemp("prompts") / "sounds"
    for name in CLIPS:
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(english.audio / f"{name}.g722", audio / f"{name}.g722")
    (audio / "empty.g722").touch()
    (audio.parent / "COPYRIGHT").write_text("whose")
    return Prompts(audio, english.transcripts, "en")


def test_sets_are_whole_labelled_and_the_same_again(few_prompts, tmp_path):
    pytest.importorskip("pocketsphinx", reason="extra `make` aligns")
    config = ABXSetsConfig(("rms", "awb"), 3)
    summaries = make_abx_sets(tmp_path / "a", config, few_prompts)
    make_abx_sets(tmp_path / "b", config, few_prompts)
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    files = {p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*.*")}
    assert files - {"manifest.json"} <= set(manifest["sha256"])
    for name, digest in manifest["sha256"].items():
        assert file_hash(tmp_path / "a" / name) == file_hash(tmp_path / "b" / name) == digest
    assert manifest["settings"] == {"voices": ["rms", "awb"], "sentences": 3, "seed": 0}
    assert summaries["recorded"].clips == 3
    assert summaries["synthetic"].clips == 6
    assert summaries["combined"].speakers == 3
    dropped = (tmp_path / "a" / "recorded" / "dropped.tsv").read_text().splitlines()
    assert dropped == ["id\treason", "allison/beep\tno word", "allison/empty\tnot readable"]
    for name, audio in (("recorded", "audio"), ("synthetic", "audio"), ("combined", "..")):
        check_set(tmp_path / "a" / name, audio, summaries[name].items)
    sentences = (tmp_path / "a" / "synthetic" / "transcripts.tsv").read_text().splitlines()[1:]
    assert len({line.split("\t")[1] for line in sentences}) == 6
    texts = read_transcripts(few_prompts.transcripts)
    lines = (tmp_path / "a" / "recorded" / "transcripts.tsv").read_text().splitlines()
    assert f"allison/vm-goodbye\t{clean_transcript(texts['vm-goodbye'])}" in lines


def check_set(folder: Path, audio: str, n_items: int) -> None:
    """Labels fill their audio, and items are three labels in a row."""
    labels = PhoneLabels.open(folder / "phones.tsv")
    for id_ in labels.ids:
        found = labels.clip(id_)
        assert found.onsets[0] == 0
        np.testing.assert_array_equal(found.onsets[1:], found.offsets[:-1])
        n_samples = len(read_audio(folder / audio / f"{id_}.wav"))
        assert found.offsets[-1] == pytest.approx(n_samples / 16_000, abs=1e-4)
    triphones = read_items(folder / "triphone.item")
    phonemes = read_items(folder / "phoneme.item")
    assert len(triphones) == len(phonemes) == n_items > 0
    assert triphones.files.tolist() == phonemes.files.tolist()
    for i in range(n_items):
        found = labels.clip(triphones.files[i])
        at = found.onsets.tolist().index(phonemes.onsets[i])
        names = [triphones.columns[c][i] for c in ("prev-phone", "phone", "next-phone")]
        assert found.names[at - 1 : at + 2] == names
        assert "SIL" not in names
        assert (found.offsets[at], found.speaker) == (
            phonemes.offsets[i],
            phonemes.columns["speaker"][i],
        )
        assert triphones.onsets[i] == found.onsets[at - 1]
        assert triphones.offsets[i] == found.offsets[at + 1]


def test_prompts_that_cannot_be_aligned_leave_nothing(few_prompts, tmp_path):
    pytest.importorskip("pocketsphinx", reason="extra `make` aligns")
    silent = Prompts(few_prompts.audio / "digits", few_prompts.transcripts, "en")
    with pytest.raises(UserError, match="none of the recordings could be aligned"):
        make_abx_sets(tmp_path / "out", ABXSetsConfig(("rms",), 1), silent)
    assert list(tmp_path.iterdir()) == []


def test_too_few_sentences_are_told_before_prompts_are_aligned(few_prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("gslm.eval.make_abx.Aligner", None)
    with pytest.raises(UserError, match="ask for fewer"):
        make_abx_sets(tmp_path / "out", ABXSetsConfig(sentences=10**6), few_prompts)
    assert list(tmp_path.iterdir()) == []
