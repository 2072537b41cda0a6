"""`gslm recipe`: list and run what lies in `gslm/recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="recipe", help="Whole experiments and the data they start from.")
run = App(name="run", help="Run a recipe by its name.")
app.command(run)

Output = Annotated[Path, Parameter(name=["--output", "-o"])]


@app.command(name="list")
def list_command() -> None:
    """Name every recipe with one line about it.

    Example: `gslm recipe list`
    """
    for readme in sorted(Path(__file__).parent.glob("*/README.md")):
        title = readme.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        print(title)


@run.command(name="prompts-data")
def prompts_data_command(
    *, output: Output, language: str = "en", packages: Path | None = None
) -> None:
    """Fetch recorded telephone prompts (24 to 31 minutes) as 16 kHz FLAC with transcripts.

    Example: `gslm recipe run prompts-data --language en -o prompts`

    Parameters
    ----------
    output
        New folder to write.
    language
        en, es, fr, it or ru.
    packages
        Folder into which you unpacked the two Debian packages yourself, where apt is missing.
    """
    from gslm.recipes.prompts_data import build_prompts
    from gslm.sources import prompts, unpacked_prompts

    found = unpacked_prompts(packages, language) if packages else prompts(language)
    summary = build_prompts(found, output)
    print(f"{output}: {summary.n_clips} clips, {summary.n_seconds / 60:.1f} minutes")
    if summary.held_out:
        print(
            f"held out: {len(summary.held_out)} clips, {summary.held_out_seconds / 60:.1f} minutes"
            f" (held_out.txt), of which {len(summary.test)} are scored (test_60.txt)"
        )
    reasons: dict[str, int] = {}
    for reason in summary.dropped.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        print(f"left out: {count} clips: {reason} (dropped.tsv)")


@run.command(name="newcomer-voices")
def newcomer_voices_command(*, output: Output) -> None:
    """Speak forty sentences with two voices that nothing here was trained on.

    Example: `gslm recipe run newcomer-voices -o newcomers`

    Parameters
    ----------
    output
        New folder to write.
    """
    from gslm.recipes.newcomer_voices import build_voices

    ids = build_voices(output)
    print(f"{output}: {len(ids)} sentences with transcripts.tsv")
