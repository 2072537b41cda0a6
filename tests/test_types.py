"""De-duplication and fingerprints."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslm.errors import UserError
from gslm.types import Fingerprint, Units, deduplicate

FINGERPRINT = Fingerprint("mfcc", "", 0, 50.0, "none", "0123456789abcdef", 8)
SEQUENCES = st.lists(st.integers(0, 3), max_size=60)


@given(SEQUENCES)
def test_deduplication_equals_groupby(sequence):
    ids, durations = deduplicate(np.array(sequence, dtype=np.int32))
    runs = [(unit, len(list(run))) for unit, run in groupby(sequence)]
    assert list(zip(ids.tolist(), durations.tolist(), strict=True)) == runs
    assert ids.dtype == durations.dtype == np.int32


@given(SEQUENCES)
def test_expansion_undoes_deduplication(sequence):
    units = Units(np.array(sequence, dtype=np.int32), None, FINGERPRINT)
    merged = units.deduplicated()
    assert merged.expanded().ids.tolist() == sequence
    assert merged.n_frames == units.n_frames == len(sequence)
    assert merged.expanded().durations is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=30))
def test_durations_of_merged_runs_add_up(runs):
    ids = np.array([unit for unit, _ in runs], dtype=np.int32)
    durations = np.array([n for _, n in runs], dtype=np.int32)
    frames = [unit for unit, n in runs for _ in range(n)]
    merged = Units(ids, durations, FINGERPRINT).deduplicated()
    assert merged.expanded().ids.tolist() == frames
    assert merged.deduplicated().ids.tolist() == merged.ids.tolist()
    assert not np.any(merged.ids[1:] == merged.ids[:-1])


def test_fingerprints_survive_json_and_differ_in_every_field():
    assert Fingerprint.from_json(FINGERPRINT.to_json(), "here") == FINGERPRINT
    for name, value in {"layer": 3, "vocabulary_size": 9, "centroids_hash": "f" * 16}.items():
        other = replace(FINGERPRINT, **{name: value})
        with pytest.raises(UserError) as error:
            FINGERPRINT.require_same(other, "the uLM", "the vocoder")
        text = str(error.value)
        assert "\n" not in text
        assert "the uLM" in text
        assert "the vocoder" in text
        assert str(FINGERPRINT) in text
        assert str(other) in text


@pytest.mark.parametrize("damaged", [None, [], {}, {"encoder": "mfcc"}, "text"])
def test_damaged_fingerprints_are_one_line(damaged):
    with pytest.raises(UserError, match=r"config\.json"):
        Fingerprint.from_json(damaged, "config.json")
