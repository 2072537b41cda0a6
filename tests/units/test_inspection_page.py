"""The page of `gslm units inspect`: whole by itself, true to the counts; inertia by brute force."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch

from gslm.audio import read_audio
from gslm.corpus import Corpus, CorpusRow, CorpusWriter
from gslm.errors import UserError
from gslm.types import Fingerprint, Units
from gslm.units import commands
from gslm.units.encoders import MFCCEncoder
from gslm.units.inertia import measure_inertia
from gslm.units.inspection import (
    Inspection,
    corpus_usage,
    draw,
    figures,
    report,
    unit_usage,
)
from gslm.units.inspection_page import page
from gslm.units.normalization import feature_statistics
from gslm.units.phone_agreement import corpus_clips, measure_agreement
from gslm.units.phone_labels import ClipPhones, PhoneLabels, write_phone_labels
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder
from tests.conftest import sweep

VOID = {"meta", "br", "image", "rect", "line", "polyline"}


class Tags(HTMLParser):
    """Checks that tags close in order, and keeps what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text: str) -> Tags:
    """The page's tags; fails where it needs another file or an SVG is not XML."""
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(reference.startswith("data:image/png;base64,") for reference in tags.references)
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    assert "prefers-color-scheme: dark" in text
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        root = ElementTree.fromstring(svg)
        numbers = re.findall(r'(?:x|y|width|height|points)\d?="([^"]*)"', svg)
        assert not any("nan" in number or "inf" in number for number in numbers)
        for rect in root.iter("rect"):
            assert float(rect.get("width", 0)) >= 0
            assert float(rect.get("height", 0)) >= 0
    return tags


