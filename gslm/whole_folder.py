"""An output folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gslm.errors import UserError


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Give a scratch folder beside `output` that takes its name once the block is through.

    Where the block raises, nothing is left. Raises `UserError` where `output` holds something
    already, before any work, and where it cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: already exists and is not empty; name a new folder")
    scratch: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        yield scratch
        scratch.chmod(0o755)
        if output.exists():
            output.rmdir()
        scratch.rename(output)
    except OSError as error:
        raise UserError(f"{output}: cannot write ({error.strerror or error})") from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def require_writable(output: Path) -> None:
    """Make the folder `output` and write to it, or raise `UserError`, before any long work."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f"{output}: cannot write ({error.strerror or error}); choose another output folder"
        ) from None
