import pytest

from gslm.audio import read_audio
from gslm.errors import UserError
from gslm.eval.text import normalize
from gslm.recipes.newcomer_voices import build, build_voices, read_sentences


def test_twenty_plain_sentences_for_each_voice():
    sentences = read_sentences()
    assert {voice: len(texts) for voice, texts in sentences.items()} == {"slt": 20, "joe": 20}
    everything = [normalize(text) for texts in sentences.values() for text in texts]
    assert len(set(everything)) == 40
    assert all(6 <= len(text.split()) <= 14 for text in everything)


def test_both_voices_speak(tmp_path, monkeypatch):
    monkeypatch.setattr(
        build, "read_sentences", lambda: {"slt": ["Hello to you."], "joe": ["Hello to you."]}
    )
    try:
        ids = build_voices(tmp_path / "voices")
    except UserError as error:
        pytest.skip(str(error))
    assert ids == ["slt/01.wav", "joe/01.wav"]
    for id_ in ids:
        assert 8_000 < len(read_audio(tmp_path / "voices" / id_)) < 48_000
    lines = (tmp_path / "voices" / "transcripts.tsv").read_text().splitlines()
    assert lines[1] == "slt/01.wav\tHello to you."
