"""`gslm units soft …`: training of soft units, their settings and their export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gslm.units.parameters import Audio, Channel, Precision, TrimSilence


def soft(
    audio: Audio,
    *,
    units: Annotated[str, Parameter(help="Folder of units, bundle, or Hub name.")],
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="Folder to write; checkpoints go into OUTPUT.work, and the same command goes on "
            "there.",
        ),
    ],
    config: Annotated[
        Path | None, Parameter(name=["--config", "-c"], help="TOML file of settings.")
    ] = None,
    set_: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--set", "-s"],
            help="One setting as name=value; may be given again. `gslm units soft-settings` "
            "lists all.",
        ),
    ] = (),
    half: Annotated[bool, Parameter(help="Store the encoder in half precision.")] = False,
    channel: Channel = None,
    trim_silence: TrimSilence = False,
    precision: Precision = "float32",
) -> None:
    """Train soft units beside ready units: vectors that say how near each sound is.

    Example: gslm units soft recordings --units my-units -o my-soft-units -s loop.steps=2000
    """
    import gslm.units
    from gslm.audio import find_audio
    from gslm.settings import load_settings
    from gslm.units.recordings import Reading
    from gslm.units.soft_task import SoftTraining, train_soft
    from gslm.whole_folder import require_writable

    settings = load_settings(SoftTraining, config, set_)
    encoder = gslm.units.load(units).in_precision(precision)
    require_writable(output)
    work = output.resolve().with_name(output.resolve().name + ".work")
    reading = Reading(channel, trim_silence)
    trained = train_soft(encoder, audio, find_audio(audio), settings, work, reading)
    encoder.save(output, half=half)
    print(f"{output}: soft units of {trained.config.dim} dimensions over {encoder.fingerprint}")
    print(f"{work}: features and checkpoints, not needed any more")


def soft_settings() -> None:
    """Print every setting of the training of soft units as TOML.

    Example: gslm units soft-settings > my.toml
    """
    from gslm.settings import to_toml
    from gslm.units.soft_task import SoftTraining

    print(to_toml(SoftTraining()), end="")


def soft_encode(
    audio: Audio,
    *,
    units: Annotated[str, Parameter(help="Folder, bundle or Hub name with soft units.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder to write.")],
    kind: Annotated[
        Literal["vectors", "distribution"],
        Parameter(help="Soft units, or the probability of each hard unit."),
    ] = "vectors",
    channel: Channel = None,
    trim_silence: TrimSilence = False,
    precision: Precision = "float32",
) -> None:
    """Write soft units of a folder of audio, a .npy file each; run again, it goes on.

    Example: gslm units soft-encode recordings --units my-soft-units -o soft
    """
    import gslm.units
    from gslm.units.recordings import Reading
    from gslm.units.soft_export import export_soft

    encoder = gslm.units.load(units).in_precision(precision)
    reading = Reading(channel, trim_silence)
    n_files, skipped = export_soft(encoder, audio, output, kind, reading)
    print(f"{output}: {n_files} recordings as {kind}")
    for id_, reason in skipped:
        print(f"skipped {id_}: {reason}")
