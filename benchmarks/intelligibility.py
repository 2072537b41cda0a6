"""How well a bundle's resynthesis is understood, and how natural it sounds, beside the recordings.

    python benchmarks/intelligibility.py BUNDLE PROMPTS NEWCOMERS [--output FOLDER] [--pocketsphinx]

PROMPTS: what `gslm recipe run prompts-data` writes; its 60 scored prompts are used, which training
must not have seen. NEWCOMERS: what `gslm recipe run newcomer-voices` writes, by voices that nothing
was trained on. Both with the recordings' timing and with predicted durations. Speech that is in
FOLDER already is scored as it is, and refused where another bundle made it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gslm.bundle import check_bundle
from gslm.eval.clips import collect_clips, read_ids, read_transcripts
from gslm.eval.judge import load_judge, require_other_weights
from gslm.eval.mos import mean_opinion_score
from gslm.eval.report import percent, points
from gslm.eval.wer import ErrorReport, pocketsphinx_transcriber, score_clips
from gslm.inference import resynthesize_files
from gslm.speech_lm import SpeechLM


def main() -> None:
    """Print one row a set of clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("newcomers", type=Path)
    parser.add_argument("--output", type=Path, default=Path("intelligibility-out"))
    parser.add_argument("--pocketsphinx", action="store_true")
    arguments = parser.parse_args()
    check_bundle(arguments.bundle)
    judge = load_judge()
    require_other_weights(judge, SpeechLM.load(arguments.bundle).fingerprint)
    recognizers = {"Whisper base": judge.transcribe}
    if arguments.pocketsphinx:
        recognizers["pocketsphinx"] = pocketsphinx_transcriber()
    sets = {
        "prompts": (arguments.prompts, arguments.prompts / "test_60.txt"),
        "newcomers": (arguments.newcomers, None),
    }
    for name, (folder, list_file) in sets.items():
        texts = read_transcripts(folder / "transcripts.tsv")
        ids = read_ids(list_file) if list_file else None
        recordings = collect_clips(folder, texts, ids)
        wanted = [clip.id for clip in recordings]
        baseline = {r: score_clips(recordings, heard, r) for r, heard in recognizers.items()}
        _row(f"{name}, recordings", baseline, None, folder, wanted)
        for durations in ("recorded", "predicted"):
            made = arguments.output / name / durations
            resynthesize_files(folder, made, arguments.bundle, list_file, durations)
            clips = collect_clips(made, texts, wanted)
            scores = {r: score_clips(clips, heard, r) for r, heard in recognizers.items()}
            _row(f"{name}, {durations} durations", scores, baseline, made, wanted)


def _row(
    name: str,
    scores: dict[str, ErrorReport],
    baseline: dict[str, ErrorReport] | None,
    folder: Path,
    ids: list[str],
) -> None:
    parts = []
    for recognizer, report in scores.items():
        text = f"{recognizer} {percent(report.word_error_rate)}"
        if baseline:
            text += f", {points(report.word_difference(baseline[recognizer]))}"
        parts.append(text)
    mos = mean_opinion_score(folder, ids).mean
    parts.append(f"Distill-MOS {mos.estimate:.2f} [{mos.low:.2f}, {mos.high:.2f}]")
    print(f"RESULT {name}: {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
