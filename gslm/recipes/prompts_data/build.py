"""Decode fetched prompts into a folder of 16 kHz FLAC with transcripts and the held-out lists."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
from tqdm import tqdm

from gslm.audio import SAMPLE_RATE, read_audio
from gslm.errors import CannotWriteError, UserError
from gslm.recipes.prompts_data.split import committed_list
from gslm.sources import Prompts, clean_transcript, read_transcripts
from gslm.whole_folder import whole_folder

MIN_SECONDS = 0.5


@dataclass
class PromptsSummary:
    """What `build_prompts` wrote."""

    n_clips: int = 0
    """Clips in the folder."""
    n_seconds: float = 0.0
    """Their total length in seconds."""
    held_out: list[str] = field(default_factory=list)
    """Ids (paths relative to the folder) that training must not see; empty but for English."""
    test: list[str] = field(default_factory=list)
    """Ids of the scored prompts, a part of `held_out`."""
    held_out_seconds: float = 0.0
    """Total length of the held-out clips in seconds."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Id without suffix -> why the clip is not in the folder."""


def build_prompts(prompts: Prompts, output: Path) -> PromptsSummary:
    """Write `output`: FLAC files in the packages' folders, transcripts.tsv, held_out.txt, …

    Ids are paths relative to `output` with their suffix, as `gslm.audio.find_audio` gives them.
    Tones, silence, noises and clips under 0.5 s are dropped and listed in `dropped.tsv`. The
    folder appears whole or not at all; raises `UserError` where `output` holds something else,
    and its kind `CannotWriteError` where a clip cannot be written, as on a full disk.
    """
    try:
        with whole_folder(output) as scratch:
            transcripts = read_transcripts(prompts.transcripts)
            summary = _write_clips(prompts.audio, transcripts, scratch)
            _write_lists(prompts, transcripts, scratch, summary)
    except soundfile.LibsndfileError:
        # libsndfile only says "System error", and names a file in the scratch folder, now gone.
        raise CannotWriteError(
            f"{output}: cannot write audio (no room or no permission); free some space or choose "
            "another folder, then run the same command again"
        ) from None
    return summary


def _write_clips(audio: Path, transcripts: dict[str, str], folder: Path) -> PromptsSummary:
    summary = PromptsSummary()
    for path in tqdm(sorted(audio.rglob("*.g722")), desc="decoding prompts", unit="clip"):
        name = path.relative_to(audio).with_suffix("").as_posix()
        if name in transcripts and not clean_transcript(transcripts[name]):
            summary.dropped[name] = "a tone, a noise or silence"
            continue
        try:
            waveform = read_audio(path)
        except UserError as error:
            summary.dropped[name] = f"not readable: {error}".replace(str(audio), "")
            continue
        seconds = len(waveform) / SAMPLE_RATE
        if seconds < MIN_SECONDS:
            summary.dropped[name] = f"shorter than {MIN_SECONDS} s"
            continue
        target = folder / f"{name}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, waveform, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        summary.n_clips += 1
        summary.n_seconds += seconds
    return summary


def _write_lists(
    prompts: Prompts, transcripts: dict[str, str], folder: Path, summary: PromptsSummary
) -> None:
    clips = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.flac"))
    texts = {id_: clean_transcript(transcripts.get(id_[: -len(".flac")], "")) for id_ in clips}
    _write_lines(
        folder / "transcripts.tsv", [f"{i}\t{t}" for i, t in texts.items() if t], "id\ttext"
    )
    reasons = [f"{name}\t{reason}" for name, reason in sorted(summary.dropped.items())]
    _write_lines(folder / "dropped.tsv", reasons, "id\treason")
    if prompts.language == "en":
        present = set(clips)
        for name, ids in (("held_out.txt", summary.held_out), ("test_60.txt", summary.test)):
            ids.extend(f"{i}.flac" for i in committed_list(name) if f"{i}.flac" in present)
            _write_lines(folder / name, ids)
        summary.held_out_seconds = sum(
            soundfile.info(folder / i).duration for i in summary.held_out
        )
    shutil.copy(Path(__file__).with_name("LICENSE.md"), folder / "LICENSE.md")


def _write_lines(path: Path, lines: list[str], header: str | None = None) -> None:
    rows = [header, *lines] if header else lines
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
