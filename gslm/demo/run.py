"""`gslm demo`: the whole chain on one clip, and the embedded bundle made again."""

from __future__ import annotations

import colorsys
import os
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path

from gslm.audio import SAMPLE_RATE, read_audio, read_ids, write_wav
from gslm.demo.picture import draw_demo
from gslm.pretrained import EMBEDDED_BUNDLE
from gslm.speech_lm import SpeechLM
from gslm.types import Units

_HERE = Path(str(files("gslm.demo")))
CLIP = _HERE / "clip.flac"
SETTINGS = _HERE / "settings.toml"
_PROMPT_SECONDS = 2.0


def run_demo(output: Path, bundle: Path | None = None, seed: int = 0) -> None:
    """Encode the clip, show its units, write resynthesis, three continuations and a picture.

    output: folder for `resynthesis.wav`, `continuation-*.wav` and `demo.png`; bundle: the
    embedded one where None.
    """
    started = time.monotonic()
    model = SpeechLM.load(bundle or EMBEDDED_BUNDLE)
    print(f"units: {model.fingerprint}")
    print(f"learned from: {model.unit_encoder.encoder.learned_from}")
    waveform = read_audio(CLIP)
    units = model.encode(waveform)
    seconds = len(waveform) / SAMPLE_RATE
    print(f"{CLIP.name}: {seconds:.1f} s, {units.n_frames} frames, {len(units)} units")
    print(_strip(units))
    resynthesis = model.decode(units, seed=seed)
    write_wav(output / "resynthesis.wav", resynthesis)
    made = model.continue_(
        waveform, n=3, prompt_seconds=_PROMPT_SECONDS, max_seconds=4, min_seconds=1, seed=seed
    )
    for i, continuation in enumerate(made):
        write_wav(output / f"continuation-{i}.wav", continuation.waveform)
        print(f"continuation {i}:")
        print(_strip(continuation.units, continuation.n_prompt_units))
    shutil.copyfile(CLIP, output / "prompt.flac")
    draw_demo(output / "demo.png", waveform, units, resynthesis, made[0])
    print(f"{output}: resynthesis.wav, continuation-0.wav to -2.wav, demo.png")
    print(f"done in {time.monotonic() - started:.1f} s")


def retrain(bundle: Path) -> Path:
    """Make the embedded bundle again from the packages that carry its data and encoder.

    bundle: folder to write. Returns it. The settings are `settings.toml` beside this file.
    """
    from gslm.pipeline import BundleSettings, train_bundle
    from gslm.plan import print_plan
    from gslm.recipes.prompts_data import build_prompts
    from gslm.settings import load_settings
    from gslm.sources import prompts

    data = bundle.with_name(bundle.name + ".prompts")
    if not (data / "held_out.txt").is_file():
        build_prompts(prompts("en"), data)
    settings = load_settings(BundleSettings, SETTINGS)
    print_plan(data, settings)
    train_bundle(data, bundle, settings, read_ids(data / "held_out.txt"), os.cpu_count() or 1)
    return bundle


def _strip(units: Units, n_prompt_units: int | None = None) -> str:
    """Units as numbers on coloured ground, one colour a unit; plain where there is no terminal."""
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    cells = []
    for i, unit in enumerate(units.ids.tolist()):
        mark = "| " if i == n_prompt_units else ""
        n_units = units.fingerprint.vocabulary_size
        cells.append(mark + (_cell(unit, n_units) if coloured else str(unit)))
    return " ".join(cells)


def _cell(unit: int, n_units: int) -> str:
    # Golden-ratio steps keep neighbouring numbers apart in hue.
    red, green, blue = colorsys.hsv_to_rgb((unit * 0.618034) % 1.0, 0.45, 0.95)
    levels = ";".join(str(round(255 * level)) for level in (red, green, blue))
    width = len(str(n_units - 1))
    return f"\x1b[48;2;{levels}m\x1b[30m{unit:>{width}}\x1b[0m"
