"""Soft units: for each frame a short vector and a distribution over the hard units.

A hard unit says which sound is nearest; a soft one also how near the others are. The vector keeps
more of what is said than the unit, and less of who says it than the encoder's features. After van
Niekerk et al. (2022), https://arxiv.org/abs/2111.02392.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gslm.bundle import config_from_json, read_json_object, read_tensors, write_json, write_tensors
from gslm.errors import UserError
from gslm.types import Fingerprint
from gslm.units.chunking import encode_stream, for_recording
from gslm.units.normalization import feature_statistics

if TYPE_CHECKING:
    from gslm.units.unit_encoder import UnitEncoder

SoftKind = Literal["vectors", "distribution"]
"""`vectors`: (frames, dim), each of length one; `distribution`: (frames, K), each sums to one."""

_CONFIG, _WEIGHTS = "soft.json", "soft.safetensors"


@dataclass(frozen=True)
class SoftConfig:
    """Shape of the network."""

    feature_dim: int
    """Size of the encoder's feature vectors."""
    n_units: int
    """Hard units that the distribution is over."""
    dim: int = 64
    """Size of a soft unit."""
    temperature: float = 0.1
    """What cosines are divided by before the softmax: smaller makes sharper distributions."""

    def __post_init__(self) -> None:
        for name in ("feature_dim", "n_units", "dim"):
            if getattr(self, name) < 1:
                raise UserError(f"soft units: {name} {getattr(self, name)} must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise UserError(
                f"soft units: temperature {self.temperature} must be a number above 0 and finite"
            )


class SoftUnits(nn.Module):
    """A linear projection of features, compared by cosine with one learned vector a unit."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: SoftConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.feature_dim))
        self.register_buffer("deviation", torch.ones(config.feature_dim))
        self.projection = nn.Linear(config.feature_dim, config.dim)
        self.units = nn.Parameter(torch.randn(config.n_units, config.dim))

    def forward(self, frames: Tensor) -> Tensor:
        """Soft units (n, dim) of length one, of normalised features (n, feature_dim)."""
        scaled = (frames - self.mean) / self.deviation
        return F.normalize(self.projection(scaled), dim=-1)

    def logits(self, vectors: Tensor) -> Tensor:
        """Scores of the hard units (n, K), of soft units (n, dim): what the softmax takes."""
        return vectors @ F.normalize(self.units, dim=-1).T / self.config.temperature

    def distribution(self, vectors: Tensor) -> Tensor:
        """Probabilities of the hard units (n, K), of soft units (n, dim)."""
        return self.logits(vectors).softmax(dim=-1)

    def save(self, folder: str | Path, fingerprint: Fingerprint) -> None:
        """Write soft.json and soft.safetensors; fingerprint: of the hard units."""
        tensors = {name: value.float() for name, value in self.state_dict().items()}
        write_tensors(Path(folder) / _WEIGHTS, tensors)
        about = {"config": asdict(self.config), "units": frame_units(fingerprint).to_json()}
        write_json(Path(folder) / _CONFIG, about)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: Fingerprint) -> SoftUnits | None:
        """Read what `save` wrote; None where the folder holds no soft units.

        fingerprint: of the hard units beside them. Raises `UserError` where a file is missing or
        damaged, or the soft units were trained for other hard units.
        """
        where = Path(folder) / _CONFIG
        if not where.is_file():
            return None
        about = read_json_object(where)
        config = config_from_json(SoftConfig, about.get("config"), where)
        trained_on = Fingerprint.from_json(about.get("units"), str(where))
        frame_units(fingerprint).require_same(trained_on, str(folder), str(where))
        soft = cls(config)
        try:
            soft.load_state_dict(read_tensors(Path(folder) / _WEIGHTS))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{Path(folder) / _WEIGHTS}: does not fit {_CONFIG} ({reason}); copy both from "
                "one folder"
            ) from None
        return soft.eval()


def remove_soft(folder: str | Path) -> None:
    """Delete the soft units of a folder whose hard units are written anew."""
    for name in (_CONFIG, _WEIGHTS):
        (Path(folder) / name).unlink(missing_ok=True)


def frame_units(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint of the same units, one a frame: soft units do not know of smoothing."""
    return replace(fingerprint, coarsening="")


def soft_blocks(
    units: UnitEncoder,
    blocks: Callable[[], Iterable[NDArray[np.float32]]],
    kind: SoftKind = "vectors",
) -> Iterator[NDArray[np.float32]]:
    """Soft units of one recording, part by part: float32 (n, dim) or (n, K), as `kind` says.

    blocks: called for each reading, as by `UnitEncoder.encode_blocks`; gives float32 (samples,)
    at 16 kHz in order. Memory is bounded by a block and some chunks. Raises `UserError` where
    `units` holds no soft units.
    """
    require_soft(units)
    encoder = for_recording(units.encoder, blocks)
    statistics = None
    if units.normalization == "utterance":
        statistics = feature_statistics(encode_stream(encoder, blocks()))
    for frames in encode_stream(encoder, blocks()):
        yield soft_of_frames(units, units.normalize(frames.cpu(), statistics), kind)


@torch.no_grad()
def soft_of_frames(
    units: UnitEncoder, frames: Tensor, kind: SoftKind = "vectors"
) -> NDArray[np.float32]:
    """Soft units float32 (n, dim) or (n, K) of normalised features (n, feature_dim)."""
    soft = require_soft(units)
    vectors = soft(frames.float())
    return (vectors if kind == "vectors" else soft.distribution(vectors)).numpy()


def require_soft(units: UnitEncoder) -> SoftUnits:
    """The soft units of a unit encoder; a `UserError` where it has none."""
    if units.soft_units is None:
        raise UserError(
            f"the units [{units.fingerprint}] have no soft units; train some with `gslm units soft`"
        )
    return units.soft_units
