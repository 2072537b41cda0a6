"""`gslm eval make`: sets to measure on, made from packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="make", help="Make sets to measure on, from packages.")


@app.command(name="abx")
def make_abx_command(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    voices: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("rms", "slt", "awb"),
    sentences: int = 180,
    seed: int = 0,
    packages: Path | None = None,
) -> None:
    """Make phone-timed English speech with item files for ABX: recorded, synthetic, and both.

    `recorded` has 543 prompts of one voice, aligned by pocketsphinx; `synthetic` has sentences
    read by flite, with the times that it spoke them at; `combined` has items of both, for cells
    across speakers. The same settings and packages make the same files.

    Example: `gslm eval make abx -o abx-sets`

    Parameters
    ----------
    output
        Folder to write.
    voices
        flite's voices to read the sentences: of rms, slt, awb and kal16.
    sentences
        Sentences a voice, each its own.
    seed
        Chooses the sentences.
    packages
        Folder with Debian's packages of English prompts, unpacked, instead of fetching them.
    """
    from gslm.eval.make_abx import ABXSetsConfig, make_abx_sets
    from gslm.sources import unpacked_prompts

    config = ABXSetsConfig(voices, sentences, seed)
    english = unpacked_prompts(packages, "en") if packages else None
    for name, made in make_abx_sets(output, config, english).items():
        print(
            f"{output / name}: {made.clips} clips, {made.minutes:.1f} minutes, {made.speakers} "
            f"speaker{'s' if made.speakers > 1 else ''}, {made.phones} phones, {made.items} items"
        )
