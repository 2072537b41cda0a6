"""Label files: read back as written, phones by frame centre, damage told in one line."""

from __future__ import annotations

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.units.phone_labels import ClipPhones, PhoneLabels, frame_phones, write_phone_labels

HEADER = "id\tonset\toffset\tphone\tspeaker\n"


def random_clips(seed: int, n: int = 6) -> list[ClipPhones]:
    """Clips with gaps between some of their phones, times in steps of 0.1 ms."""
    rng = np.random.default_rng(seed)
    clips = []
    for i in range(n):
        bounds = np.sort(rng.choice(20_000, 2 * rng.integers(1, 9), replace=False)) / 10_000
        names = rng.choice(["AA", "K", "SIL", "é"], len(bounds) // 2).tolist()
        clips.append(ClipPhones(f"sp é/{i}", names, bounds[::2], bounds[1::2], f"s{i % 2}"))
    return clips


@pytest.mark.parametrize("seed", range(3))
def test_labels_come_back_as_they_were_written(tmp_path, seed):
    clips = random_clips(seed)
    write_phone_labels(tmp_path / "phones.tsv", clips)
    labels = PhoneLabels.open(tmp_path / "phones.tsv")
    assert labels.ids == [clip.id for clip in clips]
    assert labels.speakers == ["s0", "s1"]
    assert labels.phones == sorted({name for clip in clips for name in clip.names})
    for clip in clips[::-1]:
        assert f"{clip.id}.flac" in labels
        found = labels.clip(f"{clip.id}.wav")
        assert (found.id, found.names, found.speaker) == (clip.id, clip.names, clip.speaker)
        np.testing.assert_array_equal(found.onsets, clip.onsets)
        np.testing.assert_array_equal(found.offsets, clip.offsets)


@pytest.mark.parametrize("frame_rate", [12.5, 50.0, 100.0])
def test_frames_get_the_phone_at_their_centre(frame_rate):
    phones = ["AA", "K", "SIL", "é"]
    for clip in random_clips(7):
        n_frames = int(2.3 * frame_rate)
        expected = []
        for frame in range(n_frames):
            centre = (frame + 0.5) / frame_rate
            inside = [
                phones.index(name)
                for name, on, off in zip(clip.names, clip.onsets, clip.offsets, strict=True)
                if on <= centre < off
            ]
            expected.append(inside[0] if inside else -1)
        assert frame_phones(clip, n_frames, frame_rate, phones).tolist() == expected
    assert len(frame_phones(clip, 0, frame_rate, phones)) == 0


def test_other_spellings_of_a_file_are_read(tmp_path):
    text = "\ufeff" + HEADER + "a.wav\t0\t0.5\tAA\t\n\nb\t0.1\t1\tK\n"
    (tmp_path / "p.tsv").write_bytes(text.replace("\n", "\r\n").encode())
    labels = PhoneLabels.open(tmp_path / "p.tsv")
    assert labels.ids == ["a", "b"]
    assert labels.clip("b").names == ["K"]
    assert labels.speakers == [""]
    labels.require_inside(labels.clip("a"), 0.49)
    with pytest.raises(UserError, match=r"end at 0\.500 s, but its audio lasts 0\.400 s"):
        labels.require_inside(labels.clip("a"), 0.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no phones"),
        (HEADER, "holds no phones"),
        ("id phone\na AA\n", ":1: expected the header"),
        (HEADER + "a\t0\t1\n", ":2: expected id, onset"),
        (HEADER + "a\t0\t1\tAA\ts\tmore\n", ":2: expected id, onset"),
        (HEADER + "a\tzero\t1\tAA\ts\n", ":2: onset and offset must be numbers"),
        (HEADER + "a\t1\t1\tAA\ts\n", ":2: a phone from 1 to 1 s"),
        (HEADER + "a\tnan\t1\tAA\ts\n", ":2: a phone from nan"),
        (HEADER + "a\t0\tinf\tAA\ts\n", ":2: a phone from 0 to inf"),
        (HEADER + "a\t-1\t1\tAA\ts\n", ":2: a phone from -1"),
        (HEADER + "a\t0\t1\tAA\ts\na\t0.9\t2\tK\ts\n", ":3: begins at 0.9 s"),
        (HEADER + "a\t0\t1\tAA\ts\na\t1\t2\tK\tt\n", ":3: a has two speakers"),
        (HEADER + "a\t0\t1\tK\ts\nb\t0\t1\tK\ts\na\t1\t2\tK\ts\n", ":4: rows of a do not stand"),
        (HEADER + "a.wav\t0\t1\tK\ts\na.flac\t1\t2\tK\ts\n", ":3: a.wav and a.flac are both a"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, message):
    (tmp_path / "p.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        PhoneLabels.open(tmp_path / "p.tsv")
    assert str(error.value).startswith(f"{tmp_path / 'p.tsv'}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_text_or_not_there_is_one_line(tmp_path):
    (tmp_path / "p.tsv").write_bytes(HEADER.encode() + b"\xff\xfe\t0\t1\tAA\t\n")
    with pytest.raises(UserError, match=":2: not UTF-8"):
        PhoneLabels.open(tmp_path / "p.tsv")
    with pytest.raises(UserError, match="no such file"):
        PhoneLabels.open(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="not readable"):
        PhoneLabels.open(tmp_path)
