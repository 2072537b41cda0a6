"""The command line: help for every command, without torch, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cyclopts import App

from gslm import cli
from gslm.bundle import write_json
from gslm.errors import UserError

HEAVY = ("torch", "transformers", "pyarrow", "matplotlib", "accelerate", "scipy", "av")


def commands(app: App, names: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that does something, as words."""
    found = []
    for name in app:
        if name.startswith("-"):
            continue
        inner = commands(app[name], (*names, name))
        found += inner or [(*names, name)]
    return found


COMMANDS = commands(cli.app)


def run(words: list[str], capsys, monkeypatch) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `gslm WORDS`."""
    monkeypatch.setattr(sys, "argv", ["gslm", *words])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def fails_in_one_line(words: list[str], capsys, monkeypatch, *parts: str) -> None:
    code, _, err = run(words, capsys, monkeypatch)
    lines = [line for line in err.splitlines() if line.startswith("gslm: ")]
    assert code == 2
    assert "Traceback" not in err
    assert len(lines) == 1, err
    assert err.rstrip().endswith(lines[0])
    for part in parts:
        assert part in lines[0]


def test_the_commands_are_those_of_the_design():
    assert {" ".join(words) for words in COMMANDS} >= {
        "demo",
        "continue",
        "resynthesize",
        "train",
        "units fit",
        "units encode",
        "units bpe",
        "units inspect",
        "units encoders",
        "units smooth",
        "units soft",
        "units soft-encode",
        "units import",
        "units export",
        "units assemble",
        "ulm train",
        "ulm score",
        "ulm sample",
        "vocoder train",
        "vocoder synthesize",
        "eval wer",
        "eval mos",
        "eval abx",
        "eval pnmi",
        "eval make abx",
        "recipe list",
        "recipe run prompts-data",
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words, capsys, monkeypatch):
    code, out, _ = run([*words, "--help"], capsys, monkeypatch)
    assert code == 0
    assert "Example" in out


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nsys.argv = ['gslm', 'units', 'fit', '--help']\n"
        "from gslm.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_settings_modules_import_no_torch():
    script = (
        "import sys, gslm.vocoder.settings, gslm.training_config, gslm.settings\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_user_error_is_one_line_and_exit_code_2(capsys, monkeypatch):
    def fail(*_words: object, **_settings: object) -> None:
        raise UserError("clip.wav: no such file")

    monkeypatch.setattr(cli, "app", fail)
    assert run([], capsys, monkeypatch) == (2, "", "gslm: clip.wav: no such file\n")


def test_a_full_disk_anywhere_is_one_line(capsys, monkeypatch):
    def full(*_words: object, **_settings: object) -> None:
        raise OSError(28, "No space left on device", "clips/audio.i16")

    monkeypatch.setattr(cli, "app", full)
    fails_in_one_line([], capsys, monkeypatch, "No space left", "clips/audio.i16")


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def stop(*_words: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    assert run([], capsys, monkeypatch) == (130, "", "gslm: stopped\n")


@pytest.mark.parametrize("command", ["continue", "resynthesize"])
def test_wrong_bundles_and_inputs(command, tmp_path, tiny_bundle, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    clip, bundle = tmp_path / "clip.wav", str(tiny_bundle)
    soundfile.write(clip, np.zeros(1600), 16_000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("not audio")
    out = ["-o", str(tmp_path / "out")]
    for speech, name, word in [
        (clip, "no-such-bundle", "no-such-bundle"),
        (clip, str(tmp_path / "empty"), "not a bundle"),
        (tmp_path / "empty", bundle, "no audio files"),
        (tmp_path / "text.wav", bundle, "not readable as audio"),
        (tmp_path / "missing.wav", bundle, "missing.wav"),
    ]:
        words = [command, str(speech), *out, "-b", name]
        fails_in_one_line(words, capsys, monkeypatch, word)
    assert not (tmp_path / "out").exists()


def test_wrong_options(tmp_path, tiny_bundle, capsys, monkeypatch):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, np.full(1600, 0.1), 16_000)
    speech = [str(clip), "-b", str(tiny_bundle), "-o", str(tmp_path / "out")]
    for words, word in [
        (["resynthesize", *speech, "--durations", "long"], "durations"),
        (["continue", *speech, "-n", "0"], "at least one"),
        (["continue", *speech, "-n", "many"], "many"),
        (["continue", *speech, "--colour", "red"], "--colour"),
        (["continue"], "SPEECH"),
        (["compose"], "compose"),
        (["continue", *speech, "--temperature", "-1"], "temperature"),
        (["continue", *speech, "--top-p", "0"], "top_p"),
        (["continue", *speech, "--max-seconds", "nan"], "max_seconds"),
        (["continue", *speech, "--prompt-seconds", "inf"], "prompt_seconds"),
        (["continue", *speech, "--min-seconds", "-1"], "min_seconds"),
    ]:
        fails_in_one_line(words, capsys, monkeypatch, word)


def test_wrong_training_input(tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "clip.wav", np.full(1600, 0.1), 16_000)
    audio, out = str(tmp_path / "audio"), ["-o", str(tmp_path / "bundle")]
    mfcc = ["-s", "units.encoder=mfcc"]
    for words, word in [
        ([str(tmp_path / "empty"), *mfcc], "no audio files"),
        ([str(tmp_path / "missing"), *mfcc], "no such folder"),
        ([audio, *mfcc, "-s", "units.kk=3"], "no setting 'kk'"),
        ([audio, "-c", str(tmp_path / "none.toml")], "no such settings file"),
        ([audio, *mfcc, "--held-out", str(tmp_path / "none.txt")], "none.txt"),
        ([audio, *mfcc, "-s", "ulm.size=huge"], "huge"),
    ]:
        fails_in_one_line(["train", *words, *out], capsys, monkeypatch, word)


def test_corpora_of_other_units_are_refused(tmp_path, tiny_bundle, capsys, monkeypatch):
    from gslm.bundle import read_json
    from gslm.corpus import CorpusRow, CorpusWriter
    from gslm.types import Fingerprint

    other = Fingerprint("log-mel", "", 0, 50.0, "none", "f" * 16, 8)
    writer = CorpusWriter(tmp_path / "corpus", other, {})
    writer.write_shard(0, [CorpusRow("a.wav", np.arange(8, dtype=np.int32), None, 2560, "")])
    writer.finish(1)
    corpus, vocoder = str(tmp_path / "corpus"), str(tiny_bundle / "vocoder")
    made = ["vocoder", "synthesize", corpus, "-b", vocoder, "-o", str(tmp_path / "out")]
    fails_in_one_line(made, capsys, monkeypatch, "log-mel", "mfcc")
    scored = ["ulm", "score", str(tiny_bundle / "ulm"), corpus, "--split", "all"]
    fails_in_one_line(scored, capsys, monkeypatch, "log-mel", "mfcc")
    about = read_json(tmp_path / "corpus" / "corpus.json")
    write_json(tmp_path / "corpus" / "corpus.json", about | {"format": "other"})
    fails_in_one_line(scored, capsys, monkeypatch, "not a gslm corpus")


def test_units_of_a_folder_without_good_files(tmp_path, tiny_bundle, capsys, monkeypatch):
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "text.wav").write_text("not audio")
    words = ["units", "encode", "--workers=1", str(audio), "-o", str(tmp_path / "c"), "--units"]
    fails_in_one_line([*words, str(tiny_bundle)], capsys, monkeypatch, "text.wav", "not readable")


def test_the_program_stands_alone(tmp_path):
    """One real process, so that the exit code is the shell's."""
    done = subprocess.run(
        [sys.executable, "-m", "gslm.cli", "resynthesize", str(tmp_path / "none.wav")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(cli.__file__).parent.parent,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gslm: ")
    assert len(done.stderr.splitlines()) == 1
