"""Files in, files out: a bundle's work on a file or a folder of audio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gslm.audio import (
    find_audio,
    output_paths,
    printable_name,
    read_ids,
    require_utf8_name,
    resolve_inside,
    write_wav,
)
from gslm.bundle import read_json, tensors_hash, write_json
from gslm.errors import CannotWriteError, UserError
from gslm.pretrained import EMBEDDED_BUNDLE
from gslm.speech_lm import SpeechLM

_MADE_WITH = ".gslm.json"
"""File in a folder of resynthesised speech that says with what it was made."""

Speak = Callable[[Path, Path], bool]
"""Reads an input and writes its output; False where an output was there already."""


def resynthesize_files(
    speech: Path,
    output: Path,
    bundle: Path | None = None,
    ids: Path | None = None,
    durations: str = "recorded",
    seed: int = 0,
) -> None:
    """Resynthesise a file or folder into `output`; files that are there already are kept.

    ids: list file of paths below the folder; durations: `recorded` or `predicted`. A folder's
    output says in `.gslm.json` with which voice, durations and seed it was made. Bad files are
    reported and passed over. Raises `UserError` where none could be done, where the output
    cannot be written, and where it holds speech made with something else.
    """
    if durations not in ("predicted", "recorded"):
        raise UserError(f"durations {durations!r}: choose predicted or recorded")
    model = SpeechLM.load(bundle or EMBEDDED_BUNDLE)

    files = _files(speech, output, ids)
    made_with = _made_with(model, durations, seed)
    _check_made_with(output, made_with, [] if speech.is_file() else [file[2] for file in files])

    def speak(path: Path, target: Path) -> bool:
        if target.exists():
            return False
        spoken = model.resynthesize(path, predict_durations=durations == "predicted", seed=seed)
        if not (speech.is_file() or (output / _MADE_WITH).exists()):
            write_json(output / _MADE_WITH, made_with)
        write_wav(target, spoken)
        return True

    _for_each(files, speech, output, speak)


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

    def speak(path: Path, target: Path) -> bool:
        numbered = [target.with_name(f"{target.stem}-{i}.wav") for i in range(n)]
        targets = numbered if n > 1 else [target]
        if any(to.exists() and to.samefile(path) for to in targets):
            raise CannotWriteError(f"{path}: would be written over; choose another output folder")
        for made, to in zip(model.continue_(path, n=n, **sampling), targets, strict=True):
            first = made.prompt_samples if only_continuation else 0
            write_wav(to, made.waveform[first:])
        return True

    _for_each(_files(speech, output, None), speech, output, speak)


def _files(speech: Path, output: Path, ids: Path | None) -> list[tuple[str, Path, Path]]:
    """Name, path and WAV to write of each input."""
    if speech.is_file():
        root, names = speech.parent, [speech.name]
    else:
        root, names = speech, read_ids(ids) if ids is not None else find_audio(speech)
    names = list(dict.fromkeys(names))
    targets = output_paths(output, names)
    return [
        (name, resolve_inside(root, name), target)
        for name, target in zip(names, targets, strict=True)
    ]


def _for_each(
    files: list[tuple[str, Path, Path]], speech: Path, output: Path, speak: Speak
) -> None:
    done, kept, problems = 0, 0, []
    for name, path, target in tqdm(files, desc="speech", unit="file", disable=len(files) < 2):
        try:
            require_utf8_name(name)
            kept += not speak(path, target)
            done += 1
        except CannotWriteError:
            raise
        except UserError as error:
            problems.append(printable_name(str(error)))
    for problem in problems if len(files) > 1 else ():
        tqdm.write(f"skipped {problem}")
    if not done:
        raise UserError(problems[0] if problems else f"{speech}: nothing to do")
    before = f", {kept} of them kept from before" if kept else ""
    print(f"{printable_name(str(output))}: {done} of {len(files)} files done{before}")


def _made_with(model: SpeechLM, durations: str, seed: int) -> dict[str, Any]:
    """All that the sound of a recording's resynthesis depends on."""
    return {
        "units": model.fingerprint.to_json(),
        "vocoder_hash": tensors_hash(model.vocoder.tensors() if model.vocoder else {}),
        "durations": durations,
        "seed": seed,
    }


def _check_made_with(output: Path, made_with: dict[str, Any], targets: list[Path]) -> None:
    """Refuse a folder whose speech, which would be kept, was made with something else."""
    if (output / _MADE_WITH).is_file():
        if read_json(output / _MADE_WITH) != made_with:
            raise UserError(
                f"{output}: holds speech made with another bundle, durations or seed; choose "
                "another folder or delete it"
            )
        return
    for target in targets:
        if target.exists():
            raise UserError(
                f"{target}: is there already, and nothing says with what it was made; choose "
                "another folder or delete it"
            )
