"""`gslm eval abx`: how well features or units tell phones apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from gslm.eval.unit_commands import corpus_made_by

if TYPE_CHECKING:
    from gslm.eval.abx import AbxResult, AbxTask
    from gslm.eval.abx_items import Items, Tokens
    from gslm.eval.abx_sources import FrameSource

Columns = Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True)]


def abx_command(
    item: Path,
    audio_or_features: Path,
    /,
    *,
    units: str | None = None,
    continuous: bool = False,
    speaker: Annotated[
        tuple[Literal["within", "across", "any"], ...] | None, Parameter(consume_multiple=True)
    ] = None,
    context: Literal["within", "any"] | None = None,
    on: str | None = None,
    by: Columns = None,
    across: Columns = None,
    distance: Literal["angular", "cosine", "euclidean", "kl", "one-hot", "edit"] | None = None,
    slicing: Literal["centres", "librilight"] = "centres",
    frame_rate: float | None = None,
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
        within and across if not given.
    context
        Tokens between the same neighbours (of phones or triphones), or any (of phones); within
        if not given.
    on
        Instead of speaker and context, columns of the item file: X and A share this one's value,
        B has another. phone if not given.
    by
        Columns of which all three share each value.
    across
        Columns of which A and B share each value, and X has another.
    distance
        angular (or cosine, the same), euclidean or kl of features, one-hot or edit of units;
        angular or one-hot if not given.
    slicing
        Frames whose centre lies in a token, or all of them but the last, as Libri-Light's code
        and zerospeech-libriabx2 have it.
    frame_rate
        Frames a second of a folder of arrays, 50 if not given; others say it themselves.
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
        Write one row a condition and pair of phones: TSV, or JSON with a summary where the name
        ends in `.json`.
    """
    from gslm.errors import UserError
    from gslm.eval.abx import AbxScorer
    from gslm.eval.abx_items import read_items
    from gslm.eval.report import require_writable_table, write_table

    require_writable_table(table)
    _check_options(continuous, units, distance, unit_length, threads)
    tasks = _tasks(speaker, context, on, by, across)
    if max_x_across is not None and not any(task.across for task in tasks.values()):
        raise UserError("--max-x-across: no task is across speakers or other columns; leave it out")
    items = read_items(item)
    scorers = {}
    for name, task in tasks.items():
        most = max_x_across if task.across else None
        scorers[name] = AbxScorer(items, task, max_group=max_group, max_x_across=most, seed=seed)
    source = _source(items, audio_or_features, units, continuous, frame_rate)
    tokens = _read(items, source, slicing, continuous)
    distance = distance or ("one-hot" if tokens.discrete else "angular")
    summary: dict[str, Any] = {"item": str(item), "frames": str(audio_or_features)}
    if source.fingerprint:
        summary["units"] = source.fingerprint.to_json()
    summary |= {
        "context": None if on or by or across else context or "within",
        "continuous": not tokens.discrete, "distance": distance, "unit_length": unit_length,
        "slicing": slicing, "frame_rate": source.frame_rate, "max_group": max_group,
        "max_x_across": max_x_across, "seed": seed, "n_without_frames": tokens.n_empty,
        "n_shortened": tokens.n_shortened, "n_repeated": len(items.repeated), "error_rate": {},
    }  # fmt: skip
    rows: list[_Row] = []
    for name, scorer in scorers.items():
        found = scorer(
            tokens, distance, unit_length=unit_length, threads=threads or None, progress=True
        )
        rows += [_Row(name, p.x, p.b, p.error_rate, p.n_triplets) for p in found.phone_pairs()]
        summary["error_rate"][name] = found.error_rate
        _tell(name, context, distance, found)
    _tell_oddities(items, tokens)
    if table:
        write_table(table, rows, summary, key="pairs")
        print(f"table: {table}")


@dataclass(frozen=True)
class _Row:
    """One pair of phones, or of other values of ON, in one condition."""

    condition: str
    """within, across or any speaker, or the task's columns."""
    phone: str
    """Phone of X and A."""
    other: str
    """Phone of B."""
    error_rate: float
    """From 0 to 1."""
    triplets: int
    """Triplets behind it."""


