"""PNMI: how much of the phones units tell, for all clips, each set and each speaker.

PNMI is the mutual information of a frame's phone and unit over the phone's entropy, with purity
beside it; see `gslm.units.phone_agreement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gslm.audio import find_audio
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.units import UnitEncoder
from gslm.units.phone_agreement import (
    Agreement,
    PhoneCounts,
    corpus_clips,
    encoded_clips,
    measure_agreement,
)
from gslm.units.phone_labels import PhoneLabels
from gslm.units.recordings import Skipped


@dataclass(frozen=True)
class PnmiRow:
    """The figures of some of the clips."""

    clips: str
    """Which: `all`, `set NAME` or `speaker NAME`."""
    frames: int
    """Frames that have a phone."""
    phones: int
    """Phones that occur."""
    units: int
    """Units that occur."""
    pnmi: float
    """Share of the phones' entropy that units tell."""
    phone_purity: float
    """Share of frames whose phone is the most frequent one of their unit."""
    cluster_purity: float
    """Share of frames whose unit is the most frequent one of their phone."""
    phone_entropy: float
    """Entropy of a frame's phone in bits."""


@dataclass(frozen=True)
class PnmiReport:
    """What `score_corpus` and `score_audio` found."""

    agreement: Agreement
    """The counts behind the figures."""
    skipped: Skipped
    """Recordings that could not be read, with the reason."""

    @property
    def rows(self) -> list[PnmiRow]:
        """All clips, then sets and speakers where there are several.

        A set is what lies in one topmost folder. Folders that hold a speaker each are told as
        speakers alone.
        """
        rows = [_row("all", self.agreement.all)]
        parts, speakers = self.agreement.by_part(), self.agreement.by_speaker()
        a_speaker_each = len(parts) == len(speakers) == len(self.agreement.groups)
        if len(parts) > 1 and not a_speaker_each:
            rows += [_row(f"set {name or '.'}", counts) for name, counts in parts.items()]
        if len(speakers) > 1:
            rows += [_row(f"speaker {name or '-'}", counts) for name, counts in speakers.items()]
        return rows


def score_corpus(corpus: Corpus, labels: PhoneLabels, *, silence: bool = True) -> PnmiReport:
    """Hold a corpus of units to phone labels; see `measure_agreement` for what may go wrong.

    silence: count the frames of silence as well, as HuBERT's authors do.
    """
    clips = tqdm(corpus_clips(corpus), total=corpus.n_rows, desc="counting", unit="clip")
    return PnmiReport(measure_agreement(clips, labels, silence=silence), [])


def score_audio(
    root: Path, labels: PhoneLabels, encoder: UnitEncoder, *, silence: bool = True
) -> PnmiReport:
    """Encode the labelled recordings below `root` and hold their units to the labels.

    Raises `UserError` as `measure_agreement` does, and where no recording can be read.
    """
    found = find_audio(root)
    ids = [id_ for id_ in found if id_ in labels]
    if not ids:
        raise UserError(
            f"{labels.path}: none of its clips is in {root}; an id is a path below the audio "
            f"folder, here {labels.ids[0]} in the labels and {found[0]} in the folder"
        )
    skipped: Skipped = []
    clips = tqdm(
        encoded_clips(root, ids, encoder, skipped), total=len(ids), desc="encoding", unit="clip"
    )
    try:
        agreement = measure_agreement(clips, labels, silence=silence)
    except UserError:
        if len(skipped) == len(ids):
            id_, reason = skipped[0]
            raise UserError(f"{root}: no readable recording; {id_}: {reason}") from None
        raise
    return PnmiReport(agreement, skipped)


def _row(name: str, counts: PhoneCounts) -> PnmiRow:
    return PnmiRow(
        name,
        counts.n_frames,
        counts.n_phones,
        counts.n_units,
        counts.pnmi,
        counts.phone_purity,
        counts.cluster_purity,
        counts.phone_entropy,
    )
