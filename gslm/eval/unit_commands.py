"""`gslm eval pnmi`: how much of the phones units tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from gslm.corpus import Corpus


def pnmi_command(
    phones: Path,
    audio_or_corpus: Path,
    /,
    *,
    units: str | None = None,
    silence: bool = True,
    table: Annotated[Path | None, Parameter(name=["--table", "-o"])] = None,
) -> None:
    """How much of the phones units tell: PNMI and purity, by set and by speaker.

    Example: `gslm eval pnmi abx-sets/synthetic/phones.tsv abx-sets/synthetic/audio
    --units my-units`

    Parameters
    ----------
    phones
        Tab-separated labels with the columns id, onset, offset, phone and speaker.
    audio_or_corpus
        The folder of audio that was labelled, or a corpus that was encoded from it.
    units
        Folder of units, bundle, or Hub name to encode the audio with.
    silence
        Count the frames of silence as well.
    table
        Write one row a set and speaker: TSV, or JSON with a summary where the name ends in
        `.json`.
    """
    import gslm.units
    from gslm.corpus import Corpus
    from gslm.errors import UserError
    from gslm.eval.pnmi import score_audio, score_corpus
    from gslm.eval.report import require_writable_table, write_table
    from gslm.units.phone_labels import PhoneLabels

    require_writable_table(table)
    labels = PhoneLabels.open(phones)
    if Corpus.is_at(audio_or_corpus):
        corpus = corpus_made_by(units, audio_or_corpus)
        fingerprint = corpus.fingerprint
        report = score_corpus(corpus, labels, silence=silence)
    elif units is None:
        raise UserError(f"{audio_or_corpus}: is no corpus; give --units to encode its audio with")
    else:
        encoder = gslm.units.load(units)
        fingerprint = encoder.fingerprint
        report = score_audio(audio_or_corpus, labels, encoder, silence=silence)
    print(f"units  {fingerprint}")
    width = max(len(row.clips) for row in report.rows)
    print(f"{'clips':{width}}   PNMI  phone purity  cluster purity  units  phones   frames")
    for row in report.rows:
        print(
            f"{row.clips:{width}}  {row.pnmi:5.3f}  {row.phone_purity:12.3f}  "
            f"{row.cluster_purity:14.3f}  {row.units:5d}  {row.phones:6d}  {row.frames:7d}"
        )
    found = report.agreement
    left_out = [
        (found.n_without_units, "labelled clips without units"),
        (found.n_without_labels, "clips without labels"),
        (found.all.n_unlabelled, "frames without a phone"),
    ]
    for n, what in left_out:
        if n:
            print(f"left out: {n} {what}")
    for id_, reason in report.skipped:
        print(f"skipped {id_}: {reason}")
    if table:
        summary = {"phones": str(phones), "units": fingerprint.to_json(), "silence": silence}
        write_table(table, report.rows, summary)
        print(f"table: {table}")


def corpus_made_by(units: str | None, folder: Path) -> Corpus:
    """The corpus in `folder`; `UserError` where `units`, if they are given, did not make it."""
    import gslm.units
    from gslm.corpus import Corpus

    corpus = Corpus.open(folder)
    if units is not None:
        corpus.fingerprint.require_same(gslm.units.load(units).fingerprint, str(folder), units)
    return corpus
