"""A trained unit language model: load, save, score and continue unit sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gslm.bundle import (
    config_from_json,
    config_to_json,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from gslm.errors import UserError
from gslm.types import Fingerprint
from gslm.ulm.model import Decoder, DecoderConfig
from gslm.ulm.packing import TokenArray, check_pieces
from gslm.ulm.sample import Sampler, Sampling
from gslm.ulm.score import score


class UnitLM:
    """A trained decoder with the fingerprint of the units that it knows."""

    def __init__(self, config: DecoderConfig, model: Decoder, fingerprint: Fingerprint) -> None:
        self.config, self.model, self.fingerprint = config, model, fingerprint
        self._sampler: Sampler | None = None

    @classmethod
    def load(cls, folder: str | Path) -> UnitLM:
        """Read `config.json` and `model.safetensors`; one-line errors for damaged ones."""
        folder = Path(folder)
        where = folder / "config.json"
        data = read_json(where)
        if not isinstance(data, dict) or "decoder" not in data:
            raise UserError(f"{where}: is not a uLM's; name the `ulm` folder of a bundle")
        config = config_from_json(DecoderConfig, data["decoder"], where)
        fingerprint = Fingerprint.from_json(data.get("fingerprint", {}), str(where))
        weights = folder / "model.safetensors"
        tensors = read_tensors(weights)
        if config.tied_embeddings and "model.embed_tokens.weight" in tensors:
            tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
        model = Decoder(config)
        try:
            model.load_state_dict(tensors)
        except RuntimeError:
            raise UserError(
                f"{weights}: its tensors do not fit {where}; copy both files again"
            ) from None
        return cls(config, model.eval(), fingerprint)

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write the configuration and the weights, as float16 where `half` is set."""
        folder = Path(folder)
        tensors = dict(self.model.state_dict())
        if self.config.tied_embeddings:
            del tensors["lm_head.weight"]
        write_tensors(folder / "model.safetensors", tensors, torch.float16 if half else None)
        write_json(
            folder / "config.json",
            {
                "decoder": config_to_json(self.config),
                "fingerprint": self.fingerprint.to_json(),
            },
        )

    def score(self, sequences: Sequence[TokenArray]) -> list[float]:
        """Log-likelihood in nats of each sequence and its end; sequences (n,) from 0 up.

        Raises `UserError` for empty sequences and units outside the vocabulary.
        """
        check_pieces(sequences, self.config.n_pieces, "score")
        return [result.log_likelihood for result in score(self.model, self.config, sequences)]

    def sample(
        self,
        prompts: Sequence[TokenArray],
        max_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        min_tokens: int = 0,
        progress: bool = False,
    ) -> list[TokenArray]:
        """Continue each prompt, (n,) int32 from 0 up and empty for a free start.

        See `gslm.ulm.sample.Sampling` for the settings. Row i draws with seed + i, or with
        seed[i]: the same seed gives the same continuation whatever else is in the batch.
        Returns the continuations alone, without prompts and ends. Raises `UserError` for units
        outside the vocabulary and prompts that leave no room in the context.
        """
        if self._sampler is None:
            self._sampler = Sampler(self.model)
        settings = Sampling(max_tokens, min_tokens, temperature, top_k, top_p)
        return self._sampler.sample(prompts, settings, seed, progress)
