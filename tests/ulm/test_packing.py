"""Packing: nothing is lost, nothing is padding, and a batch is a function of its number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gslm.errors import UserError
from gslm.ulm.model import BOS, EOS, N_SPECIAL, PAD
from gslm.ulm.packing import Packer, check_pieces

lists = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=12)


def arrays(sequences: list[list[int]]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


@settings(deadline=None, max_examples=60)
@given(lists, st.integers(2, 40), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_holds_every_document_once_and_no_padding(
    sequences: list[list[int]], row_length: int, rows: int, seed: int
) -> None:
    packer = Packer(arrays(sequences), row_length, rows, seed)
    n_epoch = sum(len(sequence) + 1 for sequence in sequences)
    n_batches = 2 * n_epoch // (rows * row_length) + 1
    batches = [packer.batch(index) for index in range(n_batches)]
    inputs = torch.cat([batch.inputs.flatten() for batch in batches])[: 2 * n_epoch]
    targets = torch.cat([batch.targets.flatten() for batch in batches])[: 2 * n_epoch]
    assert not (inputs == PAD).any()
    assert not (targets == PAD).any()
    for epoch in (slice(0, n_epoch), slice(n_epoch, None)):
        ends = torch.nonzero(targets[epoch] == EOS).flatten() + 1
        documents = torch.tensor_split(targets[epoch], ends)[:-1]
        seen = sorted((document[:-1] - N_SPECIAL).tolist() for document in documents)
        assert seen == sorted(sequences)
        starts = torch.tensor_split(inputs[epoch], ends)[:-1]
        for start, document in zip(starts, documents, strict=True):
            assert start.tolist() == [BOS, *document[:-1].tolist()]


@settings(deadline=None, max_examples=30)
@given(lists, st.integers(2, 40))
def test_documents_of_a_row_never_reach_into_each_other(
    sequences: list[list[int]], row_length: int
) -> None:
    batch = Packer(arrays(sequences), row_length, 2, 0).batch(3)
    assert sum(batch.documents.lengths) == 2 * row_length
    parts = batch.inputs.flatten().split(list(batch.documents.lengths))
    for part in parts:
        assert not (part[1:] == BOS).any()


def test_a_batch_is_a_pure_function_of_seed_and_index() -> None:
    sequences = [np.arange(n, dtype=np.int32) for n in range(1, 30)]
    forward, fresh = (Packer(sequences, 64, 2, seed=3) for _ in range(2))
    expected = [forward.batch(index) for index in range(12)]
    for index in (11, 0, 7, 7):
        batch = fresh.batch(index)
        assert torch.equal(batch.inputs, expected[index].inputs)
        assert batch.documents.lengths == expected[index].documents.lengths
    other = Packer(sequences, 64, 2, seed=4).batch(0)
    assert not torch.equal(other.inputs, expected[0].inputs)


@pytest.mark.parametrize("bad", [[], [[]], [[3], [10]], [[-1]]])
def test_bad_sequences_are_one_line(bad: list[list[int]]) -> None:
    with pytest.raises(UserError) as error:
        check_pieces(arrays(bad), 10, "corpus")
    assert "\n" not in str(error.value)
    assert "corpus" in str(error.value)
