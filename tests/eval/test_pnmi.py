"""PNMI and purity against scikit-learn and counting by hand, from audio and from a corpus."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from gslm import audio
from gslm.corpus import Corpus, CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.eval.commands import app
from gslm.eval.pnmi import PnmiReport, score_audio, score_corpus
from gslm.types import Fingerprint, Units
from gslm.units import load
from gslm.units.phone_agreement import (
    PhoneCounts,
    UnitClip,
    encoded_clips,
    measure_agreement,
)
from gslm.units.phone_labels import ClipPhones, PhoneLabels, write_phone_labels

K = 8
PHONES = ["AA", "K", "S", "SIL"]


def labelled(id_: str, seconds: float, seed: int, speaker: str = "") -> ClipPhones:
    """Phones of a tenth of a second each that fill a clip, but for a hole after the third."""
    rng = np.random.default_rng(seed)
    bounds = np.round(np.append(np.arange(0, seconds - 0.01, 0.1), seconds), 4)
    kept = np.arange(len(bounds) - 1) != 3
    names = rng.choice(PHONES, len(bounds) - 1)[kept].tolist()
    return ClipPhones(id_, names, bounds[:-1][kept], bounds[1:][kept], speaker)


def made(frame_rate: float = 50.0) -> Fingerprint:
    return Fingerprint("mfcc", "", 0, frame_rate, "none", "0" * 16, K)


def pairs_by_hand(clips: list[UnitClip], phones: list[ClipPhones]) -> list[tuple[int, str]]:
    """(unit, phone) of every frame that has a phone."""
    found = []
    for clip, labels in zip(clips, phones, strict=True):
        for frame, unit in enumerate(clip.units.expanded().ids.tolist()):
            centre = (frame + 0.5) / clip.units.fingerprint.frame_rate
            for name, on, off in zip(labels.names, labels.onsets, labels.offsets, strict=True):
                if on <= centre < off:
                    found.append((unit, name))
    return found


@pytest.mark.parametrize("frame_rate", [12.5, 50.0, 100.0])
@pytest.mark.parametrize("silence", [True, False])
def test_figures_are_those_of_scikit_learn_and_of_counting(tmp_path, frame_rate, silence):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    rng = np.random.default_rng(0)
    clips, phones = [], []
    for i in range(5):
        n = int(rng.integers(40, 300))
        ids = np.repeat(rng.integers(0, K, n), rng.integers(1, 4, n)).astype(np.int32)
        units = Units(ids, None, made(frame_rate))
        seconds = len(ids) / frame_rate
        phones.append(labelled(f"x/{i}", seconds, i, f"s{i % 2}"))
        # Units with durations and without must count alike.
        clips.append(UnitClip(f"x/{i}.wav", units.deduplicated() if i % 2 else units, seconds))
    write_phone_labels(tmp_path / "p.tsv", phones)
    found = measure_agreement(clips, PhoneLabels.open(tmp_path / "p.tsv"), silence=silence)
    pairs = [p for p in pairs_by_hand(clips, phones) if silence or p[1] != "SIL"]
    counts = found.all
    units, names = zip(*pairs, strict=True)
    nats = metrics.mutual_info_score(units, names)
    shares = np.array(list(Counter(names).values())) / len(names)
    entropy = -(shares * np.log(shares)).sum()
    assert counts.mutual_information == pytest.approx(nats / np.log(2), abs=1e-12)
    assert counts.pnmi == pytest.approx(nats / entropy, abs=1e-12)
    joint = Counter(pairs)
    best_phone = sum(max(n for (u, _), n in joint.items() if u == unit) for unit in set(units))
    best_unit = sum(max(n for (_, p), n in joint.items() if p == name) for name in set(names))
    assert counts.phone_purity == pytest.approx(best_phone / len(pairs))
    assert counts.cluster_purity == pytest.approx(best_unit / len(pairs))
    assert (counts.n_frames, counts.n_phones) == (len(pairs), len(set(names)))
    assert counts.n_frames + counts.n_unlabelled == sum(c.units.n_frames for c in clips)
    by_speaker = found.by_speaker()
    assert list(by_speaker) == ["s0", "s1"]
    np.testing.assert_array_equal(sum(c.counts for c in by_speaker.values()), counts.counts)


def test_pnmi_is_1_for_units_that_are_phones_and_0_for_units_that_are_not():
    same = PhoneCounts(("a", "b", "c"), np.diag([5, 1, 7]))
    assert same.pnmi == pytest.approx(1)
    assert same.phone_purity == same.cluster_purity == 1
    unrelated = PhoneCounts(("a", "b"), np.outer([1, 2, 3], [5, 4]))
    assert unrelated.pnmi == pytest.approx(0, abs=1e-12)
    assert np.isnan(PhoneCounts(("a", "b"), np.array([[3, 0], [4, 0]])).pnmi)


@pytest.fixture(scope="module")
def speech(tmp_path_factory, tiny_bundle):
    """Two sets of two speakers in formats of all kinds, one long clip, a bad one; their labels."""
    from tests.conftest import sweep

    root = tmp_path_factory.mktemp("speech")
    lengths = {"one/ann/a": 0.8, "one/bob/b": 1.1, "two/ann/c": 0.55, "two/bob/long": 61.0}
    for i, (id_, seconds) in enumerate(lengths.items()):
        (root / id_).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{id_}.wav", sweep(seconds, i), 16_000)
    narrow = np.stack([sweep(0.8, 9)[::2]] * 2, 1)
    soundfile.write(root / "two" / "ann" / "d.wav", narrow, 8_000)
    (root / "two" / "ann" / "bad.wav").write_text("not audio")
    soundfile.write(root / "unlabelled.wav", sweep(0.3, 3), 16_000)
    lengths |= {"two/ann/d": 0.8, "two/ann/bad": 0.5, "gone": 0.5}
    clips = [labelled(i, s, k, i.split("/")[-2:][0]) for k, (i, s) in enumerate(lengths.items())]
    write_phone_labels(root / "phones.tsv", clips)
    return root


def corpus_of(root, encoder, folder) -> Corpus:
    rows = []
    for id_ in ("one/ann/a", "one/bob/b", "two/ann/c", "two/ann/d", "two/bob/long", "unlabelled"):
        units = encoder.encode_file(root / f"{id_}.wav").deduplicated()
        seconds = soundfile.info(root / f"{id_}.wav").duration
        rows.append(
            CorpusRow(f"{id_}.wav", units.ids, units.durations, round(seconds * 16_000), "")
        )
    writer = CorpusWriter(folder, encoder.fingerprint, {})
    writer.write_shard(0, rows)
    return writer.finish(1)


def test_audio_and_its_corpus_score_alike(speech, tiny_bundle, tmp_path):
    labels = PhoneLabels.open(speech / "phones.tsv")
    encoder = load(tiny_bundle)
    from_audio = score_audio(speech, labels, encoder)
    from_corpus = score_corpus(corpus_of(speech, encoder, tmp_path / "c"), labels)
    assert from_audio.rows == from_corpus.rows
    assert [row.clips for row in from_audio.rows] == [
        "all",
        "set one",
        "set two",
        "speaker ann",
        "speaker bob",
    ]
    assert [id_ for id_, _ in from_audio.skipped] == ["two/ann/bad.wav"]
    assert from_corpus.agreement.n_without_units == 2
    assert from_corpus.agreement.n_without_labels == 1
    sizes = [row.frames for row in from_audio.rows]
    assert sizes[0] == sizes[1] + sizes[2] == sizes[3] + sizes[4]


def test_a_long_recording_is_not_read_once_more_for_its_length(speech, tiny_bundle, monkeypatch):
    opened = []
    decoded = audio._decoded
    monkeypatch.setattr(audio, "_decoded", lambda *a: opened.append(a) or decoded(*a))
    [clip] = encoded_clips(speech, ["two/bob/long.wav"], load(tiny_bundle), [])
    assert clip.seconds == 61.0
    assert len(opened) == 2  # to see how long it is, and to encode it


def test_memory_does_not_grow_with_speakers_times_units(tmp_path):
    n_speakers, k = 60, 20_000
    write_phone_labels(
        tmp_path / "p.tsv", [labelled(f"{i}/x", 1.0, i, f"s{i}") for i in range(n_speakers)]
    )
    labels = PhoneLabels.open(tmp_path / "p.tsv")
    wide = replace(made(), vocabulary_size=k)
    ids = np.random.default_rng(0).integers(0, k, (n_speakers, 50)).astype(np.int32)
    clips = [UnitClip(f"{i}/x.wav", Units(ids[i], None, wide), 1.0) for i in range(n_speakers)]
    tracemalloc.start()
    found = measure_agreement(clips, labels)
    rows = PnmiReport(found, []).rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 1 + n_speakers
    assert sum(row.frames for row in rows[1:]) == rows[0].frames
    table = k * len(labels.phones) * 8
    assert peak < 12 * table


def test_the_command_prints_and_writes_a_table(speech, tiny_bundle, tmp_path, capsys):
    words = ["pnmi", f"{speech}/phones.tsv", str(speech), "--units", str(tiny_bundle)]
    app([*words, "--no-silence", "-o", str(tmp_path / "t.tsv")], result_action="return_value")
    printed = capsys.readouterr().out
    assert "speaker bob" in printed
    assert "left out: 2 labelled clips without units" in printed
    assert "skipped two/ann/bad.wav" in printed
    table = (tmp_path / "t.tsv").read_text().splitlines()
    assert table[0].split("\t")[:5] == ["clips", "frames", "phones", "units", "pnmi"]
    assert len(table) == 6


def test_folders_of_a_speaker_each_are_told_once(tmp_path):
    phones = [labelled(f"s{i}/x", 1.0, i, f"s{i}") for i in range(3)]
    write_phone_labels(tmp_path / "p.tsv", phones)
    ids = np.random.default_rng(0).integers(0, K, 50).astype(np.int32)
    rows = [CorpusRow(f"s{i}/x.wav", ids, None, 16_000, "") for i in range(3)]
    writer = CorpusWriter(tmp_path / "c", made(), {})
    writer.write_shard(0, rows)
    report = score_corpus(writer.finish(1), PhoneLabels.open(tmp_path / "p.tsv"))
    assert [row.clips for row in report.rows] == ["all", "speaker s0", "speaker s1", "speaker s2"]


def test_mistakes_are_one_line(speech, tiny_bundle, tmp_path):
    labels = PhoneLabels.open(speech / "phones.tsv")
    corpus = corpus_of(speech, load(tiny_bundle), tmp_path / "c")

    def fails(message: str, call) -> None:
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "\n" not in str(error.value)

    def pnmi(*words: str):
        return lambda: app(["pnmi", *words], result_action="return_value")

    fails("give --units", pnmi(f"{speech}/phones.tsv", str(speech)))
    fails("no such file", pnmi("none.tsv", str(speech)))
    other = tmp_path / "other.tsv"
    write_phone_labels(other, [labelled("elsewhere/a", 0.8, 0)])
    fails("elsewhere/a in the labels", pnmi(str(other), str(corpus.folder)))
    fails("none of its clips is in", pnmi(str(other), str(speech), "--units", str(tiny_bundle)))
    write_phone_labels(other, [labelled("one/ann/a", 0.9, 0)])
    fails("its audio lasts 0.800 s", pnmi(str(other), str(corpus.folder)))
    one = ClipPhones("one/ann/a", ["AA"], np.array([0.0]), np.array([0.8]))
    write_phone_labels(other, [one])
    fails("show 1 phones", pnmi(str(other), str(corpus.folder)))
    ids = np.zeros(40, np.int32)
    twice = [UnitClip(f"one/ann/a.{end}", Units(ids, None, made()), 0.8) for end in ("wav", "mp3")]
    fails("keep one of them", lambda: measure_agreement(twice, labels))
    bad = PhoneLabels.open(speech / "phones.tsv")
    (tmp_path / "bad" / "two" / "ann").mkdir(parents=True)
    (tmp_path / "bad" / "two" / "ann" / "bad.wav").write_text("not audio")
    fails("no readable recording", lambda: score_audio(tmp_path / "bad", bad, load(tiny_bundle)))
