"""`gslm units …`: encoders, fit, smooth, encode, bpe and inspect."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from gslm.errors import UserError
from gslm.units.format_commands import assemble, export_units, import_units
from gslm.units.parameters import Channel, Precision, TrimSilence
from gslm.units.soft_commands import soft, soft_encode, soft_settings

app = App(
    name="units", help="Speech to discrete units: encoders, fit, smooth, encode, bpe, inspect."
)
app.command(import_units, name="import")
app.command(export_units, name="export")
app.command(assemble)
app.command(soft)
app.command(soft_settings)
app.command(soft_encode)


@app.command
def encoders() -> None:
    """List the encoders that have a short name, with layer, languages and licence.

    Example: gslm units encoders
    """
    from gslm.units.encoders.presets import table

    print(table())


@app.command
def fit(
    audio: Annotated[
        Path | None,
        Parameter(help="Folder of audio files; the first line of --manifest if not given."),
    ] = None,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder to write.")],
    encoder: Annotated[
        str,
        Parameter(
            help="A name that `gslm units encoders` lists (tiny.en, hubert-base, mfcc, …), or "
            "another model: its folder or Hub name, or a file of fairseq's or torchaudio's "
            "HuBERT or wav2vec 2.0, or of CPC."
        ),
    ] = "tiny.en",
    layer: Annotated[
        int | None,
        Parameter(help="Layer, counted from 1; a listed encoder's own if not given."),
    ] = None,
    k: Annotated[
        int | None, Parameter(help="Number of units; 200 if not given, 2000 with --syllables.")
    ] = None,
    normalization: Literal["auto", "none", "frame", "global", "frame+global", "utterance"] = "auto",
    max_hours: Annotated[float, Parameter(help="Audio that k-means sees, in hours.")] = 5.0,
    seed: int = 0,
    half: Annotated[bool, Parameter(help="Store the encoder in half precision.")] = False,
    precision: Precision = "float32",
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
    channel: Channel = None,
    trim_silence: TrimSilence = False,
    manifest: Annotated[
        Path | None, Parameter(help="fairseq's audio manifest: use the files that it lists.")
    ] = None,
) -> None:
    """Make units from a folder of audio: encode it, cluster the frames or the syllables.

    Example: gslm units fit recordings -o my-units --encoder mfcc --k 100 --smooth 1

    Example: gslm units fit recordings -o my-syllables --syllables --k 2000
    """
    from gslm.audio import find_audio
    from gslm.pretrained import whisper_tiny_en
    from gslm.processes import this_process
    from gslm.units.coarsening import chosen_coarsening
    from gslm.units.encoders import load_encoder
    from gslm.units.fit import fit_units, frames_in_hours
    from gslm.units.formats.manifest import recordings_of
    from gslm.units.recordings import Reading, Skipped
    from gslm.units.shards import bound_kernel_cache
    from gslm.whole_folder import require_writable

    bound_kernel_cache()
    coarsening = chosen_coarsening(smooth, syllables, boundaries, prominence)
    max_frames = frames_in_hours(max_hours)  # before a model is fetched
    folder, ids = recordings_of(audio, manifest)
    require_writable(output)
    source = whisper_tiny_en() if encoder == "tiny.en" else encoder
    speech_encoder = load_encoder(source, layer, precision=precision)
    if this_process().is_main_process:
        print(f"{encoder}: learned from {speech_encoder.learned_from}")
    skipped: Skipped = []
    units = fit_units(
        folder,
        find_audio(folder) if ids is None else ids,
        speech_encoder,
        k if k is not None else 2000 if syllables else 200,
        seed,
        normalization=normalization,
        max_frames=max_frames,
        coarsening=coarsening,
        reading=Reading(channel, trim_silence),
        skipped=skipped,
    )
    if this_process().is_main_process:
        units.save(output, half=half)
        print(f"{output}: {units.fingerprint}")
    _print_skipped(skipped)


def _print_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    for id_, reason in skipped:
        print(f"skipped {id_}: {reason}")


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
    audio: Annotated[
        Path | None,
        Parameter(help="Folder of audio files; the first line of --manifest if not given."),
    ] = None,
    *,
    units: Annotated[str, Parameter(help="Folder of units, bundle, or Hub name.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Corpus to write.")],
    workers: Annotated[int | None, Parameter(help="Processes; one a core if not given.")] = None,
    speaker_from: Literal["none", "folder"] = "none",
    shard_size: Annotated[
        int | None,
        Parameter(help="Recordings in a shard; 256, or fewer of a small corpus, if not given."),
    ] = None,
    deduplicate: Annotated[bool, Parameter(help="Store runs with durations.")] = True,
    engine: Annotated[
        Literal["local", "ray"],
        Parameter(help="Processes of this machine, or Ray's (of the cluster in RAY_ADDRESS)."),
    ] = "local",
    channel: Channel = None,
    precision: Precision = "float32",
    manifest: Annotated[
        Path | None, Parameter(help="fairseq's audio manifest: encode the files that it lists.")
    ] = None,
    trim_silence: TrimSilence = False,
) -> None:
    """Encode a folder of audio into a corpus; run again, it goes on where it was stopped.

    Example: gslm units encode recordings --units my-units -o corpus

    Example: torchrun --nproc_per_node 8 -m gslm units encode recordings --units u -o corpus
    """
    import gslm.units
    from gslm.processes import this_process
    from gslm.units.encode import encode_corpus
    from gslm.units.formats.manifest import recordings_of
    from gslm.units.shards import bound_kernel_cache

    bound_kernel_cache()
    if workers is not None and this_process().num_processes > 1:
        raise UserError(f"workers {workers}: torchrun's processes are the workers; leave it out")
    folder, ids = recordings_of(audio, manifest)
    corpus = encode_corpus(
        folder,
        output,
        gslm.units.load(units).in_precision(precision),
        workers=workers,
        engine=engine,
        speaker_from=speaker_from,
        shard_size=shard_size,
        deduplicate=deduplicate,
        channel=channel,
        trim_silence=trim_silence,
        ids=ids,
    )
    if not this_process().is_main_process:
        return
    print(f"{output}: {corpus.n_rows} recordings, {corpus.n_units} units, {corpus.n_frames} frames")
    _print_skipped(corpus.skipped())


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
    png: Annotated[Path | None, Parameter(help="Picture of use and run lengths to write.")] = None,
    html: Annotated[Path | None, Parameter(help="Page of all figures to write.")] = None,
    phones: Annotated[
        Path | None, Parameter(help="Labels (id, onset, offset, phone, speaker): purity and PNMI.")
    ] = None,
    audio: Annotated[
        Path | None, Parameter(help="Audio that was encoded: inertia, together with --units.")
    ] = None,
    units: Annotated[
        str | None, Parameter(help="Folder of units, bundle, or Hub name that made the corpus.")
    ] = None,
) -> None:
    """Print how a corpus uses its units: use, entropy, bitrate, run lengths, inertia, phones.

    Example: gslm units inspect corpus --html units.html

    Example: gslm units inspect corpus --phones phones.tsv --audio recordings --units my-units
    """
    import gslm.units
    from gslm.corpus import Corpus
    from gslm.errors import UserError
    from gslm.units.inertia import measure_inertia
    from gslm.units.inspection import Inspection, corpus_usage, draw, report
    from gslm.units.inspection_page import write_page
    from gslm.units.phone_agreement import corpus_clips, measure_agreement
    from gslm.units.phone_labels import PhoneLabels

    if top < 0:
        raise UserError(f"--top {top}: how many units to list, 0 or more")
    if (audio is None) != (units is None):
        raise UserError("inertia needs both --audio and --units; give both or neither")
    source = Corpus.open(corpus)
    labels = PhoneLabels.open(phones) if phones else None
    encoder = gslm.units.load(units) if units else None
    found = Inspection(
        usage=corpus_usage(source),
        agreement=measure_agreement(corpus_clips(source), labels) if labels else None,
        inertia=measure_inertia(source, audio, encoder) if audio and encoder else None,
    )
    print(report(found, top))
    if png is not None:
        draw(found.usage, png)
        print(f"{png}: written")
    if html is not None:
        write_page(html, found, corpus.resolve().name, top)
        print(f"{html}: written")
