"""How far units tell phones: joint counts of frames, purity and mutual information.

Phone purity, cluster purity and PNMI are those of HuBERT (Hsu et al. 2021, section IV-C,
https://arxiv.org/abs/2106.07447).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gslm.audio import SAMPLE_RATE, Waveform, clip_id
from gslm.corpus import Corpus
from gslm.errors import UserError
from gslm.types import Units
from gslm.units.phone_labels import SILENCE, PhoneLabels, frame_phones
from gslm.units.recordings import Clip, Skipped, clip_groups, reason_without_path
from gslm.units.unit_encoder import UnitEncoder

_MOST_WAITING = 2_000_000
"""Frames that wait to be counted, 16 MB."""


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


class GroupCounts(NamedTuple):
    """Frames of a group by unit and phone, without those pairs that never occur."""

    pairs: NDArray[np.int64]
    """Unit times P plus phone, (c,), sorted."""
    frames: NDArray[np.int64]
    """Frames of each pair, (c,)."""
    n_unlabelled: int
    """Frames that have no label."""


@dataclass(frozen=True)
class Agreement:
    """Units and phones of a set of recordings."""

    phones: tuple[str, ...]
    """Names of the phones (P,)."""
    vocabulary_size: int
    """Number of units, K."""
    groups: dict[Group, GroupCounts]
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
        return self._table(self.groups.values())

    def by_speaker(self) -> Mapping[str, PhoneCounts]:
        """Counts by speaker, sorted; each table is made when it is asked for."""
        return _Tables(self, "speaker")

    def by_part(self) -> Mapping[str, PhoneCounts]:
        """Counts by topmost folder, sorted; each table is made when it is asked for."""
        return _Tables(self, "part")

    def _table(self, groups: Iterable[GroupCounts]) -> PhoneCounts:
        counts = np.zeros((self.vocabulary_size, len(self.phones)), np.int64)
        n_unlabelled = 0
        for group in groups:
            counts.flat[group.pairs] += group.frames
            n_unlabelled += group.n_unlabelled
        return PhoneCounts(self.phones, counts, n_unlabelled)


class _Tables(Mapping[str, PhoneCounts]):
    """Counts by one field of the groups."""

    def __init__(self, agreement: Agreement, field: str) -> None:
        self._agreement, self._field = agreement, field

    def __getitem__(self, name: str) -> PhoneCounts:
        groups = self._agreement.groups
        wanted = [c for group, c in groups.items() if getattr(group, self._field) == name]
        if not wanted:
            raise KeyError(name)
        return self._agreement._table(wanted)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({getattr(group, self._field) for group in self._agreement.groups}))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def measure_agreement(
    clips: Iterable[UnitClip], labels: PhoneLabels, *, silence: bool = True
) -> Agreement:
    """Count frames by unit and phone, a frame belonging to the phone at its centre.

    clips: of one fingerprint, at any frame rate. silence: count the frames of silence as well.
    Raises `UserError` where no clip is labelled, labels end past a clip's end, or there is one
    phone alone.
    """
    counter = _Counter(labels, silence)
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
        counter.add(clip)
    if not seen:
        raise UserError(
            f"{labels.path}: none of its clips has units; an id is a path below the audio folder, "
            f"here {labels.ids[0]} in the labels and {unlike or 'nothing'} in the audio"
        )
    groups = {group: counts for group, counts in counter.groups() if len(counts.pairs)}
    n_phones = len({i for c in groups.values() for i in np.unique(c.pairs % len(labels.phones))})
    if n_phones < 2:
        raise UserError(
            f"{labels.path}: the frames that have units show {n_phones} phones; there must be two "
            "or more"
        )
    return Agreement(
        tuple(labels.phones), counter.vocabulary_size, groups,
        len(seen), len(labels.ids) - len(seen), n_without_labels,
    )  # fmt: skip


class _Counter:
    """Frames by group, unit and phone; only what occurs takes memory."""

    def __init__(self, labels: PhoneLabels, silence: bool) -> None:
        self.labels = labels
        self.vocabulary_size = 0
        self._left_out = SILENCE if not silence else None
        self._numbers: dict[Group, int] = {}
        self._n_unlabelled: list[int] = []
        self._waiting: list[NDArray[np.int64]] = []
        self._n_waiting = 0
        self._codes = np.zeros(0, np.int64)
        self._frames = np.zeros(0, np.int64)

    def add(self, clip: UnitClip) -> None:
        labels, fingerprint = self.labels, clip.units.fingerprint
        labelled = labels.clip(clip.id)
        labels.require_inside(labelled, clip.seconds)
        self.vocabulary_size = fingerprint.vocabulary_size
        units = clip.units.expanded().ids
        phones = frame_phones(labelled, len(units), fingerprint.frame_rate, labels.phones)
        if self._left_out in labels.phones:
            phones[phones == labels.phones.index(self._left_out)] = -1
        known = phones >= 0
        part = clip.id.split("/")[0] if "/" in clip.id else ""
        number = self._numbers.setdefault(Group(part, labelled.speaker), len(self._numbers))
        if number == len(self._n_unlabelled):
            self._n_unlabelled.append(0)
        self._n_unlabelled[number] += int((~known).sum())
        rows = number * self.vocabulary_size + units[known].astype(np.int64)
        self._waiting.append(rows * len(labels.phones) + phones[known])
        self._n_waiting += int(known.sum())
        if self._n_waiting > _MOST_WAITING:
            self._merge()

    def groups(self) -> Iterator[tuple[Group, GroupCounts]]:
        """What was counted, in the order of the groups."""
        self._merge()
        size = self.vocabulary_size * len(self.labels.phones)
        for group, number in sorted(self._numbers.items()):
            first, end = np.searchsorted(self._codes, [number * size, (number + 1) * size])
            pairs = self._codes[first:end] - number * size
            yield group, GroupCounts(pairs, self._frames[first:end], self._n_unlabelled[number])

    def _merge(self) -> None:
        new = np.concatenate([self._codes, *self._waiting])
        ones = np.ones(self._n_waiting, np.int64)
        self._codes, which = np.unique(new, return_inverse=True)
        frames = np.bincount(which, np.concatenate([self._frames, ones]), len(self._codes))
        self._frames = frames.astype(np.int64)
        self._waiting, self._n_waiting = [], 0


def corpus_clips(corpus: Corpus) -> Iterator[UnitClip]:
    """The recordings of a corpus, as they lie on disk; `UserError` where they lack their times."""
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
        long = _Counted(group[0])
        try:
            units = encoder.encode_blocks(long.blocks)
        except UserError as error:
            skipped.append((group[0].id, reason_without_path(error, root, group[0].id)))
            continue
        yield UnitClip(group[0].id, units, long.n_samples / SAMPLE_RATE)


class _Counted:
    """A long recording whose samples are counted as it is read."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.n_samples = 0

    def blocks(self) -> Iterator[Waveform]:
        self.n_samples = 0  # it may be read several times
        for block in self.clip.blocks():
            self.n_samples += len(block)
            yield block
