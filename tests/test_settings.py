"""Settings: TOML both ways, overrides, and one line for each mistake."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from gslm.errors import UserError
from gslm.pipeline import BundleSettings
from gslm.settings import load_settings, to_toml
from gslm.training_config import TrainingConfig
from gslm.vocoder.settings import VocoderTraining


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    name: str = 'a "quoted" ünit\n'
    on: bool = False


@dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...] = (1, 2)
    empty: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    changed: Inner = field(default_factory=lambda: Inner(rate=2.0, on=True))


@pytest.mark.parametrize("settings", [BundleSettings(), VocoderTraining(), Outer()])
def test_toml_reads_back_to_equal_settings(tmp_path, settings):
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert load_settings(type(settings), path) == settings
    assert load_settings(type(settings), None) == settings


def test_every_setting_changed_reads_back(tmp_path):
    settings = Outer((7,), (3,), Inner(0.25, "x", True), Inner(1e-9, "", False))
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert load_settings(Outer, path) == settings


def test_a_table_changes_only_what_it_names(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[changed]\nrate = 3\n[ulm]\n".replace("[ulm]\n", ""), encoding="utf-8")
    assert load_settings(Outer, path).changed == Inner(rate=3.0, on=True)


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[units]\nk = 50\nseed = 3\n", encoding="utf-8")
    found = load_settings(
        BundleSettings,
        path,
        [
            "units.k=70",
            "units.encoder=mfcc",
            "ulm.training.steps = 9",
            "tokenizer.bpe_sizes=[]",
            "vocoder.generator.loop.ema_decay=0",
        ],
    )
    assert (found.units.k, found.units.seed, found.units.encoder) == (70, 3, "mfcc")
    assert found.ulm.training == replace(BundleSettings().ulm.training, steps=9)
    assert found.tokenizer.bpe_sizes == ()
    assert found.vocoder.generator.loop.ema_decay == 0.0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("units.k=many", ["k", "int", "many"]),
        ("units.k=1.5", ["k", "int", "1.5"]),
        ("units.k=true", ["k", "int"]),
        ("units.encoder=3", ["encoder", "str"]),
        ("units.kk=3", ["no setting 'kk'", "max_hours"]),
        ("unit.k=3", ["no setting 'unit'", "units"]),
        ("units=3", ["units", "table"]),
        ("tokenizer.bpe_sizes=7", ["bpe_sizes", "list"]),
        ("tokenizer.bpe_sizes=['a']", ["bpe_sizes", "int"]),
        ("units.k", ["name=value"]),
        ("=3", ["name=value"]),
        ("ulm.training.steps=0", ["steps"]),
        ("ulm.training.schedule=linear", ["schedule", "cosine"]),
    ],
)
def test_wrong_overrides_are_one_line(override, words):
    with pytest.raises(UserError) as error:
        load_settings(BundleSettings, None, [override])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("text", "word"), [("units = [", "TOML"), ("units = 3", "table")])
def test_wrong_files_are_one_line(tmp_path, text, word):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_settings(BundleSettings, path)
    assert str(path) in str(error.value)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    for path in (tmp_path / "missing.toml", tmp_path, tmp_path / "latin.toml"):
        with pytest.raises(UserError) as error:
            load_settings(BundleSettings, path)
        assert "\n" not in str(error.value)


def test_settings_without_defaults_say_so():
    with pytest.raises(UserError, match="TrainingConfig has fields without a default"):
        load_settings(TrainingConfig, None)
