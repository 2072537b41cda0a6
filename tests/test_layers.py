"""Who may import whom: recipes, eval, the three stages, the core."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gslm

ROOT = Path(gslm.__file__).parent
REPOSITORY = ROOT.parent
STAGES = {"units", "ulm", "vocoder"}
FOLDERS = STAGES | {"eval", "recipes"}
KNOW_ALL_STAGES = {"cli.py", "speech_lm.py", "pipeline.py", "plan.py", "inference.py", "demo"}
SOURCES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def folders_of(names: set[str]) -> set[str]:
    """Which of gslm's folders are imported."""
    parts = [name.split(".") for name in names if name.startswith("gslm.")]
    return {part[1] for part in parts} & FOLDERS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    place = path.relative_to(ROOT).parts[0]
    if place == "recipes":
        allowed = FOLDERS
    elif place == "eval":
        allowed = STAGES | {"eval"}
    elif place in STAGES:
        allowed = {place}
    elif place in KNOW_ALL_STAGES:
        allowed = FOLDERS
    else:
        allowed = set()
    assert folders_of(imported(path)) <= allowed


@pytest.mark.parametrize("folder", ["gslm", "tests", "benchmarks"])
def test_nobody_imports_through_the_links(folder):
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        assert not {name.split(".")[0] for name in imported(path)} & FOLDERS, path


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_the_links_show_the_pipeline(name):
    link = REPOSITORY / name
    if not link.is_symlink():
        pytest.skip("a checkout without links, as on Windows or from a wheel")
    assert link.readlink().as_posix() == f"gslm/{name}"
    assert link.resolve() == (ROOT / name).resolve()


def test_files_stay_under_400_lines():
    long = {p.name: n for p in SOURCES if (n := len(p.read_text("utf-8").splitlines())) >= 400}
    assert not long
