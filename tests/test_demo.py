"""The demonstration as a user runs it, on the embedded bundle and the bundled clip."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tomllib

import numpy as np
import soundfile

from gslm.audio import read_audio
from gslm.bundle import check_bundle
from gslm.demo.run import CLIP, SETTINGS, run_demo
from gslm.pipeline import BundleSettings
from gslm.pretrained import EMBEDDED_BUNDLE
from gslm.settings import from_dictionary, load_settings
from gslm.speech_lm import SpeechLM


def test_the_demo_writes_sound_and_a_picture(tmp_path, capsys):
    run_demo(tmp_path)
    printed = capsys.readouterr().out
    recording = read_audio(CLIP)
    resynthesis = read_audio(tmp_path / "resynthesis.wav")
    assert 0.5 < len(resynthesis) / len(recording) < 2
    assert np.abs(resynthesis).max() > 0.05
    for i in range(3):
        continuation = soundfile.info(tmp_path / f"continuation-{i}.wav")
        assert continuation.samplerate == 16_000
        assert 2.5 < continuation.duration < 12
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "learned from" in printed
    units = SpeechLM.load().encode(recording)
    assert " ".join(map(str, units.ids)) in printed


def test_one_seed_gives_one_demo(tmp_path):
    for name in ("first", "second"):
        run_demo(tmp_path / name, seed=3)
    for wav in ("resynthesis.wav", "continuation-0.wav", "continuation-2.wav"):
        assert (tmp_path / "first" / wav).read_bytes() == (tmp_path / "second" / wav).read_bytes()


def test_a_terminal_sees_units_in_colour(tmp_path):
    command = [sys.executable, "-m", "gslm.cli", "demo", "-o", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    parent, child = pty.openpty()
    process = subprocess.Popen(command, stdout=child, stderr=child, env=environment)
    os.close(child)
    printed = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:
            break
        if not part:
            break
        printed += part
    assert process.wait() == 0, printed.decode()
    assert len(re.findall(rb"\x1b\[48;2;\d+;\d+;\d+m", printed)) > 50


def test_the_embedded_bundle_is_whole_and_small_enough_to_ship():
    manifest = check_bundle(EMBEDDED_BUNDLE)
    sizes = [path.stat().st_size for path in EMBEDDED_BUNDLE.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40_000_000
    assert max(sizes) <= 25_000_000
    assert set(manifest["stages"]) == {"units", "tokenizer", "ulm", "vocoder"}


def test_the_embedded_bundle_was_made_with_the_settings_in_the_repository():
    # Settings that came later, such as smoothing, are read as their defaults: off.
    made_with = tomllib.loads(check_bundle(EMBEDDED_BUNDLE)["settings"])
    assert from_dictionary(BundleSettings, made_with, "bundle") == load_settings(
        BundleSettings, SETTINGS
    )
