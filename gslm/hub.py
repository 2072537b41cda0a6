"""Models and bundles by their name on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gslm.errors import UserError


def folder_from_hub(name: str, patterns: Sequence[str] | None, kind: str, instead: str) -> Path:
    """Fetch the files of a repository that match `patterns` (all where None); their folder.

    kind, instead: for the error's text, what was sought and what to name instead. Raises
    `UserError` where the Hub knows no such name, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import HfHubHTTPError

    try:
        allowed = None if patterns is None else list(patterns)
        return Path(snapshot_download(name, allow_patterns=allowed))
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name}: neither a folder here nor a {kind} that the Hub gives ({reason}); "
            f"name a folder with {instead}"
        ) from None
