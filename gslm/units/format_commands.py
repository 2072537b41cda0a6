"""`gslm units import|export|assemble`: from and to the files of other toolkits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gslm.units.formats.kinds import Format, Naming

Root = Annotated[str, Parameter(help="Folder of the audio, in front of the paths in the file.")]
Dictionary = Annotated[Path | None, Parameter(help="dict.txt of fairseq's binarised data.")]


def import_units(
    file: Annotated[Path, Parameter(help="File to read; of several, the name they share.")],
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Corpus to write.")],
    format_: Annotated[Format, Parameter(name="--format", help="Whose file it is.")],
    units: Annotated[
        str | None,
        Parameter(help="Folder of the units that it holds, bundle, or Hub name; if you have it."),
    ] = None,
    vocabulary_size: Annotated[
        int | None,
        Parameter(help="Number of units, without --units; the largest and one if not given."),
    ] = None,
    frame_rate: Annotated[
        float | None, Parameter(help="Frames a second, without --units; 50 if not given.")
    ] = None,
    kind: Annotated[
        Literal["auto", "frames", "runs"],
        Parameter(
            help="frames: a unit a frame; runs: repetitions were dropped. auto: runs for "
            "slamkit-tokens, slamkit-preference, fairseq and s2ut, frames for the others."
        ),
    ] = "auto",
    deduplicate: Annotated[bool, Parameter(help="Store frames as runs with durations.")] = True,
    manifest: Annotated[
        Path | None,
        Parameter(help="fairseq's manifest of the recordings: gives their paths and lengths."),
    ] = None,
    root: Root = "",
    dictionary: Dictionary = None,
    shard_size: Annotated[int, Parameter(help="Recordings in a shard.")] = 256,
) -> None:
    """Make a corpus of another toolkit's unit file.

    text: name|1 2 3 of fairseq's speech2unit. textless: textlesslib's .units, .durations, .f0s.
    slamkit, slamkit-tokens, slamkit-preference: SlamKit's features, tokens and pairs for DPO.
    unit-hifigan and resynthesis: manifests of those vocoders. dgslm: two channels a line. fairseq:
    .idx, .bin and dict.txt. s2ut: tables of speech-to-unit translation.

    Example: gslm units import train.txt -o corpus --format text --units my-units

    Example: gslm units import data-bin/train -o corpus --format fairseq --vocabulary-size 100
    """
    import gslm.units
    from gslm.errors import UserError
    from gslm.units.formats.importing import ImportSettings, import_corpus

    if units is not None and (vocabulary_size is not None or frame_rate is not None):
        raise UserError(f"{units} has its own vocabulary and frame rate; leave out their flags")
    settings = ImportSettings(
        format=format_,
        fingerprint=None if units is None else gslm.units.load(units).fingerprint,
        vocabulary_size=vocabulary_size,
        frame_rate=50.0 if frame_rate is None else frame_rate,
        kind=kind,
        deduplicate=deduplicate,
        manifest=manifest,
        root=root,
        dictionary=dictionary,
        shard_size=shard_size,
    )
    corpus, remarks = import_corpus(file, output, settings)
    print(f"{output}: {corpus.n_rows} recordings, {corpus.n_units} units, {corpus.n_frames} frames")
    print(f"{output}: {corpus.fingerprint}")
    for remark in remarks:
        print(f"note: {remark}")


def export_units(
    corpus: Annotated[Path, Parameter(help="Corpus made by `gslm units encode` or `import`.")],
    *,
    output: Annotated[
        Path,
        Parameter(name=["--output", "-o"], help="File to write; of several, the name they share."),
    ],
    format_: Annotated[Format, Parameter(name="--format", help="Whose file to write.")],
    names: Annotated[
        Naming | None,
        Parameter(
            help="How recordings are called: basename (stem alone), path (without its suffix), "
            "audio (with it), or none; the format's own way if not given."
        ),
    ] = None,
    deduplicate: Annotated[
        bool | None,
        Parameter(help="Merge repetitions of a unit; the format's own way if not given."),
    ] = None,
    root: Root = "",
    split: Annotated[Literal["all", "train", "held_out"], Parameter(help="Part to write.")] = "all",
    dictionary: Dictionary = None,
    sources: Annotated[
        Path | None,
        Parameter(
            help="s2ut: fairseq's manifest of the source recordings; the corpus' own if not given."
        ),
    ] = None,
    key: Annotated[
        Literal["hubert", "cpc_km100", "vqvae256", "codes"] | None,
        Parameter(help="resynthesis: what the units are called; hubert if not given."),
    ] = None,
) -> None:
    """Write a corpus as another toolkit's unit file; `manifest` lists its recordings alone.

    Example: gslm units export corpus -o units.txt --format text

    Example: gslm units export corpus -o manifest.tsv --format manifest --root /data/recordings
    """
    from gslm.corpus import Corpus
    from gslm.units.formats.exporting import ExportSettings, export_corpus
    from gslm.units.formats.kinds import KEEPS_DURATIONS

    settings = ExportSettings(
        format=format_,
        names=names,
        deduplicate=deduplicate,
        root=root,
        split=split,
        dictionary=dictionary,
        sources=sources,
        key=key,
    )
    files = export_corpus(Corpus.open(corpus), output, settings)
    print(f"{', '.join(map(str, files))}: written")
    if settings.merges and format_ not in KEEPS_DURATIONS | {"manifest"}:
        print("note: repetitions are merged and durations lost; --no-deduplicate keeps frames")


def assemble(
    *,
    encoder: Annotated[
        str,
        Parameter(
            help="A name that `gslm units encoders` lists, a checkpoint of fairseq or CPC, or the "
            "folder or Hub name of another model."
        ),
    ],
    centroids: Annotated[Path, Parameter(help="GSLM's km.bin, or a .npy or .npz file, (K, D).")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder to write.")],
    layer: Annotated[
        int | None, Parameter(help="Layer, counted from 1; a listed encoder's own if not given.")
    ] = None,
    normalization: Annotated[
        Literal["none", "frame", "utterance"],
        Parameter(help="What the centroids were fitted on; GSLM's on features as they are."),
    ] = "none",
    half: Annotated[bool, Parameter(help="Store the encoder in half precision.")] = False,
) -> None:
    """Make units of an encoder and of centroids that were fitted elsewhere.

    Example: gslm units assemble --encoder hubert.pt --layer 6 --centroids km.bin -o my-units
    """
    from gslm.pretrained import whisper_tiny_en
    from gslm.units.encoders import load_encoder
    from gslm.units.quantizers.centroid_files import read_centroids
    from gslm.units.unit_encoder import UnitEncoder

    matrix = read_centroids(centroids)  # before a model is fetched
    source = whisper_tiny_en() if encoder == "tiny.en" else encoder
    made = UnitEncoder(load_encoder(source, layer), matrix, normalization)
    made.save(output, half=half)
    print(f"{output}: {made.fingerprint}")
