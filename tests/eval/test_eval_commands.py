import json
import subprocess
import sys

import numpy as np
import pytest

from gslm.audio import read_audio, write_wav
from gslm.errors import UserError
from gslm.eval import judge as judge_module
from gslm.eval.commands import app, mos_command, transcribe_command, wer_command
from gslm.eval.judge import Judge, load_judge, require_other_weights
from gslm.eval.wer import pocketsphinx_transcriber
from gslm.pretrained import whisper_base, whisper_tiny_en
from gslm.types import Fingerprint
from gslm.units.encoders import load_whisper


class Parrot:
    """A judge that reads loud clips as `one two` and hears nothing in quiet ones."""

    name, model_name, folder = "parrot", "base", None

    def transcribe(self, waveform):
        return "one two" if np.abs(waveform).max() > 0.5 else ""


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name, level in (("a", 0.9), ("sub/b", 0.1)):
        write_wav(tmp_path / "made" / f"{name}.wav", np.full(1600, level, np.float32))
        write_wav(tmp_path / "recorded" / f"{name}.wav", np.full(1600, 0.9, np.float32))
    (tmp_path / "t.tsv").write_text("a\tOne, 2!\nsub/b\tone two\n")
    monkeypatch.setattr(judge_module, "load_judge", lambda *_: Parrot())
    return tmp_path


def test_wer_prints_the_paired_difference_and_writes_a_table(folders, capsys):
    pytest.importorskip("jiwer")
    wer_command(
        folders / "made",
        folders / "t.tsv",
        reference=folders / "recorded",
        table=folders / "out.json",
    )
    printed = capsys.readouterr().out
    assert "Whisper base: word error 50.0 %" in printed
    assert "difference +50.0 points" in printed
    whole = json.loads((folders / "out.json").read_text())
    assert whole["summary"]["Whisper base"]["word_difference"]["estimate"] == 0.5
    assert [c["word_errors"] for c in whole["clips"]] == [0, 2]


def test_a_reference_without_the_same_clips_is_told_before_the_judge_is_loaded(folders):
    (folders / "recorded" / "a.wav").unlink()
    with pytest.raises(UserError, match="recorded has no audio for a"):
        wer_command(folders / "made", folders / "t.tsv", reference=folders / "recorded")


def test_transcribe_writes_a_transcripts_file(folders):
    transcribe_command(folders / "made", table=folders / "heard.tsv")
    assert (folders / "heard.tsv").read_text() == "id\ttext\na\tone two\nsub/b\t\n"


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no audio files"):
        mos_command(tmp_path)


def test_help_is_quick_because_torch_stays_out(capsys):
    app(["--help"], exit_on_error=False, result_action="return_value")
    assert "wer" in capsys.readouterr().out
    code = "import sys, gslm.eval.commands, gslm.recipes.commands; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def fetched(source):
    try:
        return source()
    except UserError as error:
        pytest.skip(str(error))


def test_a_renamed_copy_of_the_units_encoder_is_refused_by_its_weights():
    tiny, base = fetched(whisper_tiny_en), fetched(whisper_base)
    encoder = load_whisper(tiny, 3)
    fingerprint = Fingerprint("whisper", encoder.weights_hash, 3, 50.0, "none", "0" * 16, 200)
    with pytest.raises(UserError, match="units come from"):
        require_other_weights(Judge("my-copy", "", "en", tiny, None), fingerprint)
    require_other_weights(Judge("base", "base", "en", base, None), fingerprint)


def test_a_judge_by_its_hub_name_is_known_by_its_weights(monkeypatch):
    faster_whisper = pytest.importorskip("faster_whisper")
    tiny = fetched(whisper_tiny_en)
    asked = []
    monkeypatch.setattr(
        faster_whisper, "download_model", lambda name: asked.append(name) or str(tiny)
    )
    judge = load_judge("tiny.en")
    assert asked == ["tiny.en"]
    assert (judge.name, judge.model_name, judge.folder) == ("tiny.en", "tiny.en", tiny)
    encoder = load_whisper(tiny, 3)
    fingerprint = Fingerprint("whisper", encoder.weights_hash, 3, 50.0, "none", "0" * 16, 200)
    with pytest.raises(UserError, match="units come from"):
        require_other_weights(judge, fingerprint)


def test_whisper_base_hears_a_sentence(tmp_path):
    pytest.importorskip("faster_whisper")
    from gslm.eval.text import normalize
    from gslm.sources import prompts

    audio = fetched(lambda: prompts("en")).audio
    fetched(whisper_base)
    judge = load_judge(threads=2)
    assert judge.model_name == "base"
    heard = normalize(judge.transcribe(read_audio(audio / "vm-goodbye.g722")))
    assert heard == "goodbye"
    assert judge.transcribe(np.zeros(0, np.float32)) == ""


def test_pocketsphinx_hears_something_or_nothing():
    pytest.importorskip("pocketsphinx")
    transcribe = pocketsphinx_transcriber()
    assert isinstance(transcribe(np.zeros(16_000, np.float32)), str)
    assert isinstance(transcribe(np.zeros(1, np.float32)), str)
