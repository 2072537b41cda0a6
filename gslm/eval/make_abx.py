"""Two phone-timed sets of English made from packages: recorded prompts and synthetic sentences.

The recorded one has one speaker, and its times are an aligner's; the synthetic one has three and
the times that the synthesizer itself used. Together they have cells across a person and machines.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gslm.audio import Waveform, read_audio, write_wav
from gslm.bundle import write_json, write_text
from gslm.errors import UserError
from gslm.eval.alignment import Aligner, AlignmentError
from gslm.eval.flite_speech import VOICES, speak
from gslm.eval.item_files import write_items
from gslm.eval.sentences import example_sentences
from gslm.packages import file_hash
from gslm.sources import Prompts, clean_transcript, flite, prompts, read_transcripts, wordnet
from gslm.units.phone_labels import SILENCE, ClipPhones, write_phone_labels
from gslm.whole_folder import whole_folder

RECORDED_SPEAKER = "allison"


@dataclass(frozen=True)
class ABXSetsConfig:
    """What the synthetic set consists of."""

    voices: tuple[str, ...] = ("rms", "slt", "awb")
    """Flite's voices: rms, slt, awb, kal16."""
    sentences: int = 180
    """Sentences that each voice reads; no two voices read the same."""
    seed: int = 0
    """Chooses the sentences."""

    def __post_init__(self) -> None:
        unknown = [voice for voice in self.voices if voice not in VOICES]
        if unknown or not self.voices or len(set(self.voices)) < len(self.voices):
            raise UserError(
                f"voices {' '.join(self.voices)}: choose some of {' '.join(VOICES)}, each once"
            )
        if self.sentences < 1:
            raise UserError(f"{self.sentences} sentences a voice: ask for one or more")


@dataclass(frozen=True)
class SetSummary:
    """What one set holds."""

    clips: int
    """Clips."""
    minutes: float
    """Minutes of audio."""
    speakers: int
    """Speakers."""
    phones: int
    """Phones, silences left out."""
    silences: int
    """Silences."""
    items: int
    """Lines of each item file."""


@dataclass(frozen=True)
class _Labelled:
    """A clip with all that the set's files say of it."""

    waveform: Waveform
    text: str
    phones: ClipPhones


def make_abx_sets(
    output: Path, config: ABXSetsConfig | None = None, english: Prompts | None = None
) -> dict[str, SetSummary]:
    """Write the sets `recorded`, `synthetic` and `combined` into the new folder `output`.

    config: `ABXSetsConfig()` where None. english: the English prompts; fetched where None. Each
    set has `audio/` with 16 kHz WAV, `phones.tsv`, `triphone.item`, `phoneme.item` and
    `transcripts.tsv`; `combined` has the labels and items of both, with ids that lead from
    `output` to the audio. `manifest.json` holds versions, settings and the SHA-256 of each file.
    The folder appears whole or not at all, and is the same for the same packages and settings.
    Raises `UserError` where a package is missing or `output` is taken.
    """
    config = config or ABXSetsConfig()
    with whole_folder(output) as scratch:
        english = english or prompts("en")
        texts = {
            id_: clean_transcript(t) for id_, t in read_transcripts(english.transcripts).items()
        }
        n_sentences = config.sentences * len(config.voices)
        # Before the aligner's minutes, since there may be too few.
        sentences = example_sentences(wordnet(), n_sentences, config.seed, texts.values())
        recorded = _write_recorded(scratch / "recorded", english, texts)
        synthetic = _write_synthetic(scratch / "synthetic", config, sentences)
        sets = {"recorded": recorded, "synthetic": synthetic}
        both = [replace(clip, id=f"{name}/audio/{clip.id}") for name in sets for clip in sets[name]]
        summaries = {name: _write_labels(scratch / name, sets[name]) for name in sets}
        summaries["combined"] = _write_labels(scratch / "combined", both)
        _write_manifest(scratch, config, summaries)
    return summaries


