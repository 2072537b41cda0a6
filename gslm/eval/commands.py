"""`gslm eval`: how intelligible and natural speech is, and what units tell of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from gslm.eval.abx_commands import abx_command
from gslm.eval.make_commands import app as make_app
from gslm.eval.unit_commands import pnmi_command

if TYPE_CHECKING:
    from gslm.eval.wer import ErrorReport, Transcribe

app = App(name="eval", help="How intelligible and natural speech is, and what units tell of it.")
app.command(make_app)
app.command(pnmi_command, name="pnmi")
app.command(abx_command, name="abx")


@app.command(name="wer")
def wer_command(
    audio: Path,
    transcripts: Path,
    /,
    *,
    ids: Path | None = None,
    reference: Path | None = None,
    judge: str = "whisper-base",
    language: str = "en",
    bundle: Path | None = None,
    pocketsphinx: bool = False,
    table: Annotated[Path | None, Parameter(name=["--table", "-o"])] = None,
    threads: int = 0,
) -> None:
    """Word and character error rate of AUDIO against TRANSCRIPTS, as a recognizer hears it.

    Example: `gslm eval wer out/ prompts/transcripts.tsv --ids prompts/test_60.txt
    --reference prompts/ --bundle my-bundle -o wer.tsv`

    Parameters
    ----------
    audio
        Folder of speech, any formats.
    transcripts
        File of `id<TAB>text` lines; an id is a path below AUDIO, with or without suffix.
    ids
        File of ids, one a line: score exactly these.
    reference
        Folder of the same clips, such as the recordings: prints the paired difference too.
    judge
        `whisper-base` (fetched from packages), a CTranslate2 Whisper folder, a size or Hub name.
    language
        Language to hear, two letters.
    bundle
        Bundle that made AUDIO: refused where its units come from the judge's own model.
    pocketsphinx
        Also score with pocketsphinx (US English), a second opinion unrelated to Whisper.
    table
        Write one row a clip: TSV, or JSON with a summary where the name ends in `.json`.
    threads
        CPU threads of the judge; 0 for all cores.
    """
    from gslm.eval.clips import collect_clips, read_ids, read_transcripts
    from gslm.eval.judge import load_judge
    from gslm.eval.report import require_writable_table, write_table
    from gslm.eval.wer import pocketsphinx_transcriber, score_clips

    require_writable_table(table)
    # Missing files are told before a model is fetched or loaded.
    texts = read_transcripts(transcripts)
    wanted = read_ids(ids) if ids else None
    clips = collect_clips(audio, texts, wanted)
    # A reference may hold more clips than were resynthesised: score the same ones.
    references = collect_clips(reference, texts, [c.id for c in clips]) if reference else None
    loaded = load_judge(judge, language, threads)
    _refuse_own_model(loaded, bundle)
    recognizers: list[tuple[str, Transcribe]] = [
        (f"Whisper {loaded.model_name or loaded.name}", loaded.transcribe)
    ]
    if pocketsphinx:
        recognizers.append(("pocketsphinx", pocketsphinx_transcriber()))
    summary: dict[str, Any] = {"audio": str(audio), "judge": loaded.name, "language": language}
    first: ErrorReport | None = None
    for name, transcribe in recognizers:
        report = score_clips(clips, transcribe, name)
        other = score_clips(references, transcribe, name) if references else None
        summary[name] = _tell(report, other)
        first = first or report
    if table and first:
        write_table(table, first.clips, summary)
        print(f"table: {table}")


@app.command(name="transcribe")
def transcribe_command(
    audio: Path,
    /,
    *,
    judge: str = "whisper-base",
    language: str = "en",
    table: Annotated[Path | None, Parameter(name=["--table", "-o"])] = None,
    threads: int = 0,
) -> None:
    """What a recognizer hears in AUDIO where nobody knows the text, such as continuations.

    Example: `gslm eval transcribe continuations/ -o heard.tsv`

    Parameters
    ----------
    audio
        Folder of speech, any formats.
    judge
        `whisper-base` (fetched from packages), a CTranslate2 Whisper folder, a size or Hub name.
    language
        Language to hear, two letters.
    table
        Write `id<TAB>text` lines, in the form of a transcripts file.
    threads
        CPU threads of the judge; 0 for all cores.
    """
    from tqdm import tqdm

    from gslm.audio import read_audio
    from gslm.eval.clips import Transcript, collect_clips
    from gslm.eval.judge import load_judge
    from gslm.eval.report import require_writable_table, write_table

    require_writable_table(table)
    clips = collect_clips(audio)
    loaded = load_judge(judge, language, threads)
    rows = []
    for clip in tqdm(clips, desc="listening", unit="clip"):
        rows.append(Transcript(clip.id, loaded.transcribe(read_audio(clip.path))))
        tqdm.write(f"{rows[-1].id}: {rows[-1].text}")
    if table:
        write_table(table, rows)
        print(f"table: {table}")


@app.command(name="mos")
def mos_command(
    audio: Path,
    /,
    *,
    ids: Path | None = None,
    table: Annotated[Path | None, Parameter(name=["--table", "-o"])] = None,
) -> None:
    """Naturalness of AUDIO by Distill-MOS, from 1 (bad) to 5 (excellent).

    Example: `gslm eval mos out/ --ids prompts/test_60.txt -o mos.tsv`

    Parameters
    ----------
    audio
        Folder of speech, any formats.
    ids
        File of ids, one a line: rate exactly these.
    table
        Write one row a clip: TSV, or JSON with a summary where the name ends in `.json`.
    """
    from gslm.eval.clips import read_ids
    from gslm.eval.mos import mean_opinion_score
    from gslm.eval.report import as_json, require_writable_table, write_table

    require_writable_table(table)
    report = mean_opinion_score(audio, read_ids(ids) if ids else None)
    mean = report.mean
    print(
        f"Distill-MOS {mean.estimate:.2f} [{mean.low:.2f}, {mean.high:.2f}]"
        f"  ({len(report.clips)} clips, 95 % bootstrap interval)"
    )
    if table:
        write_table(table, report.clips, {"audio": str(audio), "distill_mos": as_json(mean)})
        print(f"table: {table}")


def _refuse_own_model(judge: Any, bundle: Path | None) -> None:
    if bundle is None:
        return
    from gslm.bundle import read_json
    from gslm.eval.judge import require_other_weights
    from gslm.types import Fingerprint

    path = bundle / "units" / "config.json"
    fingerprint = Fingerprint.from_json(read_json(path).get("fingerprint"), str(path))
    require_other_weights(judge, fingerprint)


def _tell(report: ErrorReport, reference: ErrorReport | None) -> dict[str, Any]:
    """Print one recognizer's figures and return them for the table's summary."""
    from gslm.eval.report import as_json, percent, points

    words, characters = report.word_error_rate, report.character_error_rate
    print(
        f"{report.recognizer}: word error {percent(words)}, character error "
        f"{percent(characters)}  ({len(report.clips)} clips, 95 % bootstrap intervals)"
    )
    summary: dict[str, Any] = {
        "word_error_rate": as_json(words),
        "character_error_rate": as_json(characters),
    }
    if reference is not None:
        difference = report.word_difference(reference)
        print(
            f"  reference: word error {percent(reference.word_error_rate)}; "
            f"difference {points(difference)}"
        )
        summary["reference_word_error_rate"] = as_json(reference.word_error_rate)
        summary["word_difference"] = as_json(difference)
    return summary
