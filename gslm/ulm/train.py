"""Training of a unit language model through the one loop of `gslm.training`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gslm.bundle import config_to_json, read_json, write_json
from gslm.errors import UserError
from gslm.training import TrainingConfig, train
from gslm.types import Fingerprint
from gslm.ulm import UnitLM
from gslm.ulm.model import BOS, N_SPECIAL, PAD, Decoder, DecoderConfig, preset
from gslm.ulm.packing import PackedBatch, Packer, TokenArray, check_pieces
from gslm.ulm.score import score


@dataclass(frozen=True)
class UnitLMTraining:
    """How a unit language model is built and trained; the defaults fit half an hour of speech."""

    size: str = "mini"
    """Decoder of `gslm.ulm.model.PRESETS`: mini (3 M parameters), tiny (5 M), small (21 M),
    medium (51 M), base (154 M)."""
    context: int = 2048
    """Longest sequence in tokens, bos included."""
    dropout: float = 0.4
    """Share of the embeddings' and of each sublayer's outputs dropped; less for more data."""
    replace_units: float = 0.1
    """Share of input units replaced by random ones in training (the targets stay)."""
    rows: int = 1
    """Rows of packed documents in a micro-batch."""
    row_length: int = 1024
    """Positions of a packed row, at most `context`."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Decay of matrices (norms' weights have none)."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=700, warmup_steps=30, validate_every=50, patience=6, ema_decay=0.98
        )
    )
    """Steps, schedule, validation and checkpoints."""

    def __post_init__(self) -> None:
        if not 1 <= self.row_length <= self.context:
            raise UserError(
                f"uLM: row_length {self.row_length} must be 1 to context {self.context}"
            )
        if not 0 <= self.replace_units < 1 or self.rows < 1:
            raise UserError("uLM: replace_units must be in [0, 1) and rows at least 1")


def train_ulm(
    train_sequences: Sequence[TokenArray],
    held_out_sequences: Sequence[TokenArray],
    vocabulary_size: int,
    fingerprint: Fingerprint,
    config: UnitLMTraining,
    folder: str | Path,
) -> UnitLM:
    """Train on sequences of units or BPE pieces and return the model of the best validation.

    train_sequences, held_out_sequences: arrays (n,) int32 of pieces from 0 to
    vocabulary_size - 1; fingerprint: of the units; folder: checkpoints, log and resolved
    settings; a run found there goes on. Held-out loss is nats a token, ends included, under
    `held_out_loss` in the log. Raises `UserError` for empty or foreign sequences, and, before
    anything is overwritten, for a folder that holds a run of other settings or sequences.
    """
    check_pieces(train_sequences, vocabulary_size, "uLM training set")
    check_pieces(held_out_sequences, vocabulary_size, "uLM held-out set")
    decoder = preset(config.size, vocabulary_size, context=config.context, dropout=config.dropout)
    settings = {
        "ulm": config_to_json(config),
        "decoder": config_to_json(decoder),
        "fingerprint": fingerprint.to_json(),
        "train_hash": _sequences_hash(train_sequences),
        "held_out_hash": _sequences_hash(held_out_sequences),
    }
    _claim(Path(folder) / "settings.json", settings)
    task = UnitLMTask(train_sequences, held_out_sequences, decoder, config)
    train(task, config.training, folder, "uLM")
    return UnitLM(decoder, task.model.eval(), fingerprint)


def _claim(path: Path, settings: dict[str, Any]) -> None:
    """Write the resolved settings; refuse a folder whose run is not theirs."""
    if path.is_file() and read_json(path) != settings:
        raise UserError(
            f"{path.parent}: holds the training of another uLM (other settings, a changed number "
            "of steps counts, or other recordings); choose a new folder or delete this one"
        )
    write_json(path, settings)


def _sequences_hash(sequences: Sequence[TokenArray]) -> str:
    """First 16 hex digits of the SHA-256 over the lengths and tokens, in order."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(len(sequence).to_bytes(8, "little"))
        digest.update(np.asarray(sequence, dtype="<i4").tobytes())
    return digest.hexdigest()[:16]


class UnitLMTask:
    """What the training loop needs of the unit language model."""

    def __init__(
        self,
        train_sequences: Sequence[TokenArray],
        held_out_sequences: Sequence[TokenArray],
        decoder: DecoderConfig,
        config: UnitLMTraining,
    ) -> None:
        """Build the model, its optimizer and the packed training set."""
        seed = config.training.seed
        torch.manual_seed(seed)
        self.model = model = Decoder(decoder)
        self.decoder, self.config = decoder, config
        self.held_out_sequences = held_out_sequences
        self.packer = Packer(train_sequences, config.row_length, config.rows, seed)
        self.modules: dict[str, nn.Module] = {"model": model}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": _optimizer(model, config)}
        self._clock = time.monotonic()

    def batch(self, index: int) -> PackedBatch:
        """Packed rows, with some input units replaced; a pure function of the index."""
        packed = self.packer.batch(index)
        share = self.config.replace_units
        if not share:
            return packed
        random = np.random.default_rng((self.config.training.seed, 1, index))
        shape = packed.inputs.shape
        chosen = torch.from_numpy(random.random(shape) < share) & (packed.inputs != BOS)
        others = torch.from_numpy(random.integers(N_SPECIAL, self.decoder.n_tokens, shape))
        inputs = torch.where(chosen, others, packed.inputs)
        return PackedBatch(inputs, packed.targets, packed.documents)

    def losses(
        self,
        batch: PackedBatch,
        step: int,  # noqa: ARG002 - the loop's protocol
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """Mean cross-entropy of the batch's targets, in nats a token."""
        model = self.modules["model"]
        batch = batch.to(next(model.parameters()).device)
        logits = model(batch.inputs, batch.documents)
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=PAD
        )
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        padding = float((batch.targets == PAD).float().mean())
        yield (
            "model",
            loss,
            {
                "loss": float(loss.detach()),
                "tokens_per_second": batch.targets.numel() * (1 - padding) / max(seconds, 1e-9),
                "padding": padding,
            },
        )

    def validate(self) -> dict[str, float]:
        """Held-out nats a token, every unit and end scored once with its whole context."""
        scores = score(self.modules["model"], self.decoder, self.held_out_sequences)
        n_tokens = sum(result.n_tokens for result in scores)
        self._clock = time.monotonic()
        return {"loss": -sum(result.log_likelihood for result in scores) / n_tokens}


def _optimizer(model: nn.Module, config: UnitLMTraining) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) that decays matrices only."""
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    others = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
