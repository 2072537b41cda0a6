"""How far units tell phones: joint counts of frames, purity and mutual information.

Phone purity, cluster purity and PNMI are those of HuBERT (Hsu et al. 2021, section IV-C,
https://arxiv.org/abs/2106.07447).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gslm.audio import SAMPLE_RATE, clip_id, stream_audio
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.types import Units
from gslm.units.phone_labels import SILENCE, PhoneLabels, frame_phones
from gslm.units.recordings import Skipped, clip_groups, reason_without_path
from gslm.units.unit_encoder import UnitEncoder


class UnitClip(NamedTuple):
    """A recording as units."""

    id: str
    """Path below the audio folder."""
    units: Units
    """Its units, with durations or without."""
    seconds: float
    """Its length."""


@dataclass(frozen=True)
class PhoneCounts:
    """Frames by unit and by phone."""

    phones: tuple[str, ...]
    """Names of the phones (P,)."""
    counts: NDArray[np.int64]
    """Frames of each unit and phone, (K, P)."""
    n_unlabelled: int = 0
    """Frames that have no label, counted nowhere else."""

    def __add__(self, other: PhoneCounts) -> PhoneCounts:
        assert self.phones == other.phones
        return PhoneCounts(
            self.phones, self.counts + other.counts, self.n_unlabelled + other.n_unlabelled
        )

    @property
    def n_frames(self) -> int:
        """Frames that have a label."""
        return int(self.counts.sum())

    @property
    def n_phones(self) -> int:
        """Phones that occur."""
        return int(self.counts.any(0).sum())

    @property
    def n_units(self) -> int:
        """Units that occur."""
        return int(self.counts.any(1).sum())

    @property
    def phone_purity(self) -> float:
        """Share of frames right where each unit stands for its most frequent phone."""
        return float(self.counts.max(1).sum() / self.counts.sum())

    @property
    def cluster_purity(self) -> float:
        """Share of frames right where each phone stands for its most frequent unit."""
        return float(self.counts.max(0).sum() / self.counts.sum())

    @property
    def phone_entropy(self) -> float:
        """Entropy of a frame's phone, in bits."""
        return entropy_bits(self.counts.sum(0))

    @property
    def mutual_information(self) -> float:
        """Bits that a frame's unit tells of its phone."""
        shares = self.counts / self.counts.sum()
        # A cell that occurs has a unit and a phone that do: nothing is divided by 0.
        expected = shares.sum(1, keepdims=True) * shares.sum(0)
        seen = shares > 0
        return float((shares[seen] * np.log2(shares[seen] / expected[seen])).sum())

    @property
    def pnmi(self) -> float:
        """Share of the phones' entropy that the units tell, 0 to 1; NaN for one phone alone."""
        entropy = self.phone_entropy
        return self.mutual_information / entropy if entropy else float("nan")

    def without(self, phone: str) -> PhoneCounts:
        """The same without the frames of a phone, which count as unlabelled."""
        kept = [name != phone for name in self.phones]
        names = tuple(name for name in self.phones if name != phone)
        left = self.counts[:, kept]
        removed = int(self.counts.sum() - left.sum())
        return PhoneCounts(names, left, self.n_unlabelled + removed)


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Entropy of one draw in bits; counts (n,), which may be 0 but not all of them."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


class Group(NamedTuple):
    """Clips that are counted together."""

    part: str
    """Topmost folder of their ids; empty where there is none."""
    speaker: str
    """Their speaker by the label file; empty where unknown."""


@dataclass(frozen=True)
class Agreement:
    """Units and phones of a set of recordings."""

    groups: dict[Group, PhoneCounts]
    """Counts by topmost folder and speaker, sorted."""
    n_clips: int
    """Clips that have both units and labels."""
    n_without_units: int
    """Labelled clips that have no units."""
    n_without_labels: int
    """Clips with units that are not labelled."""

    @property
    def all(self) -> PhoneCounts:
        """All groups together."""
        return _total(self.groups.values())

    def by_speaker(self) -> dict[str, PhoneCounts]:
        """Counts by speaker, sorted."""
        return self._by(1)

    def by_part(self) -> dict[str, PhoneCounts]:
        """Counts by topmost folder, sorted."""
        return self._by(0)

    def _by(self, column: int) -> dict[str, PhoneCounts]:
        names = sorted({group[column] for group in self.groups})
        return {
            name: _total(c for group, c in self.groups.items() if group[column] == name)
            for name in names
        }


