"""What the pages say works: their Python runs, and their commands exist with those options."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gslm.ulm.train
from gslm.audio import read_audio, write_wav
from gslm.cli import app
from gslm.demo.run import CLIP
from gslm.pretrained import EMBEDDED_BUNDLE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "gslm" / "recipes").glob("*/README.md"))


def _python_blocks():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            yield pytest.param(blocks, id=page.name)


def _commands():
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("    gslm "):
                yield pytest.param(line.partition(" #")[0].strip(), id=line.strip()[:60])


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory):
    """A folder with the files that the pages name, made with the embedded bundle."""
    import gslm.units
    from gslm.eval.item_files import write_items
    from gslm.training_config import TrainingConfig
    from gslm.units.encode import encode_corpus
    from gslm.units.phone_labels import ClipPhones, write_phone_labels
    from gslm.units.soft_task import SoftTraining, train_soft

    folder = tmp_path_factory.mktemp("reader")
    waveform = read_audio(CLIP)
    for name in ("clip.wav", "question.wav", "recordings/a.wav"):
        write_wav(folder / name, waveform)
    for i in range(6):
        write_wav(folder / "recordings" / f"part-{i}.wav", waveform[8000 * i : 8000 * i + 16_000])
    for name in ("vocoder", "ulm"):
        shutil.copytree(EMBEDDED_BUNDLE / name, folder / name)
    for name in ("my-units", "gslm-units"):
        shutil.copytree(EMBEDDED_BUNDLE / "units", folder / name)
    units = gslm.units.load(EMBEDDED_BUNDLE)
    encode_corpus(folder / "recordings", folder / "corpus", units)
    settings = SoftTraining(loop=TrainingConfig(steps=2))
    train_soft(units, folder, ["clip.wav", "question.wav"], settings, folder / "soft.work")
    units.save(folder / "my-soft-units")
    # Two phones by turns: ABX needs pairs of each from one speaker.
    bounds = np.arange(13) * 0.15
    clip = ClipPhones("a", ["AA", "K"] * 6, bounds[:-1], bounds[1:], "reader")
    write_phone_labels(folder / "phones.tsv", [clip])
    write_items(folder / "phoneme.item", [clip], "phoneme")
    return folder


@pytest.mark.parametrize("blocks", list(_python_blocks()))
def test_python_on_a_page_runs(blocks, reader_folder, monkeypatch):
    monkeypatch.chdir(reader_folder)
    train = gslm.ulm.train.train
    monkeypatch.setattr(
        gslm.ulm.train,
        "train",
        lambda task, config, *rest: train(task, replace(config, steps=2), *rest),
    )
    names: dict = {}
    for block in blocks:
        exec(compile(block, "page", "exec"), names)


@pytest.mark.parametrize("line", list(_commands()))
def test_a_command_on_a_page_is_understood(line):
    tokens = shlex.split(line.partition(">")[0])[1:]
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound.arguments or tokens[-1] in ("list", "settings", "soft-settings")
