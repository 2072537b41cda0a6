"""Attention over packed documents against one document at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gslm.ulm.attention import Documents, attend, block_diagonal_mask
from gslm.ulm.model import Decoder
from tests.ulm.reference import document_mask, masked_attention
from tests.ulm.test_model import SMALL

ROWS = [[5, 1, 30, 28], [64], [1, 2, 3, 4, 5, 49]]


def heads(n_rows: int, n_tokens: int, n_heads: int) -> torch.Tensor:
    return torch.randn(n_rows, n_tokens, n_heads, 16)


@pytest.mark.parametrize("n_kv_heads", [2, 4])
def test_packed_attention_equals_the_written_out_mask(n_kv_heads: int) -> None:
    queries, keys, values = heads(3, 64, 4), heads(3, 64, n_kv_heads), heads(3, 64, n_kv_heads)
    output = attend(queries, keys, values, Documents.pack(ROWS))
    for row, lengths in enumerate(ROWS):
        expected = masked_attention(queries[row], keys[row], values[row], lengths)
        torch.testing.assert_close(output[row], expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_positions_restart_at_each_document(lengths: list[int]) -> None:
    documents = Documents.pack([lengths])
    assert documents.positions[0].tolist() == [i for n in lengths for i in range(n)]
    assert documents.lengths == tuple(lengths)


def test_packed_logits_and_gradients_equal_one_document_at_a_time() -> None:
    torch.manual_seed(0)
    model = Decoder(SMALL)
    tokens = torch.randint(0, SMALL.n_tokens, (3, 64))
    packed = model(tokens, Documents.pack(ROWS))
    alone = [
        torch.cat([model(part[None])[0] for part in row.split(lengths)])
        for row, lengths in zip(tokens, ROWS, strict=True)
    ]
    torch.testing.assert_close(packed, torch.stack(alone), atol=1e-5, rtol=1e-4)
    gradients = [
        torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        for logits in (packed, torch.stack(alone))
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


def test_xformers_mask_is_our_mask() -> None:
    pytest.importorskip("xformers")
    lengths = [3, 1, 7, 5]
    theirs = block_diagonal_mask(lengths).materialize((1, 1, 16, 16))[0, 0]
    assert torch.equal(theirs == 0, document_mask(lengths))


def test_xformers_kernel_equals_torch_on_a_gpu() -> None:
    pytest.importorskip("xformers")
    if not torch.cuda.is_available():
        pytest.skip("xformers' kernels need a GPU, and there is none")
    documents = Documents.pack(ROWS).to("cuda")
    tensors = [heads(3, 64, n).cuda().half() for n in (4, 2, 2)]
    output = attend(*tensors, documents).cpu().float()
    expected = attend(*(t.cpu().float() for t in tensors), Documents.pack(ROWS))
    torch.testing.assert_close(output, expected, atol=1e-2, rtol=1e-2)