def usage_of(ids, k: int, frame_rate: float = 50.0, coarsening: str = ""):
    made = Fingerprint("mfcc", "", 0, frame_rate, "none", "0" * 16, k, coarsening)
    return unit_usage([Units(np.asarray(ids, np.int32), None, made)])


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Audio, an encoder that normalises each recording, a corpus of both, and phone labels."""
    root = tmp_path_factory.mktemp("inspect")
    torch.manual_seed(0)
    encoder = UnitEncoder(MFCCEncoder(), torch.randn(12, 39), "utterance")
    rows, phones = [], []
    rng = np.random.default_rng(0)
    for i, seconds in enumerate((0.5, 1.3, 61.0)):
        id_ = f"{'ab'[i % 2]}/{i}"
        (root / "audio" / id_).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "audio" / f"{id_}.wav", sweep(seconds, i), 16_000)
        units = encoder.encode_file(root / "audio" / f"{id_}.wav").deduplicated()
        rows.append(
            CorpusRow(f"{id_}.wav", units.ids, units.durations, round(seconds * 16_000), "")
        )
        bounds = np.round(np.append(np.arange(0, seconds - 0.01, 0.07), seconds), 4)
        names = rng.choice(["AA", "K", "<b>&", "SIL"], len(bounds) - 1).tolist()
        phones.append(ClipPhones(id_, names, bounds[:-1], bounds[1:], "ab"[i % 2]))
    writer = CorpusWriter(root / "corpus", encoder.fingerprint, {})
    writer.write_shard(0, rows)
    writer.finish(1)
    write_phone_labels(root / "phones.tsv", phones)
    encoder.save(root / "units")
    return root, encoder


def test_the_page_stands_by_itself_and_is_true_to_the_counts(spoken):
    from matplotlib.image import imread

    root, encoder = spoken
    corpus = Corpus.open(root / "corpus")
    labels = PhoneLabels.open(root / "phones.tsv")
    found = Inspection(
        unit_usage(corpus.units(row) for row in corpus.rows()),
        measure_agreement(corpus_clips(corpus), labels),
        measure_inertia(corpus, root / "audio", encoder, progress=False),
    )
    text = page(found, "<corpus> & co")
    tags = checked(text)
    assert "<title>Units of &lt;corpus&gt; &amp; co</title>" in text
    assert "<b>&" not in text
    counts = found.agreement.all
    for figure in (f"{counts.pnmi:.3f}", f"{found.inertia.per_frame:.4g}", "Speakers", "Zipf"):
        assert figure in text
    # The picture's columns are the units, each with the shares of its phones.
    picture = imread(io.BytesIO(base64.b64decode(tags.references[0].partition(",")[2])))
    used = counts.counts[counts.counts.any(1)]
    shares = used / used.sum(1, keepdims=True)
    shown = picture[..., 3].astype(float) ** 2
    assert shown.shape == shares.T.shape
    order = [counts.phones.index(name) for name in ("AA", "K", "<b>&", "SIL")]
    expected = sorted(shares[:, order].tolist(), key=lambda row: (np.argmax(row), -max(row)))
    np.testing.assert_allclose(shown.T, expected, atol=0.01)
    assert f"PNMI       {counts.pnmi:.3f}" in report(found)


@pytest.mark.parametrize(
    ("ids", "k", "frame_rate"),
    [
        ([0], 1, 50.0),
        ([3] * 500, 10, 50.0),
        ([0, 1], 2, 12.5),
        (np.arange(3000) % 2000, 2000, 100.0),
        (np.repeat([0, 1, 2], [200, 1, 60]), 3, 50.0),
    ],
    ids=["one frame", "one run", "two frames", "many units", "long runs"],
)
def test_odd_corpora_have_a_page_too(ids, k, frame_rate):
    text = page(Inspection(usage_of(ids, k, frame_rate)), "odd")
    checked(text)
    assert len(text) < 200_000
    assert "Units by phone" not in text


def test_unknown_durations_give_no_figure_a_second(tmp_path):
    ids = np.array([3, 1, 3, 0], np.int32)
    made = Fingerprint("mfcc", "", 0, 50.0, "none", "0" * 16, 4)
    writer = CorpusWriter(tmp_path / "c", made, {"durations": "unknown"})
    writer.write_shard(0, [CorpusRow("a.wav", ids, None, 1280, "")])
    found = Inspection(corpus_usage(writer.finish(1)))
    assert dict(figures(found))["entropy"] == "1.50 bits a run (at most 2.00)"
    text = page(found, "runs")
    checked(text)
    for told in (text, report(found)):
        assert "4 runs of unknown durations" in told
        assert not re.search("bits a second|runs a second|minutes|frames a run|frames<", told)
    draw(found.usage, tmp_path / "use.png")
    assert (tmp_path / "use.png").stat().st_size > 1000


def nearest(frames: np.ndarray, encoder: UnitEncoder) -> np.ndarray:
    differences = frames[:, None] - encoder.centroids.numpy().astype(np.float64)
    return (differences**2).sum(-1).min(1)


def test_inertia_equals_brute_force(spoken):
    root, encoder = spoken
    frames = []
    for path in sorted((root / "audio").rglob("*.wav")):
        raw = encoder.encoder([torch.from_numpy(read_audio(path))])[0]
        frames.append(feature_statistics([raw]).normalize(raw).numpy().astype(np.float64))
    joined = np.concatenate(frames)
    found = measure_inertia(Corpus.open(root / "corpus"), root / "audio", encoder, progress=False)
    assert found.n_frames == len(joined)
    assert found.n_missing == 0
    # The long file is encoded in chunks, whose edges change its frames a little.
    assert found.per_frame == pytest.approx(nearest(joined, encoder).mean(), rel=2e-3)
    assert found.variance == pytest.approx(joined.var(0).sum(), rel=2e-3)
    assert found.explained == pytest.approx(1 - found.per_frame / found.variance)


def test_missing_audio_is_counted_and_other_audio_refused(spoken, tmp_path):
    root, encoder = spoken
    corpus = Corpus.open(root / "corpus")
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"none of the corpus' recordings; a/0\.wav"):
        measure_inertia(corpus, tmp_path, encoder, progress=False)
    soundfile.write(tmp_path / "a" / "0.wav", sweep(0.5, 0), 16_000)
    found = measure_inertia(corpus, tmp_path, encoder, progress=False)
    assert (found.n_missing, found.n_frames) == (2, 25)
    soundfile.write(tmp_path / "a" / "0.wav", sweep(0.6, 0), 16_000)
    with pytest.raises(UserError, match=r"a/0\.wav: 30 frames of audio, but 25 in the corpus"):
        measure_inertia(corpus, tmp_path, encoder, progress=False)
    other = UnitEncoder(MFCCEncoder(), torch.randn(12, 39))
    with pytest.raises(UserError, match="units do not match"):
        measure_inertia(corpus, root / "audio", other, progress=False)


def test_syllables_have_no_inertia(tmp_path):
    encoder = UnitEncoder(
        MFCCEncoder(), torch.nn.functional.normalize(torch.randn(3, 39)), coarsening=Syllables()
    )
    row = CorpusRow("a.wav", np.array([1], np.int32), np.array([5], np.int32), 1600, "")
    writer = CorpusWriter(tmp_path / "c", encoder.fingerprint, {})
    writer.write_shard(0, [row])
    with pytest.raises(UserError, match="its units are syllables"):
        measure_inertia(writer.finish(1), tmp_path, encoder, progress=False)


def test_the_command_writes_page_and_picture(spoken, tmp_path, capsys):
    root, _ = spoken
    given = f"--phones {root}/phones.tsv --audio {root}/audio --units {root}/units"
    written = f"--html {tmp_path}/page.html --png {tmp_path}/use.png"
    words = f"inspect {root}/corpus {given} {written}".split()
    commands.app(words, result_action="return_value")
    printed = capsys.readouterr().out
    for name in ("inertia", "PNMI", "purity", "bitrate", "run length"):
        assert name in printed
    checked(Path(tmp_path / "page.html").read_text(encoding="utf-8"))
    assert (tmp_path / "use.png").stat().st_size > 1000
    with pytest.raises(UserError, match="needs both --audio and --units"):
        commands.app([*words[:2], "--audio", "x"], result_action="return_value")
    with pytest.raises(UserError, match="0 or more"):
        commands.app([*words[:2], "--top", "-3"], result_action="return_value")
