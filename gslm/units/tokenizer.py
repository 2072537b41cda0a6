"""Unit BPE: frequent runs of units become one token (sentencepiece underneath).

Each unit is written as one private-use character, so that sentencepiece sees text without
spaces, cases or scripts. Every unit is a piece of its own: any unit sequence can be encoded, and
decoding gives it back exactly.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslm.bundle import config_from_json, read_json, write_atomically, write_json
from gslm.errors import UserError
from gslm.types import Fingerprint

_PLANES = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))  # Unicode's private use
MAX_UNITS = sum(last - first + 1 for first, last in _PLANES)
"""Largest number of units that private-use characters can stand for."""

_SENTENCE_UNITS = 1000  # sentencepiece drops sentences above a limit in bytes
_MODEL_NAME = "bpe.model"

UnitIds = NDArray[np.int32]


@dataclass(frozen=True)
class _TokenizerConfig:
    """What a tokenizer folder's config.json holds."""

    kind: str
    """`identity` or `bpe`."""
    n_units: int
    """Number of units."""
    vocabulary_size: int
    """Number of tokens."""
    fingerprint: dict[str, Any] | None
    """Fingerprint of the units, or None where it was not given."""


class UnitTokenizer:
    """Unit ids to token ids and back, without loss; tokens count from 0."""

    def __init__(
        self, n_units: int, model: bytes | None = None, fingerprint: Fingerprint | None = None
    ) -> None:
        """Make a tokenizer for units 0 to n_units - 1; without a `model` a token is a unit.

        model: a serialised sentencepiece model over the units' characters.
        """
        if not 1 <= n_units <= MAX_UNITS:
            raise UserError(f"tokenizer: {n_units} units; between 1 and {MAX_UNITS} are possible")
        self.n_units = n_units
        self.fingerprint = fingerprint
        self._model = model
        self._characters = np.array([chr(code) for code in _codes(n_units)])
        self._pieces = [np.array([unit], dtype=np.int32) for unit in range(n_units)]
        if model is not None:
            self._read_model(model)

    @classmethod
    def identity(cls, n_units: int, fingerprint: Fingerprint | None = None) -> UnitTokenizer:
        """The tokenizer whose tokens are the units."""
        return cls(n_units, None, fingerprint)

    @classmethod
    def fit_bpe(
        cls,
        sequences: Iterable[UnitIds],
        vocabulary_size: int,
        n_units: int,
        folder: str | Path | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> UnitTokenizer:
        """Learn merges from unit sequences; the same sequences give the same tokenizer.

        sequences: int arrays (n,). vocabulary_size: tokens in all, the units included. folder:
        where to save, if given. Raises `UserError` for a vocabulary below the number of units,
        or above what the sequences can fill.
        """
        if vocabulary_size < n_units:
            raise UserError(
                f"BPE: a vocabulary of {vocabulary_size} cannot hold {n_units} units; "
                f"choose at least {n_units}"
            )
        tokenizer = cls(n_units, None, fingerprint)
        if vocabulary_size > n_units:
            model = _train(tokenizer, sequences, vocabulary_size)
            tokenizer = cls(n_units, model, fingerprint)
        if folder is not None:
            tokenizer.save(folder)
        return tokenizer

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._pieces)

    def encode(self, ids: UnitIds) -> UnitIds:
        """Tokens (m,) of units (n,), int32, m <= n."""
        ids = self._checked(ids)
        if self._model is None or len(ids) == 0:
            return ids.copy()
        # Piece 0 is sentencepiece's <unk>, which never occurs.
        tokens = self._processor.encode(self._text(ids))
        return np.asarray(tokens, dtype=np.int32) - 1

    def decode(self, tokens: UnitIds) -> UnitIds:
        """Units (n,) of tokens (m,), int32."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if len(tokens) == 0:
            return np.zeros(0, np.int32)
        if tokens.min() < 0 or tokens.max() >= self.vocabulary_size:
            raise UserError(
                f"tokens from {tokens.min()} to {tokens.max()}: the tokenizer knows 0 to "
                f"{self.vocabulary_size - 1}; use the tokenizer that made them"
            )
        return np.concatenate([self._pieces[token] for token in tokens])

    def piece(self, token: int) -> UnitIds:
        """Units (n,) that one token stands for."""
        return self._pieces[token]

    def save(self, folder: str | Path, half: bool = False) -> None:  # noqa: ARG002
        """Write config.json and, for BPE, bpe.model; `half` changes nothing here."""
        folder = Path(folder)
        if (model := self._model) is not None:
            write_atomically(folder / _MODEL_NAME, lambda path: _write_bytes(path, model))
        config = _TokenizerConfig(
            kind="identity" if self._model is None else "bpe",
            n_units=self.n_units,
            vocabulary_size=self.vocabulary_size,
            fingerprint=None if self.fingerprint is None else self.fingerprint.to_json(),
        )
        write_json(folder / "config.json", asdict(config))

    @classmethod
    def load(cls, folder: str | Path) -> UnitTokenizer:
        """Read what `save` wrote."""
        folder = Path(folder)
        where = folder / "config.json"
        config = config_from_json(_TokenizerConfig, read_json(where), where)
        fingerprint = None
        if config.fingerprint is not None:
            fingerprint = Fingerprint.from_json(config.fingerprint, str(where))
        model = None
        if config.kind == "bpe":
            try:
                model = (folder / _MODEL_NAME).read_bytes()
            except OSError as error:
                raise UserError(f"{folder / _MODEL_NAME}: cannot be read ({error})") from None
        tokenizer = cls(config.n_units, model, fingerprint)
        if tokenizer.vocabulary_size != config.vocabulary_size:
            raise UserError(f"{folder}: config.json and {_MODEL_NAME} differ in vocabulary size")
        return tokenizer

    def _text(self, ids: UnitIds) -> str:
        return "".join(self._characters[ids])

    def _checked(self, ids: UnitIds) -> UnitIds:
        ids = np.asarray(ids, dtype=np.int32)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.n_units):
            raise UserError(
                f"units from {ids.min()} to {ids.max()}: the tokenizer knows 0 to "
                f"{self.n_units - 1}; use the tokenizer of these units"
            )
        return ids

    def _read_model(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            unit_of = {character: unit for unit, character in enumerate(self._characters)}
            pieces = map(self._processor.id_to_piece, range(1, self._processor.vocab_size()))
            self._pieces = [
                np.array([unit_of[character] for character in piece], dtype=np.int32)
                for piece in pieces
            ]
        except (RuntimeError, KeyError):
            raise UserError(
                f"tokenizer: the BPE model is damaged or not made for {self.n_units} units"
            ) from None
        singles = {int(piece[0]) for piece in self._pieces if len(piece) == 1}
        if len(singles) != self.n_units:
            raise UserError(
                f"tokenizer: the BPE model lacks {self.n_units - len(singles)} of "
                f"{self.n_units} units; fit it again"
            )


def _codes(n_units: int) -> list[int]:
    codes: list[int] = []
    for first, last in _PLANES:
        codes += range(first, min(last + 1, first + n_units - len(codes)))
    return codes


def _train(tokenizer: UnitTokenizer, sequences: Iterable[UnitIds], vocabulary_size: int) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(tokenizer, sequences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size + 1,  # <unk>, which sentencepiece insists on
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentence_length=8 * _SENTENCE_UNITS,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if "value <=" not in reason:  # not sentencepiece's complaint about the size
            raise
        raise UserError(
            f"BPE: these sequences cannot fill a vocabulary of {vocabulary_size} "
            f"({tokenizer.n_units} units and {vocabulary_size - tokenizer.n_units} merges); "
            f"choose at most {_largest(reason) - 1} or give more audio"
        ) from None
    return model.getvalue()


def _sentences(tokenizer: UnitTokenizer, sequences: Iterable[UnitIds]) -> Iterator[str]:
    """Sequences as text, long ones in pieces, after a line for each unit.

    A line of one character adds nothing to merge, but makes the unit part of the alphabet even
    where no sequence has it.
    """
    yield from tokenizer._characters
    for sequence in sequences:
        ids = tokenizer._checked(sequence)
        for start in range(0, len(ids), _SENTENCE_UNITS):
            yield tokenizer._text(ids[start : start + _SENTENCE_UNITS])


def _largest(complaint: str) -> int:
    """The largest vocabulary that sentencepiece names: `… a value <= 72.`"""
    return int(complaint.split("value <=")[1].split(".", maxsplit=1)[0])


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
