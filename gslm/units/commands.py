"""`gslm units …`: encoders, fit, smooth, encode, bpe and inspect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(
    name="units", help="Speech to discrete units: encoders, fit, smooth, encode, bpe, inspect."
)

Audio = Annotated[Path, Parameter(help="Folder of audio files, of any format and depth.")]


@app.command
def encoders() -> None:
    """List the encoders that have a short name, with layer, languages and licence.

    Example: gslm units encoders
    """
    from gslm.units.encoders.presets import table

    print(table())


@app.command
def fit(
    audio: Audio,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder to write.")],
    encoder: Annotated[
        str,
        Parameter(
            help="A name that `gslm units encoders` lists (tiny.en, hubert-base, mfcc, …), or "
            "the folder, Hub name or CPC checkpoint of another model."
        ),
    ] = "tiny.en",
    layer: Annotated[
        int | None,
        Parameter(help="Layer, counted from 1; a listed encoder's own if not given."),
    ] = None,
    k: Annotated[
        int | None, Parameter(help="Number of units; 200 if not given, 2000 with --syllables.")
    ] = None,
    normalization: Literal["auto", "none", "frame", "global", "utterance"] = "auto",
    max_hours: Annotated[float, Parameter(help="Audio that k-means sees, in hours.")] = 5.0,
    seed: int = 0,
    half: Annotated[bool, Parameter(help="Store the encoder in half precision.")] = False,
    smooth: Annotated[
        float,
        Parameter(help="Cost of changing the unit, such as 1: fewer changes, longer units."),
    ] = 0.0,
    syllables: Annotated[
        bool, Parameter(help="Make units of syllables, the last one silence, not of frames.")
    ] = False,
    boundaries: Annotated[
        Literal["loudness", "norm"],
        Parameter(help="Where syllables end: dips in loudness, or peaks of the frames' norms."),
    ] = "loudness",
    prominence: Annotated[
        float | None,
        Parameter(
            help="Depth of a boundary: 1 dB of loudness or 0.45 deviations of the norm if not "
            "given; smaller gives more syllables."
        ),
    ] = None,
) -> None:
    """Make units from a folder of audio: encode it, cluster the frames or the syllables.

    Example: gslm units fit recordings -o my-units --encoder mfcc --k 100 --smooth 1

    Example: gslm units fit recordings -o my-syllables --syllables --k 2000
    """
    from gslm.audio import find_audio
    from gslm.pretrained import whisper_tiny_en
    from gslm.units.coarsening import chosen_coarsening
    from gslm.units.encoders import load_encoder
    from gslm.units.fit import fit_units, frames_in_hours

    coarsening = chosen_coarsening(smooth, syllables, boundaries, prominence)
    max_frames = frames_in_hours(max_hours)  # before a model is fetched
    source = whisper_tiny_en() if encoder == "tiny.en" else encoder
    speech_encoder = load_encoder(source, layer)
    print(f"{encoder}: learned from {speech_encoder.learned_from}")
    units = fit_units(
        audio,
        find_audio(audio),
        speech_encoder,
        k or (2000 if syllables else 200),
        seed,
        normalization=normalization,
        max_frames=max_frames,
        coarsening=coarsening,
    )
    units.save(output, half=half)
    print(f"{output}: {units.fingerprint}")


@app.command
def smooth(
    units: Annotated[str, Parameter(help="Folder of units, bundle, or Hub name.")],
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder to write.")],
    penalty: Annotated[float, Parameter(help="Cost of changing the unit; 0 undoes smoothing.")] = 1,
    half: Annotated[bool, Parameter(help="Store the encoder in half precision.")] = False,
) -> None:
    """Make ready units change less often, without fitting them again.

    The penalty is in units of the mean squared distance between neighbouring centroids: 1 makes
    about a third fewer units once de-duplicated.

    Example: gslm units smooth my-units -o my-smooth-units --penalty 1
    """
    import gslm.units

    made = gslm.units.load(units).smoothed(penalty)
    made.save(output, half=half)
    print(f"{output}: {made.fingerprint}")


@app.command
def encode(
    audio: Audio,
    *,
    units: Annotated[str, Parameter(help="Folder of units, bundle, or Hub name.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Corpus to write.")],
    workers: Annotated[int | None, Parameter(help="Processes; one a core if not given.")] = None,
    speaker_from: Literal["none", "folder"] = "none",
    shard_size: Annotated[int, Parameter(help="Recordings in a shard.")] = 256,
    deduplicate: Annotated[bool, Parameter(help="Store runs with durations.")] = True,
) -> None:
    """Encode a folder of audio into a corpus; run again, it goes on where it was stopped.

    Example: gslm units encode recordings --units my-units -o corpus
    """
    import gslm.units
    from gslm.units.encode import encode_corpus

    corpus = encode_corpus(
        audio,
        output,
        gslm.units.load(units),
        workers=workers or os.cpu_count() or 1,
        speaker_from=speaker_from,
        shard_size=shard_size,
        deduplicate=deduplicate,
    )
    print(f"{output}: {corpus.n_rows} recordings, {corpus.n_units} units, {corpus.n_frames} frames")
    for id_, reason in corpus.skipped():
        print(f"skipped {id_}: {reason}")


@app.command
def bpe(
    corpus: Annotated[Path, Parameter(help="Corpus made by `gslm units encode`.")],
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder to write.")],
    vocabulary_size: Annotated[int, Parameter(help="Tokens in all, the units included.")],
) -> None:
    """Learn unit BPE from the training part of a corpus; runs count as one unit.

    Example: gslm units bpe corpus -o my-bpe --vocabulary-size 1000
    """
    from gslm.corpus import Corpus
    from gslm.units.tokenizer import UnitTokenizer

    source = Corpus.open(corpus)
    sequences = (source.units(row).deduplicated().ids for row in source.rows("train"))
    n_units = source.fingerprint.vocabulary_size
    tokenizer = UnitTokenizer.fit_bpe(
        sequences, vocabulary_size, n_units, output, source.fingerprint
    )
    held_out = [source.units(row).deduplicated().ids for row in source.rows("held_out")]
    n_tokens = sum(len(tokenizer.encode(ids)) for ids in held_out)
    ratio = sum(map(len, held_out)) / max(1, n_tokens)
    print(f"{output}: {tokenizer.vocabulary_size} tokens, {ratio:.2f} units a token held out")


@app.command
def inspect(
    corpus: Annotated[Path, Parameter(help="Corpus made by `gslm units encode`.")],
    *,
    top: Annotated[int, Parameter(help="Most frequent units to list.")] = 10,
    png: Annotated[Path | None, Parameter(help="Picture of the same figures to write.")] = None,
) -> None:
    """Print how a corpus uses its units: use, entropy, bitrate, run lengths.

    Example: gslm units inspect corpus --png units.png
    """
    from gslm.corpus import Corpus
    from gslm.units.inspection import draw, report, unit_usage

    source = Corpus.open(corpus)
    usage = unit_usage(source.units(row) for row in source.rows("all"))
    print(report(usage, top))
    if png is not None:
        draw(usage, png)
        print(f"{png}: written")
