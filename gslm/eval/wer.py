"""Word and character error rates of a folder of speech, clip by clip, by a recognizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gslm.audio import Waveform, read_audio
from gslm.errors import UserError
from gslm.eval.bootstrap import Interval, paired_difference_interval, ratio_interval
from gslm.eval.clips import Clip, collect_clips, read_transcripts
from gslm.eval.judge import Judge
from gslm.eval.text import normalize

Transcribe = Callable[[Waveform], str]


@dataclass(frozen=True)
class ClipErrors:
    """What the recognizer heard in one clip; both texts are normalised."""

    id: str
    """Path relative to the folder, without suffix."""
    word_errors: int
    """Words substituted, deleted and inserted."""
    n_words: int
    """Words of the reference."""
    character_errors: int
    """Characters substituted, deleted and inserted, spaces counted."""
    n_characters: int
    """Characters of the reference, spaces counted."""
    reference: str
    """What should be heard."""
    hypothesis: str
    """What was heard."""


@dataclass(frozen=True)
class ErrorReport:
    """Error rates of a folder."""

    recognizer: str
    """Name of the recognizer."""
    clips: list[ClipErrors]
    """One row a clip, sorted by id."""

    @property
    def word_error_rate(self) -> Interval:
        """Word errors over words of all clips, with a 95 % bootstrap interval over clips."""
        return ratio_interval([c.word_errors for c in self.clips], [c.n_words for c in self.clips])

    @property
    def character_error_rate(self) -> Interval:
        """Character errors over characters, with a 95 % bootstrap interval over clips."""
        return ratio_interval(
            [c.character_errors for c in self.clips], [c.n_characters for c in self.clips]
        )

    def word_difference(self, reference: ErrorReport) -> Interval:
        """How much higher this word error rate is than that of the same clips in `reference`.

        Paired: clips are drawn together, so that hard texts cancel out. Raises `UserError` where
        the clips differ.
        """
        if [c.id for c in self.clips] != [c.id for c in reference.clips]:
            raise UserError("the two folders hold different clips; score both with one --ids list")
        return paired_difference_interval(
            [c.word_errors for c in self.clips],
            [c.word_errors for c in reference.clips],
            [c.n_words for c in self.clips],
        )


def word_error_rate(
    audio_folder: Path,
    transcripts: Path,
    judge: Judge,
    ids: Collection[str] | None = None,
) -> ErrorReport:
    """Judge the clips of a folder by Whisper.

    audio_folder: any formats, read one file at a time; transcripts: a file of `id<TAB>text`
    lines, ids being paths below the folder with or without suffix; ids: score only these.
    Raises `UserError` where files or transcripts are missing.
    """
    clips = collect_clips(audio_folder, read_transcripts(transcripts), ids)
    return score_clips(clips, judge.transcribe, f"Whisper {judge.model_name or judge.name}")


def score_clips(clips: Sequence[Clip], transcribe: Transcribe, name: str) -> ErrorReport:
    """Let `transcribe` (float32 samples at 16 kHz -> text) hear each clip and count errors.

    Clips whose text has no word are left out; raises `UserError` where none is left.
    """
    rows = []
    spoken = [clip for clip in clips if normalize(clip.text)]
    if not spoken:
        raise UserError("no transcript has a word in it; nothing can be scored")
    for clip in tqdm(spoken, desc=f"listening ({name})", unit="clip"):
        rows.append(count_errors(clip.id, clip.text, transcribe(read_audio(clip.path))))
    return ErrorReport(name, rows)


def count_errors(id_: str, reference: str, hypothesis: str) -> ClipErrors:
    """Normalise both texts and count errors; the reference must have a word in it."""
    try:
        import jiwer
    except ImportError:
        raise UserError(
            "jiwer is not installed; `pip install 'gslm[asr]'` brings the error rates"
        ) from None
    reference, hypothesis = normalize(reference), normalize(hypothesis)
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return ClipErrors(
        id=id_,
        word_errors=words.substitutions + words.deletions + words.insertions,
        n_words=len(reference.split()),
        character_errors=characters.substitutions + characters.deletions + characters.insertions,
        n_characters=len(reference),
        reference=reference,
        hypothesis=hypothesis,
    )


def pocketsphinx_transcriber() -> Transcribe:
    """A second opinion from a recognizer that shares nothing with Whisper: US English only.

    Its error rate is high even on recordings (about a third of the words on the prompts); only
    the difference between two folders says something. Raises `UserError` where it is missing.
    """
    try:
        import pocketsphinx
    except ImportError:
        raise UserError(
            "pocketsphinx is not installed; `pip install 'gslm[make]'` brings it"
        ) from None
    decoder = pocketsphinx.Decoder(samprate=16_000, loglevel="FATAL")

    def transcribe(waveform: Waveform) -> str:
        decoder.start_utt()
        samples = (waveform.clip(-1, 1) * 32_767).astype("int16")
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return str(found.hypstr) if found is not None else ""

    return transcribe
