"""Files in, files out: a bundle's work on a file or a folder of audio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gslm.audio import find_audio, resolve_inside, write_wav
from gslm.errors import CannotWriteError, UserError
from gslm.pretrained import EMBEDDED_BUNDLE
from gslm.speech_lm import SpeechLM


def resynthesize_files(
    speech: Path,
    output: Path,
    bundle: Path | None = None,
    ids: Path | None = None,
    durations: str = "recorded",
    seed: int = 0,
) -> None:
    """Resynthesise a file or folder into `output`; files that are there already are kept.

    Bad files are reported and passed over. Raises `UserError` where none could be done, and
    where the output cannot be written.
    """
    if durations not in ("predicted", "recorded"):
        raise UserError(f"durations {durations!r}: choose predicted or recorded")
    model = SpeechLM.load(bundle or EMBEDDED_BUNDLE)

    def speak(path: Path, stem: Path) -> None:
        target = stem.with_suffix(".wav")
        if not target.exists():
            write_wav(
                target,
                model.resynthesize(path, predict_durations=durations == "predicted", seed=seed),
            )

    _for_each(speech, output, ids, speak)


def continue_files(
    speech: Path,
    output: Path,
    bundle: Path | None = None,
    *,
    n: int = 1,
    only_continuation: bool = False,
    **sampling: Any,
) -> None:
    """Continue a file or every file of a folder; `sampling` goes to `SpeechLM.continue_`.

    Bad files are reported and passed over. Raises `UserError` where none could be done, and
    where the output cannot be written.
    """
    if n < 1:
        raise UserError(f"{n} continuations: ask for at least one")
    model = SpeechLM.load(bundle or EMBEDDED_BUNDLE)

    def speak(path: Path, stem: Path) -> None:
        for i, made in enumerate(model.continue_(path, n=n, **sampling)):
            target = stem.with_name(f"{stem.name}-{i}.wav" if n > 1 else f"{stem.name}.wav")
            first = made.prompt_samples if only_continuation else 0
            write_wav(target, made.waveform[first:])

    _for_each(speech, output, None, speak)


def read_ids(path: Path) -> list[str]:
    """Ids of a list file, one a line; blank lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a list of ids ({error})") from None
    return [line.strip() for line in lines if line.strip()]


def _for_each(speech: Path, output: Path, ids: Path | None, speak: Any) -> None:
    done, problems = 0, []
    files = list(_files(speech, output, ids))
    _refuse_collisions(files)
    for path, stem in tqdm(files, desc="speech", unit="file", disable=len(files) < 2):
        try:
            speak(path, stem)
            done += 1
        except CannotWriteError:
            raise
        except UserError as error:
            problems.append(str(error))
    for problem in problems if len(files) > 1 else ():
        tqdm.write(f"skipped {problem}")
    if not done:
        raise UserError(problems[0] if problems else f"{speech}: nothing to do")
    print(f"{output}: {done} of {len(files)} files done")


def _files(speech: Path, output: Path, ids: Path | None) -> Iterator[tuple[Path, Path]]:
    """Each input with its output path, suffix left off."""
    if speech.is_file():
        yield speech, output / speech.stem
        return
    for relative in read_ids(ids) if ids is not None else find_audio(speech):
        path = resolve_inside(speech, relative)
        stem = resolve_inside(output, relative)
        yield path, stem.with_name(stem.stem)


def _refuse_collisions(files: list[tuple[Path, Path]]) -> None:
    seen: dict[Path, Path] = {}
    for path, stem in files:
        if stem in seen:
            raise UserError(
                f"{seen[stem]} and {path} would both be written to {stem}.wav; rename one"
            )
        seen[stem] = path
