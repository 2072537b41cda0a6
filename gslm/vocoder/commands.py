"""`gslm vocoder`: train a vocoder on a corpus, and speak unit sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="vocoder", help="Units to speech: train, synthesize.")


@app.command
def train(
    corpus: Path,
    audio: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
    set_: Annotated[tuple[str, ...], Parameter(name=["--set", "-s"])] = (),
    half: bool = True,
) -> None:
    """Train a vocoder on CORPUS and the AUDIO folder that it was made from.

    Example: `gslm vocoder train corpus recordings -o vocoder -s generator.loop.steps=5000`

    Parameters
    ----------
    corpus
        Folder written by `gslm units encode`.
    audio
        Folder of the recordings, one speaker.
    output
        Folder of the vocoder; checkpoints go into OUTPUT.work, and the same command goes on there.
    config
        TOML file of settings.
    set_
        One setting as name=value; may be given again. `gslm vocoder settings` lists all.
    half
        Store the weights in half precision.
    """
    from gslm.corpus import Corpus
    from gslm.settings import load_settings
    from gslm.vocoder.settings import VocoderTraining
    from gslm.vocoder.train import train_vocoder

    settings = load_settings(VocoderTraining, config, set_)
    work = output.with_name(output.name + ".work")
    train_vocoder(Corpus.open(corpus), audio, settings, work).save(output, half=half)
    print(f"{output}: vocoder ready")


@app.command(name="settings")
def settings_command() -> None:
    """Print every setting of the vocoder's training as TOML.

    Example: `gslm vocoder settings > my.toml`
    """
    from gslm.settings import to_toml
    from gslm.vocoder.settings import VocoderTraining

    print(to_toml(VocoderTraining()), end="")


@app.command
def synthesize(
    corpus: Path,
    /,
    *,
    vocoder: Annotated[Path, Parameter(name=["--vocoder", "-b"])],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    split: str = "held_out",
    durations: str = "predicted",
    seed: int = 0,
) -> None:
    """Speak the unit sequences of CORPUS into a folder of WAV files, ids kept.

    Example: `gslm vocoder synthesize corpus -b my-bundle -o spoken --split held_out`

    Parameters
    ----------
    corpus
        Folder written by `gslm units encode` with the vocoder's units.
    vocoder
        Folder of a vocoder, or a bundle.
    output
        Folder to write; files that are there already are kept.
    split
        `held_out`, `train` or `all`.
    durations
        `predicted`, or `recorded` for those of the corpus.
    seed
        Of the noise in the sound.
    """
    from tqdm import tqdm

    from gslm.audio import output_paths, write_wav
    from gslm.corpus import Corpus
    from gslm.errors import UserError
    from gslm.vocoder import Vocoder

    if durations not in ("predicted", "recorded"):
        raise UserError(f"durations {durations!r}: choose predicted or recorded")
    folder = vocoder / "vocoder" if (vocoder / "vocoder").is_dir() else vocoder
    model, source = Vocoder.load(folder), Corpus.open(corpus)
    model.fingerprint.require_same(source.fingerprint, str(folder), str(corpus))
    # Before any work: two rows of one file are refused, and only the ids of all are in memory.
    paths = output_paths(output, [row.id for row in source.rows(split)])
    made = kept = 0
    rows = tqdm(source.rows(split), desc="speaking", unit="clip", total=len(paths))
    for row, path in zip(rows, paths, strict=True):
        if path.exists():
            kept += 1
        elif len(row.units):
            write_wav(path, model.synthesize(source.units(row), durations == "predicted", seed))
            made += 1
    empty = len(paths) - made - kept
    print(
        f"{output}: {made + kept} of {len(paths)} recordings spoken"
        + (f", {kept} of them kept from before" if kept else "")
        + (f", {empty} without units left out" if empty else "")
    )
