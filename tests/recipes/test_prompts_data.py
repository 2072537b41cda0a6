import gzip

import numpy as np
import pytest
import soundfile

from gslm.audio import find_audio, write_wav
from gslm.errors import CannotWriteError, UserError
from gslm.recipes.prompts_data import (
    build,
    build_prompts,
    clean_transcript,
    committed_list,
    near_duplicates,
    select_held_out,
)
from gslm.recipes.prompts_data.build import read_transcripts
from gslm.recipes.prompts_data.split import text_hash
from gslm.sources import Prompts, prompts, unpacked_prompts


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Press 1 now.", "press one now", True),
        ("the conference will begin when the leader arrives", "The conference will begin", True),
        ("press one", "press one to hear the next message", False),
        ("please enter your number again", "the number you entered is wrong", False),
        ("to lower the volume of the other callers", "to lower the volume of other callers", True),
    ],
)
def test_near_duplicates(a, b, same):
    assert near_duplicates(a, b) is near_duplicates(b, a) is same


def test_the_choice_depends_on_texts_only():
    words = ["red", "green", "blue", "one", "two", "six", "dog", "cat", "sun", "sea", "old"]
    rng = np.random.default_rng(0)
    texts = {f"c{i}": " ".join(rng.choice(words, 7)) for i in range(60)} | {"short": "a b c"}
    texts["twin"] = texts["c0"] + "!"
    scored, held_out = select_held_out(texts, 10)
    again = select_held_out(dict(reversed(texts.items())), 10)
    assert (scored, held_out) == again
    assert len(scored) == 10
    assert set(scored) <= set(held_out)
    assert "short" not in scored
    assert ("twin" in held_out) == ("c0" in held_out)
    pairs = [(a, b) for a in scored for b in scored if a < b]
    assert not any(near_duplicates(texts[a], texts[b]) for a, b in pairs)
    train = texts.keys() - held_out
    assert not any(near_duplicates(texts[a], texts[b]) for a in scored for b in train)


def test_committed_lists_are_well_formed():
    scored, held_out = committed_list("test_60.txt"), committed_list("held_out.txt")
    assert len(scored) == 60
    assert len(held_out) == 82
    assert scored.items() <= held_out.items()
    assert all(len(digits) == 16 for digits in held_out.values())


def test_transcripts_lose_their_notes():
    assert clean_transcript("IAX (note: does not say 2)") == "IAX"
    assert clean_transcript("press # or *...") == "press pound or star"
    assert clean_transcript("<beep ascending>") == clean_transcript("[tone]") == ""


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Prompts as the packages hold them; WAV bytes stand in for G.722."""
    audio = tmp_path / "unpacked" / "en_US_f_Allison"
    lengths = {"hello": 16_000, "sub dir/hé": 20_000, "beep": 16_000, "a": 4_000}
    for name, n_samples in lengths.items():
        write_wav(audio / f"{name}.wav", np.full(n_samples, 0.1, np.float32))
        (audio / f"{name}.wav").rename(audio / f"{name}.g722")
    (audio / "empty.g722").write_bytes(b"")
    original = build.read_audio

    def read(path):
        copy = tmp_path / "copy.wav"
        copy.write_bytes(path.read_bytes())
        return original(copy)

    monkeypatch.setattr(build, "read_audio", read)
    text = "; Sounds\n\nhello: Hello: you.\nsub dir/hé: press #\nbeep: [tone]\na: a\n"
    path = tmp_path / "unpacked" / "core-sounds-en.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return Prompts(audio, path, "en")


def test_a_folder_of_clips_with_lists(fetched, tmp_path):
    out = tmp_path / "out"
    summary = build_prompts(fetched, out)
    assert find_audio(out) == ["hello.flac", "sub dir/hé.flac"]
    assert summary.n_clips == 2
    assert summary.n_seconds == pytest.approx(36_000 / 16_000)
    table = (out / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    assert table == ["id\ttext", "hello.flac\tHello: you.", "sub dir/hé.flac\tpress pound"]
    reasons = summary.dropped
    assert set(reasons) == {"beep", "a", "empty"}
    assert "tone" in reasons["beep"]
    assert "shorter" in reasons["a"]
    assert "not readable" in reasons["empty"]
    assert (out / "LICENSE.md").is_file()
    with pytest.raises(UserError, match="not empty"):
        build_prompts(fetched, out)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(fetched, tmp_path, monkeypatch):
    def full(path, *_arguments, **_settings):
        path.write_bytes(b"half")
        raise soundfile.LibsndfileError(2, f"Error opening {str(path)!r}: ")

    monkeypatch.setattr(build.soundfile, "write", full)
    with pytest.raises(CannotWriteError, match=r"cannot write audio .*free some space") as error:
        build_prompts(fetched, tmp_path / "out")
    assert str(error.value).startswith(f"{tmp_path / 'out'}: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_packages_unpacked_by_hand_are_found(fetched, tmp_path):
    found = unpacked_prompts(tmp_path / "unpacked", "en")
    assert found == fetched
    with pytest.raises(UserError, match="dpkg -x"):
        unpacked_prompts(tmp_path / "unpacked", "fr")
    with pytest.raises(UserError, match="language 'xx'"):
        unpacked_prompts(tmp_path, "xx")


def test_committed_lists_follow_from_the_packages():
    try:
        found = prompts("en")
    except UserError as error:
        pytest.skip(str(error))
    texts = {k: clean_transcript(v) for k, v in read_transcripts(found.transcripts).items()}
    texts = {k: v for k, v in texts.items() if v and (found.audio / f"{k}.g722").is_file()}
    scored, held_out = select_held_out(texts)
    assert {i: text_hash(texts[i])[:16] for i in scored} == committed_list("test_60.txt")
    assert {i: text_hash(texts[i])[:16] for i in held_out} == committed_list("held_out.txt")