def _check_options(
    continuous: bool, units: str | None, distance: str | None, unit_length: bool, threads: int
) -> None:
    """Refuse options that would be of no effect, before anything is read."""
    from gslm.errors import UserError

    if continuous and units is None:
        raise UserError("--continuous needs --units; features in a folder are scored without it")
    if unit_length and distance not in ("euclidean", "kl"):
        raise UserError(
            f"--unit-length changes nothing of {distance or 'the usual distances'}; give it with "
            "--distance euclidean or kl"
        )
    if threads < 0:
        raise UserError(f"--threads {threads}: a number of CPU threads, 0 for all cores")


def _tasks(
    speaker: tuple[str, ...] | None,
    context: str | None,
    on: str | None,
    by: tuple[str, ...] | None,
    across: tuple[str, ...] | None,
) -> dict[str, AbxTask]:
    """The tasks that are asked for, by condition."""
    from gslm.errors import UserError
    from gslm.eval.abx import AbxTask, phone_task

    if on is None and by is None and across is None:
        names = dict.fromkeys(speaker or ("within", "across"))
        return {name: phone_task(name, context or "within") for name in names}
    if speaker is not None or context is not None:
        raise UserError(
            "--on, --by and --across say the whole task; leave out --speaker and --context"
        )
    task = AbxTask(on or "phone", by or (), across or ())
    return {task.name: task}


def _source(
    items: Items, folder: Path, units: str | None, continuous: bool, frame_rate: float | None
) -> FrameSource:
    """The frames in `folder`, whatever it is; the wrong options for it are refused."""
    import gslm.units
    from gslm.corpus import Corpus
    from gslm.errors import UserError
    from gslm.eval.abx_sources import audio_source, corpus_source, feature_source

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give audio, a corpus or features")
    is_corpus = Corpus.is_at(folder)
    if frame_rate is not None and (is_corpus or units is not None):
        raise UserError(
            f"--frame-rate is for a folder of arrays; the units of {folder} have their own"
        )
    if is_corpus:
        if continuous:
            raise UserError(
                f"{folder}: a corpus holds units alone; give the audio for --continuous"
            )
        return corpus_source(corpus_made_by(units, folder), items)
    if units is not None:
        return audio_source(folder, items, gslm.units.load(units), continuous)
    return feature_source(folder, items, 50.0 if frame_rate is None else frame_rate)


def _read(items: Items, source: FrameSource, slicing: str, continuous: bool) -> Tokens:
    """The tokens' frames, with a word on what made them."""
    from tqdm import tqdm

    from gslm.eval.abx_items import slice_features

    if source.fingerprint:
        print(f"{'features of' if continuous else 'units'}  {source.fingerprint}")
    frames = tqdm(source.frames, total=source.n_files, desc="reading", unit="file", delay=2)
    return slice_features(items, frames, frame_rate=source.frame_rate, slicing=slicing)


def _tell(name: str, context: str | None, distance: str, found: AbxResult) -> None:
    from gslm.eval.abx import SPEAKERS

    label = f"{name} speaker, {context or 'within'} context" if name in SPEAKERS else name
    print(
        f"ABX error, {label}, {distance}: {100 * found.error_rate:.2f} %  "
        f"({found.n_cells} cells, {found.n_triplets} triplets of {found.n_items} tokens)"
    )


def _tell_oddities(items: Items, tokens: Tokens) -> None:
    from gslm.eval.abx_items import more

    if tokens.n_empty:
        print(f"left out: {tokens.n_empty} tokens that hold no frame's centre")
    if tokens.n_shortened:
        print(f"cut: {tokens.n_shortened} tokens whose file ends a frame before they do")
    if items.repeated:
        print(
            f"note: {items.path}:{items.repeated[0]} says what a line before it does"
            f"{more(items.repeated, 'such line')}; a token beside its own copy lowers the error"
        )
