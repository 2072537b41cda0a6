"""`gslm eval abx`: how well features or units tell phones apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from gslm.eval.abx_items import Items
    from gslm.eval.abx_sources import FrameSource


def abx_command(
    item: Path,
    audio_or_features: Path,
    /,
    *,
    units: str | None = None,
    continuous: bool = False,
    speaker: Annotated[
        tuple[Literal["within", "across", "any"], ...], Parameter(consume_multiple=True)
    ] = ("within", "across"),
    context: Literal["within", "any"] = "within",
    distance: Literal["angular", "cosine", "euclidean", "kl", "one-hot", "edit"] | None = None,
    slicing: Literal["centres", "librilight"] = "centres",
    frame_rate: float = 50.0,
    unit_length: bool = False,
    max_group: int | None = None,
    max_x_across: int | None = None,
    seed: int = 0,
    threads: int = 0,
    table: Annotated[Path | None, Parameter(name=["--table", "-o"])] = None,
) -> None:
    """How often a phone is nearer to another phone than to its own: the ABX error.

    Example: `gslm eval abx abx-sets/synthetic/triphone.item abx-sets/synthetic/audio
    --units my-units -o abx.tsv`

    Example: `gslm eval abx dev-clean.item features --slicing librilight --max-group 10
    --max-x-across 5`

    Parameters
    ----------
    item
        Item file: `#file onset offset #phone prev-phone next-phone speaker`, in seconds.
    audio_or_features
        A folder of audio, a corpus that was encoded from it, or a folder of arrays in files
        `.npy`, `.pt` or `.txt`: features (frames, dim), or integer units (frames,).
    units
        Folder of units, bundle, or Hub name to encode the audio with.
    continuous
        Score the normalised features that the units are made of.
    speaker
        Tokens of one speaker, X of another than A and B, or any; several are scored in turn.
    context
        Tokens between the same neighbours (of phones or triphones), or any (of phones).
    distance
        angular (or cosine, the same), euclidean or kl of features, one-hot or edit of units;
        angular or one-hot if not given.
    slicing
        Frames whose centre lies in a token, or all of them but the last, as Libri-Light's code
        and zerospeech-libriabx2 have it.
    frame_rate
        Frames a second of a folder of arrays; others say it themselves.
    unit_length
        Scale features to length 1 before a euclidean or kl distance too, as zerospeech-libriabx2.
    max_group
        Most tokens of one phone, context and speaker, drawn at random; all if not given.
    max_x_across
        Most other speakers that each pair of A and B is held against; all if not given.
    seed
        Draws tokens and speakers.
    threads
        CPU threads; 0 for all cores.
    table
        Write one row a speaker condition and pair of phones: TSV, or JSON with a summary where
        the name ends in `.json`.
    """
    import torch
    from tqdm import tqdm

    from gslm.eval.abx import AbxScorer, phone_task
    from gslm.eval.abx_items import read_items, slice_features
    from gslm.eval.report import write_table

    items = read_items(item)
    scorers = {
        name: AbxScorer(
            items,
            phone_task(name, context),
            max_group=max_group,
            max_x_across=max_x_across if name == "across" else None,
            seed=seed,
        )
        for name in dict.fromkeys(speaker)
    }
    source = _source(items, audio_or_features, units, continuous, frame_rate)
    if source.fingerprint:
        print(f"{'features of' if continuous else 'units'}  {source.fingerprint}")
    frames = tqdm(source.frames, total=source.n_files, desc="reading", unit="file", delay=2)
    tokens = slice_features(items, frames, frame_rate=source.frame_rate, slicing=slicing)
    summary: dict[str, Any] = {"item": str(item), "frames": str(audio_or_features)}
    if source.fingerprint:
        summary["units"] = source.fingerprint.to_json()
    distance = distance or ("one-hot" if tokens.discrete else "angular")
    summary |= {
        "continuous": not tokens.discrete, "distance": distance, "slicing": slicing,
        "context": context, "max_group": max_group, "max_x_across": max_x_across, "seed": seed,
        "n_without_frames": tokens.n_empty, "error_rate": {},
    }  # fmt: skip
    rows: list[_Row] = []
    for name, scorer in scorers.items():
        found = scorer(
            tokens, distance, unit_length=unit_length, threads=threads or torch.get_num_threads()
        )
        rows += [_Row(name, p.x, p.b, p.error_rate, p.n_triplets) for p in found.phone_pairs()]
        summary["error_rate"][name] = found.error_rate
        print(
            f"ABX error, {name} speaker, {context} context, {distance}: "
            f"{100 * found.error_rate:.2f} %  ({found.n_cells} cells, {found.n_triplets} triplets "
            f"of {found.n_items} tokens)"
        )
    if tokens.n_empty:
        print(f"left out: {tokens.n_empty} tokens that hold no frame's centre")
    if table:
        write_table(table, rows, summary)
        print(f"table: {table}")


@dataclass(frozen=True)
class _Row:
    """One pair of phones in one speaker condition."""

    speaker: str
    """Condition: within, across or any."""
    phone: str
    """Phone of X and A."""
    other: str
    """Phone of B."""
    error_rate: float
    """From 0 to 1."""
    triplets: int
    """Triplets behind it."""


def _source(
    items: Items, folder: Path, units: str | None, continuous: bool, frame_rate: float
) -> FrameSource:
    """The frames in `folder`, whatever it is; the wrong options for it are refused."""
    import gslm.units
    from gslm.corpus import Corpus
    from gslm.errors import UserError
    from gslm.eval.abx_sources import audio_source, corpus_source, feature_source

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give audio, a corpus or features")
    if continuous and units is None:
        raise UserError("--continuous needs --units; features in a folder are scored without it")
    if (folder / "plan.json").is_file() or (folder / "corpus.json").is_file():
        if continuous:
            raise UserError(
                f"{folder}: a corpus holds units alone; give the audio for --continuous"
            )
        corpus = Corpus.open(folder)
        if units is not None:
            made_by = gslm.units.load(units).fingerprint
            corpus.fingerprint.require_same(made_by, str(folder), units)
        return corpus_source(corpus, items)
    if units is not None:
        return audio_source(folder, items, gslm.units.load(units), continuous)
    return feature_source(folder, items, frame_rate)