def measure_agreement(
    clips: Iterable[UnitClip], labels: PhoneLabels, *, silence: bool = True
) -> Agreement:
    """Count frames by unit and phone, a frame belonging to the phone at its centre.

    clips: of one fingerprint, at any frame rate. silence: count the frames of silence as well.
    Raises `UserError` where no clip is labelled, labels end past a clip's end, or there is one
    phone alone.
    """
    groups: dict[Group, PhoneCounts] = {}
    seen: dict[str, str] = {}
    n_without_labels, unlike = 0, ""
    for clip in clips:
        if clip.id not in labels:
            n_without_labels += 1
            unlike = unlike or clip.id
            continue
        key = clip_id(clip.id)
        if key in seen:
            raise UserError(
                f"{labels.path}: labels {key}, but there are units of {seen[key]} and {clip.id}; "
                "keep one of them"
            )
        seen[key] = clip.id
        group, counts = _count(clip, labels)
        groups[group] = groups[group] + counts if group in groups else counts
    if not groups:
        raise UserError(
            f"{labels.path}: none of its clips has units; an id is a path below the audio folder, "
            f"here {labels.ids[0]} in the labels and {unlike or 'nothing'} in the audio"
        )
    if not silence:
        groups = {group: counts.without(SILENCE) for group, counts in groups.items()}
    counted = {group: counts for group, counts in sorted(groups.items()) if counts.n_frames}
    n_phones = _total(counted.values()).n_phones if counted else 0
    if n_phones < 2:
        raise UserError(
            f"{labels.path}: the frames that have units show {n_phones} phones; there must be two "
            "or more"
        )
    return Agreement(counted, len(seen), len(labels.ids) - len(seen), n_without_labels)


def corpus_clips(corpus: Corpus) -> Iterator[UnitClip]:
    """The recordings of a corpus, as they lie on disk; `UserError` where they were trimmed."""
    corpus.require_times()
    for row in corpus.rows():
        yield UnitClip(row.id, corpus.units(row), row.n_samples / SAMPLE_RATE)


def encoded_clips(
    root: str | Path, ids: Sequence[str], encoder: UnitEncoder, skipped: Skipped
) -> Iterator[UnitClip]:
    """Encode recordings below `root` one group after the other; bad ones go to `skipped`."""
    for group in clip_groups(root, ids, skipped):
        waveforms = [clip.waveform for clip in group if clip.waveform is not None]
        if waveforms:
            for clip, waveform, units in zip(
                group, waveforms, encoder.encode_many(waveforms), strict=True
            ):
                yield UnitClip(clip.id, units, len(waveform) / SAMPLE_RATE)
            continue
        long = group[0]
        try:
            units = encoder.encode_file(long.path)
            n_samples = sum(len(block) for block in stream_audio(long.path))
        except UserError as error:
            skipped.append((long.id, reason_without_path(error, root, long.id)))
            continue
        yield UnitClip(long.id, units, n_samples / SAMPLE_RATE)


def _count(clip: UnitClip, labels: PhoneLabels) -> tuple[Group, PhoneCounts]:
    labelled = labels.clip(clip.id)
    labels.require_inside(labelled, clip.seconds)
    fingerprint = clip.units.fingerprint
    units = clip.units.expanded().ids
    phones = frame_phones(labelled, len(units), fingerprint.frame_rate, labels.phones)
    known = phones >= 0
    shape = (fingerprint.vocabulary_size, len(labels.phones))
    cells = units[known].astype(np.int64) * shape[1] + phones[known]
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    part = clip.id.split("/")[0] if "/" in clip.id else ""
    return Group(part, labelled.speaker), PhoneCounts(
        tuple(labels.phones), counts, int((~known).sum())
    )


def _total(counts: Iterable[PhoneCounts]) -> PhoneCounts:
    first, *others = counts
    total = first
    for each in others:
        total = total + each
    return total
