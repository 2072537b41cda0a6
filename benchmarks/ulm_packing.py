"""Packing: share of positions lost to padding, and three exact forms of attention on a CPU.

    python benchmarks/ulm_packing.py

Documents have the lengths of short recordings (log-normal, median 40 units) unless a corpus is
named. The forms: one mask over the whole row, one document after another (what gslm does), and
padded batches of documents of similar length.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from gslm.ulm.attention import Documents, attend
from gslm.ulm.model import PAD
from gslm.ulm.packing import Packer


def masked(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: tuple) -> None:
    """One block-diagonal causal mask over the row."""
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (numbers[:, None] == numbers[None]).tril()
    heads = (tensor.transpose(1, 2) for tensor in (queries, keys, values))
    F.scaled_dot_product_attention(*heads, attn_mask=mask).sum().backward()


def one_by_one(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: tuple
) -> None:
    """A call a document."""
    parts = (tensor.transpose(1, 2).split(lengths, 2) for tensor in (queries, keys, values))
    outputs = [F.scaled_dot_product_attention(*part, is_causal=True) for part in zip(*parts)]  # noqa: B905
    torch.cat(outputs, 2).sum().backward()


def grouped(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: tuple
) -> None:
    """Documents of similar length as padded batches; causality hides padding at the end."""
    sizes = torch.tensor(lengths)
    starts, order = sizes.cumsum(0) - sizes, torch.argsort(sizes).tolist()
    groups: list[list[int]] = [[]]
    for document in order:
        if groups[-1] and lengths[document] > 1.5 * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(document)
    flat, places, outputs, n_before = [t[0] for t in (queries, keys, values)], [], [], 0
    for group in groups:
        steps = torch.arange(max(lengths[document] for document in group))
        size = sizes[group, None]
        index = starts[group, None] + torch.minimum(steps, size - 1)
        parts = (t.index_select(0, index.flatten()).unflatten(0, index.shape) for t in flat)
        output = F.scaled_dot_product_attention(*(p.transpose(1, 2) for p in parts), is_causal=True)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        places.append((n_before + torch.nonzero((steps < size).flatten()))[:, 0])
        n_before += index.numel()
    back = torch.empty(sum(lengths), dtype=torch.int64)
    sources = torch.cat([torch.arange(starts[d], starts[d] + sizes[d]) for g in groups for d in g])
    back[sources] = torch.cat(places)
    torch.cat(outputs).index_select(0, back).sum().backward()


def seconds(run: object, repeats: int = 7) -> float:
    """Best time of a call."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        run()  # type: ignore[operator]
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    """Print the padding, then the three forms' times for one layer, forward and backward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", help="a corpus folder to take documents from")
    parser.add_argument("--row-length", type=int, default=2048)
    parser.add_argument("--median", type=int, default=40, help="median units of a document")
    options = parser.parse_args()
    torch.set_num_threads(2)
    random = np.random.default_rng(0)
    if options.corpus:
        from gslm.corpus import Corpus

        documents = [row.units for row in Corpus.open(options.corpus).rows()]
    else:
        sizes = np.exp(random.normal(np.log(options.median), 0.8, 2000)).astype(int).clip(2, 1500)
        documents = [random.integers(0, 200, size).astype(np.int32) for size in sizes]
    packer = Packer(documents, options.row_length, 1, seed=0)
    batches = [packer.batch(index) for index in range(50)]
    padding = np.mean([float((batch.inputs == PAD).float().mean()) for batch in batches])
    print(f"{len(documents)} documents; positions lost to padding: {100 * padding:.2f} %")
    started = time.perf_counter()
    for index in range(50):
        packer.batch(index)
    print(f"packing a row of {options.row_length}: {(time.perf_counter() - started) * 20:.2f} ms")
    lengths = batches[0].documents.lengths
    tensors = [torch.randn(1, options.row_length, 8, 64, requires_grad=True) for _ in range(3)]
    print(f"one layer, 8 heads of 64, {len(lengths)} documents, load {os.getloadavg()[0]:.1f}")
    print(f"  one mask      {1e3 * seconds(lambda: masked(*tensors, lengths)):7.1f} ms")
    print(f"  one by one    {1e3 * seconds(lambda: one_by_one(*tensors, lengths)):7.1f} ms")
    print(f"  by length     {1e3 * seconds(lambda: grouped(*tensors, lengths)):7.1f} ms")
    layout = Documents.pack([lengths])
    ours = seconds(lambda: attend(*tensors, layout).sum().backward())
    print(f"  gslm          {1e3 * ours:7.1f} ms")


if __name__ == "__main__":
    main()
