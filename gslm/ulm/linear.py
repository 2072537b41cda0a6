"""Matrix products for sampling: a few rows times a large matrix that never changes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class PackedLinear:
    """`F.linear` without bias, by oneDNN with the matrix packed once where torch offers it.

    With one to sixteen rows torch's default product on a CPU (MKL) reads the matrix at a fraction
    of the memory's speed; benchmarks/ulm_sampling.py shows what packing is worth.
    """

    def __init__(self, weight: Tensor) -> None:
        """weight: (outputs, inputs); a packed copy is kept."""
        self.weight = weight.detach().contiguous()
        self.packed = _pack(self.weight)

    def __call__(self, rows: Tensor) -> Tensor:
        """rows: (…, inputs) → (…, outputs)."""
        if self.packed is None:
            return F.linear(rows, self.weight)
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")


def _pack(weight: Tensor) -> Tensor | None:
    """The matrix in oneDNN's own layout, or None where this torch or device has no such product."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        probe = torch.linspace(-1, 1, weight.shape[1], dtype=weight.dtype)[None]
        product = torch.ops.mkldnn._linear_pointwise(probe, packed, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        # These operators are torch's internals: a torch without them takes the plain product.
        return None
    close = torch.allclose(product, F.linear(probe, weight), atol=1e-4, rtol=1e-4)
    return packed if close else None
