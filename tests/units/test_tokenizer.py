"""Unit BPE: lossless for every sequence, deterministic, honest about what data can fill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gslm.errors import UserError
from gslm.units.tokenizer import UnitTokenizer


def _sequences(n_units: int, n: int = 60) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [(random.zipf(1.4, 300) % n_units).astype(np.int32) for _ in range(n)]


@pytest.fixture(scope="module", params=[(50, 300), (7000, 7100)])
def tokenizer(request):
    n_units, vocabulary_size = request.param
    # The last units never occur in training.
    return UnitTokenizer.fit_bpe(_sequences(n_units - 5), vocabulary_size, n_units)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_sequence_comes_back(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.n_units - 1), max_size=200))
    tokens = tokenizer.encode(np.array(ids, dtype=np.int32))
    assert tokens.dtype == np.int32
    assert len(tokens) <= len(ids)
    assert tokenizer.decode(tokens).tolist() == ids
    assert all(0 <= token < tokenizer.vocabulary_size for token in tokens)


def test_bpe_shortens_and_has_the_size_asked_for():
    sequences = _sequences(50)
    tokenizer = UnitTokenizer.fit_bpe(sequences, 300, 50)
    assert tokenizer.vocabulary_size == 300
    assert len(tokenizer.encode(sequences[0])) < 0.8 * len(sequences[0])


def test_long_sequences_are_learned_from_too():
    pattern = np.tile(np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype=np.int32), 20_000)
    tokenizer = UnitTokenizer.fit_bpe([pattern], 13, 10)
    assert len(tokenizer.encode(pattern)) < 0.7 * len(pattern)
    assert np.array_equal(tokenizer.decode(tokenizer.encode(pattern)), pattern)


def test_saved_loaded_and_fitted_again_it_is_the_same(tmp_path):
    first = UnitTokenizer.fit_bpe(_sequences(50), 200, 50, tmp_path / "a")
    UnitTokenizer.fit_bpe(_sequences(50), 200, 50, tmp_path / "b")
    for name in ("config.json", "bpe.model"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = UnitTokenizer.load(tmp_path / "a")
    ids = _sequences(50)[1]
    assert np.array_equal(loaded.encode(ids), first.encode(ids))


def test_identity_keeps_units(tmp_path):
    UnitTokenizer.identity(20).save(tmp_path)
    tokenizer = UnitTokenizer.load(tmp_path)
    ids = np.arange(20, dtype=np.int32)
    assert tokenizer.vocabulary_size == 20
    assert np.array_equal(tokenizer.encode(ids), ids)


def test_a_vocabulary_that_cannot_be_filled_names_the_largest_that_can():
    ids = [np.array([0, 1, 0, 1, 2], dtype=np.int32)]
    with pytest.raises(UserError, match="at most") as error:
        UnitTokenizer.fit_bpe(ids, 500, 10)
    largest = int(str(error.value).split("at most ")[1].split()[0])
    assert UnitTokenizer.fit_bpe(ids, largest, 10).vocabulary_size == largest
    with pytest.raises(UserError):
        UnitTokenizer.fit_bpe(ids, largest + 1, 10)
    with pytest.raises(UserError, match="cannot hold"):
        UnitTokenizer.fit_bpe(ids, 9, 10)


def test_foreign_units_and_tokens_are_errors(tmp_path):
    tokenizer = UnitTokenizer.identity(10)
    with pytest.raises(UserError, match="0 to 9"):
        tokenizer.encode(np.array([10], dtype=np.int32))
    with pytest.raises(UserError, match="0 to 9"):
        tokenizer.decode(np.array([-1]))
    UnitTokenizer.fit_bpe(_sequences(50), 200, 50, tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        UnitTokenizer.load(tmp_path)
