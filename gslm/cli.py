"""The command line: what people do with a bundle, and one group of commands for each stage."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from gslm import __version__
from gslm.errors import UserError
from gslm.eval.commands import app as eval_app
from gslm.recipes.commands import app as recipe_app
from gslm.ulm.commands import app as ulm_app
from gslm.units.commands import app as units_app
from gslm.vocoder.commands import app as vocoder_app

app = App(
    name="gslm",
    help="Spoken language models without text: speech to units, a language model, speech again.",
    version=__version__,
)
for stage in (units_app, ulm_app, vocoder_app, eval_app, recipe_app):
    app.command(stage)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Full, over quota, read-only, forbidden: told in one line wherever they happen."""

Bundle = Annotated[Path | None, Parameter(name=["--bundle", "-b"])]
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


@app.command
def demo(
    *,
    output: Output = Path("demo-out"),
    bundle: Bundle = None,
    train: bool = False,
    seed: int = 0,
) -> None:
    """Run the whole chain on a bundled clip: units, resynthesis, continuations, a picture.

    Example: `gslm demo -o demo-out`

    Parameters
    ----------
    output
        Folder for the WAV files and the PNG.
    bundle
        Bundle to use instead of the embedded one.
    train
        Make the embedded bundle again, from the packages that carry its data (long), and use it.
    seed
        Of the continuations.
    """
    from gslm.demo.run import retrain, run_demo

    if train:
        bundle = retrain(output / "bundle")
    run_demo(output, bundle, seed)


@app.command(name="continue")
def continue_command(
    speech: Path,
    /,
    *,
    output: Output = Path("continued"),
    bundle: Bundle = None,
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 1,
    prompt_seconds: float | None = None,
    max_seconds: float = 5.0,
    min_seconds: float = 0.0,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    only_continuation: bool = False,
    seed: int = 0,
) -> None:
    """Continue speech: a file, or every file of a folder; the same stems come out.

    Example: `gslm continue question.wav -o continued -n 3 --prompt-seconds 2`

    Parameters
    ----------
    speech
        Audio file or folder, any formats.
    output
        Folder to write; number i of several continuations ends in -i.wav.
    bundle
        Bundle folder or Hub name; the embedded one where not given.
    n
        Continuations of each file.
    prompt_seconds
        Use only so much of the start of each file.
    max_seconds
        Longest continuation.
    min_seconds
        Shortest continuation.
    temperature
        Of the draws; 0 takes the likeliest unit.
    top_k
        Draw among the k likeliest; 0 for all.
    top_p
        Draw among the likeliest that reach this probability; 1 for all.
    only_continuation
        Write the continuation without the prompt.
    seed
        Of the draws; the same seed gives the same files.
    """
    from gslm.inference import continue_files

    continue_files(
        speech,
        output,
        bundle,
        n=n,
        only_continuation=only_continuation,
        prompt_seconds=prompt_seconds,
        max_seconds=max_seconds,
        min_seconds=min_seconds,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )


@app.command
def resynthesize(
    speech: Path,
    /,
    *,
    output: Output = Path("resynthesized"),
    bundle: Bundle = None,
    ids: Path | None = None,
    durations: str = "recorded",
    seed: int = 0,
) -> None:
    """Speech to units and back, in the bundle's voice; the same stems come out.

    Example: `gslm resynthesize recordings -o resynthesized`

    Parameters
    ----------
    speech
        Audio file or folder, any formats and lengths.
    output
        Folder to write; files that are there already are kept, if made with the same settings.
    bundle
        Bundle folder or Hub name; the embedded one where not given.
    ids
        File of paths below the folder, one a line: only these.
    durations
        `recorded` keeps the input's timing; `predicted` takes the voice's own.
    seed
        Of the noise in the sound.
    """
    from gslm.inference import resynthesize_files

    resynthesize_files(speech, output, bundle, ids, durations, seed)


@app.command
def train(
    audio: Path,
    /,
    *,
    output: Output,
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
    set_: Annotated[tuple[str, ...], Parameter(name=["--set", "-s"])] = (),
    held_out: Path | None = None,
    workers: int = 1,
    dry_run: bool = False,
) -> None:
    """Train every stage on a folder of audio and write a bundle; run again, it goes on.

    Example: `gslm train recordings -o my-bundle -s units.k=100`

    Parameters
    ----------
    audio
        Folder of recordings, any formats; one speaker for a good voice.
    output
        Bundle to write; checkpoints go to OUTPUT.work.
    config
        TOML file of settings; `gslm settings` prints all of them.
    set_
        One setting as name=value, as in ulm.size=tiny; may be given again.
    held_out
        File of paths below AUDIO, one a line, to keep from training; else 5 % are.
    workers
        Processes that encode.
    dry_run
        Print the plan and stop.
    """
    from gslm.audio import read_ids
    from gslm.pipeline import BundleSettings, train_bundle
    from gslm.plan import print_plan
    from gslm.settings import load_settings

    settings = load_settings(BundleSettings, config, set_)
    ids = read_ids(held_out) if held_out is not None else None
    print_plan(audio, settings)
    if not dry_run:
        train_bundle(audio, output, settings, ids, workers)


@app.command(name="settings")
def settings_command(config: Path | None = None) -> None:
    """Print every setting of `gslm train` as TOML, with the defaults or as CONFIG resolves.

    Example: `gslm settings > my.toml`

    Parameters
    ----------
    config
        TOML file to resolve.
    """
    from gslm.pipeline import BundleSettings
    from gslm.settings import load_settings, to_toml

    print(to_toml(load_settings(BundleSettings, config)), end="")


def main() -> None:
    """Run the command line; a mistake in input or options is one line and exit code 2."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        print(f"gslm: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gslm: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        print(f"gslm: {error}; make room or choose another folder, then go on", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