def _write_recorded(folder: Path, english: Prompts, texts: dict[str, str]) -> list[ClipPhones]:
    """Align every prompt that can be; those that cannot are listed in dropped.tsv."""
    dropped: dict[str, str] = {}

    def clips() -> Iterator[_Labelled]:
        aligner = Aligner(_further_words())
        for path in tqdm(sorted(english.audio.rglob("*.g722")), desc="aligning", unit="clip"):
            name = path.relative_to(english.audio).with_suffix("").as_posix()
            # The stem alone is unique as well, since some tools know files by it.
            id_ = f"{RECORDED_SPEAKER}/{name.replace('/', '-')}"
            try:
                waveform = read_audio(path)
                phones = aligner.align(waveform, texts.get(name, ""), id_, RECORDED_SPEAKER)
            except AlignmentError as reason:
                dropped[id_] = str(reason)
            except UserError:
                dropped[id_] = "not readable"
            else:
                yield _Labelled(waveform, texts[name], phones)

    written = _write_clips(folder, clips())
    rows = [f"{id_}\t{reason}" for id_, reason in sorted(dropped.items())]
    write_text(folder / "dropped.tsv", "\n".join(["id\treason", *rows]) + "\n")
    notice = english.audio.parent / "COPYRIGHT"
    if notice.is_file():
        shutil.copy(notice, folder / "COPYRIGHT")
    return written


def _write_synthetic(folder: Path, config: ABXSetsConfig, sentences: list[str]) -> list[ClipPhones]:
    program, n = flite(), config.sentences
    jobs = [
        (voice, number, sentences[index * n + number])
        for index, voice in enumerate(config.voices)
        for number in range(n)
    ]

    def clips() -> Iterator[_Labelled]:
        folder.mkdir(parents=True, exist_ok=True)
        for voice, number, text in tqdm(jobs, desc="speaking", unit="sentence"):
            id_ = f"{voice}/{voice}-{number + 1:03d}"
            spoken = speak(program, voice, text, id_, folder / "spoken.wav")
            yield _Labelled(spoken.waveform, text, spoken.phones)

    written = _write_clips(folder, clips())
    shutil.copy(wordnet() / "COPYRIGHT", folder / "COPYRIGHT")
    return written


def _write_clips(folder: Path, clips: Iterator[_Labelled]) -> list[ClipPhones]:
    """Write audio and transcripts as they come; returns the phones, sorted by id."""
    phones: list[ClipPhones] = []
    rows: list[str] = []
    for clip in clips:
        write_wav(folder / "audio" / f"{clip.phones.id}.wav", clip.waveform)
        phones.append(clip.phones)
        rows.append(f"{clip.phones.id}\t{clip.text}")
    if not phones:
        raise UserError("none of the recordings could be aligned; is this the English set?")
    write_text(folder / "transcripts.tsv", "\n".join(["id\ttext", *sorted(rows)]) + "\n")
    return sorted(phones, key=lambda clip: clip.id)


def _write_labels(folder: Path, clips: list[ClipPhones]) -> SetSummary:
    write_phone_labels(folder / "phones.tsv", clips)
    n_items = write_items(folder / "triphone.item", clips, "triphone")
    write_items(folder / "phoneme.item", clips, "phoneme")
    n_silences = sum(clip.names.count(SILENCE) for clip in clips)
    return SetSummary(
        clips=len(clips),
        minutes=round(sum(float(clip.offsets[-1]) for clip in clips) / 60, 2),
        speakers=len({clip.speaker for clip in clips}),
        phones=sum(len(clip.names) for clip in clips) - n_silences,
        silences=n_silences,
        items=n_items,
    )


def _write_manifest(folder: Path, config: ABXSetsConfig, summaries: dict[str, SetSummary]) -> None:
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    manifest: dict[str, Any] = {
        "format": "gslm-abx-sets",
        "version": 1,
        "settings": asdict(config),
        "made_by": {
            "gslm": importlib.metadata.version("gslm"),
            "pocketsphinx": importlib.metadata.version("pocketsphinx"),
            "flite": _flite_version(),
        },
        "licences": {
            "recorded": "CC-BY-SA-3.0, copyright Allison Smith, from asterisk-core-sounds",
            "synthetic": "texts from WordNet 3.0, copyright Princeton University",
        },
        "sets": {name: asdict(summary) for name, summary in summaries.items()},
        "sha256": {name: file_hash(folder / name) for name in files},
    }
    write_json(folder / "manifest.json", manifest)


def _flite_version() -> str:
    program = flite()
    done = subprocess.run(
        [str(program.path), "--version"],
        env=program.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.strip() for line in done.stdout.splitlines() if "version" in line]
    return lines[0].partition("version:")[2].strip() or lines[0] if lines else "unknown"


def _further_words() -> dict[str, str]:
    """Pronunciations of the prompts' words that the aligner's dictionary lacks."""
    lines = Path(__file__).with_name("prompt_words.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines if line and not line.startswith("#"))  # type: ignore[misc]
