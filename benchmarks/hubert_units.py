"""HuBERT's units from files: gslm beside transformers' full forward and scikit-learn's predict.

    python benchmarks/hubert_units.py AUDIO_DIR [--seconds 120] [--rounds 3] [--model FOLDER]

The other way is the usual one: each file by itself through transformers' whole HubertModel, the
hidden states of one layer to KMeans.predict. Ours is `encode_corpus` in this process, once from a
fairseq checkpoint (on fairseq2) and once from the transformers folder with the same weights, in
float32 and, where the processor has instructions for it, in bfloat16. All take turns in each
round, so that what else the machine does meets them alike; ratios are medians over the rounds.
Without --model, HuBERT-base of random weights. The share of padding is that of the whole folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import matmul_rate, peak_memory
from numpy.typing import NDArray

from gslm.audio import find_audio, read_audio
from gslm.training import has_bfloat16
from gslm.units.encode import encode_corpus
from gslm.units.encoders import TransformersSpeechEncoder, load_encoder
from gslm.units.encoders.precision import PRECISIONS
from gslm.units.unit_encoder import UnitEncoder

THE_OTHER = "transformers + scikit-learn"
Made = dict[str, NDArray[Any]]
"""Units by file, one a frame."""
FAIRSEQ_NAMES = {
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
    "encoder.pos_conv_embed.conv": "encoder.pos_conv.0",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense": ".fc1",
    ".feed_forward.output_dense": ".fc2",
    ".conv.": ".0.",
    "conv_layers.0.layer_norm": "conv_layers.0.2",
    "masked_spec_embed": "mask_emb",
}


@dataclass(frozen=True)
class Task:
    """What all ways are given."""

    root: Path
    ids: list[str]
    folder: Path
    checkpoint: Path
    layer: int
    threads: int
    kmeans: Any


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="audio to use")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="transformers folder of a base HuBERT")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = arguments.model or work / "hubert"
        _write_models(folder, work / "hubert.pt", random_weights=arguments.model is None)
        ids = _files(arguments.audio, arguments.seconds)
        lengths = [len(read_audio(arguments.audio / id_)) for id_ in ids]
        seconds = sum(lengths) / 16_000
        print(f"{len(ids)} files, {seconds:.0f} s of audio, {arguments.threads} threads")
        task = Task(
            root=arguments.audio,
            ids=ids,
            folder=folder,
            checkpoint=work / "hubert.pt",
            layer=arguments.layer,
            threads=arguments.threads,
            kmeans=_kmeans(arguments.audio, ids, folder, arguments.layer, arguments.k),
        )
        ways = {name: _way(name, task) for name in _names()}
        times, made = _rounds(ways, arguments.rounds)
        _report(times, made, seconds, _gflop(lengths, arguments.layer))
        _report_padding(arguments.audio, work / "narrow")
        for name in ways:
            print(f"{name}: peak {_peak(name, task):.0f} MB")


def _write_models(folder: Path, checkpoint: Path, random_weights: bool) -> None:
    """The transformers folder, if it is to be made, and fairseq's checkpoint of it."""
    from transformers import HubertModel

    if random_weights:
        _save_random(folder)
    state = HubertModel.from_pretrained(folder).state_dict()
    renamed = {}
    for name, tensor in state.items():
        fairseq_name = name
        for theirs, ours in FAIRSEQ_NAMES.items():
            fairseq_name = fairseq_name.replace(theirs, ours)
        if name.startswith("encoder.layers") and ".final_layer_norm" not in name:
            fairseq_name = fairseq_name.replace(".layer_norm", ".self_attn_layer_norm")
        renamed[fairseq_name] = tensor
    cfg = {"model": {"_name": "hubert"}, "task": {"normalize": False}}
    torch.save({"cfg": cfg, "model": renamed}, checkpoint)


def _save_random(folder: Path, **sizes: Any) -> None:
    """A HuBERT of random weights, of base size but for `sizes`."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    HubertModel(HubertConfig(**sizes)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')


def _files(root: Path, seconds: float) -> list[str]:
    """Files in an order drawn once, until they last so long."""
    ids = find_audio(root)
    np.random.default_rng(0).shuffle(ids)
    n_samples, chosen = 0, []
    for id_ in ids:
        if n_samples >= seconds * 16_000:
            break
        n_samples += len(read_audio(root / id_))
        chosen.append(id_)
    return chosen


def _kmeans(root: Path, ids: list[str], folder: Path, layer: int, k: int) -> Any:
    """scikit-learn's, fitted to what the model gives for some files."""
    from sklearn.cluster import KMeans
    from transformers import HubertModel

    model = HubertModel.from_pretrained(folder).eval()
    frames = np.concatenate([_hidden(model, root / id_, layer) for id_ in ids[:30]])
    return KMeans(k, n_init=1, max_iter=20, random_state=0).fit(frames)


def _hidden(model: Any, path: Path, layer: int) -> NDArray[Any]:
    clip = torch.from_numpy(read_audio(path))
    with torch.inference_mode():
        return model(clip[None], output_hidden_states=True).hidden_states[layer][0].numpy()


def _precisions() -> list[str]:
    """bfloat16 where the processor has instructions for it; elsewhere it would be slower."""
    return ["float32", "bfloat16"] if has_bfloat16(torch.device("cpu")) else ["float32"]


def _names() -> list[str]:
    stacks = ("fairseq2", "transformers")
    ours = [f"gslm on {stack}, {p}" for stack in stacks for p in _precisions()]
    return [THE_OTHER, *ours]


def _way(name: str, task: Task) -> Callable[[], Made]:
    """A way by its name, ready to run."""
    torch.set_num_threads(task.threads)
    if name == THE_OTHER:
        from transformers import HubertModel

        model = HubertModel.from_pretrained(task.folder).eval()
        return lambda: {
            id_: task.kmeans.predict(_hidden(model, task.root / id_, task.layer))
            for id_ in task.ids
        }
    source = task.checkpoint if "fairseq2" in name else task.folder
    encoder = load_encoder(source, task.layer, precision=name.rsplit(maxsplit=1)[-1])
    units = UnitEncoder(encoder, torch.from_numpy(task.kmeans.cluster_centers_).float())
    return lambda: _encoded(task, units)


def _encoded(task: Task, units: UnitEncoder) -> Made:
    with tempfile.TemporaryDirectory() as folder:
        corpus = encode_corpus(
            task.root,
            folder,
            units,
            ids=task.ids,
            deduplicate=False,
            threads=task.threads,
            progress=False,
        )
        return {row.id: row.units for row in corpus.rows("all")}


def _rounds(
    ways: dict[str, Callable[[], Made]], n_rounds: int
) -> tuple[dict[str, list[float]], dict[str, Made]]:
    times: dict[str, list[float]] = {name: [] for name in [*_precisions(), *ways]}
    made: dict[str, Made] = {}
    for _ in range(n_rounds):
        for precision in _precisions():
            times[precision].append(matmul_rate(PRECISIONS[precision]))
        for name, way in ways.items():
            start = time.perf_counter()
            made[name] = way()
            times[name].append(time.perf_counter() - start)
    return times, made


def _report(
    times: dict[str, list[float]], made: dict[str, Made], seconds: float, gflop: float
) -> None:
    rates = {precision: np.array(times.pop(precision)) for precision in _precisions()}
    for precision, found in rates.items():
        print(f"{precision} matmul 2048^3: {np.median(found):.0f} GFLOP/s")
    other = np.array(times[THE_OTHER])
    for name, taken in times.items():
        typical = np.median(taken)
        line = f"{name}: {typical:.1f} s, {seconds / typical:.1f} x real time"
        if name != THE_OTHER:
            same = np.concatenate([made[name][id_] == ids for id_, ids in made[THE_OTHER].items()])
            rounds = ", ".join(f"{ratio:.2f}" for ratio in other / taken)
            share = np.median(gflop / np.array(taken) / rates[name.rsplit(maxsplit=1)[-1]])
            line += (
                f", {np.median(other / taken):.2f} x as fast (rounds {rounds}), "
                f"{gflop / typical:.0f} GFLOP/s ({share:.0%} of the matmul), "
                f"identical units {same.mean():.3%} of {len(same)}"
            )
        print(line)


def _gflop(lengths: list[int], layer: int) -> float:
    """Products of a base model up to the layer: convolutions, projections and attention."""
    total = 0.0
    for length in lengths:
        n, channels = length, 1
        for width, stride in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]:
            n = (n - width) // stride + 1
            total += 2 * n * 512 * channels * width
            channels = 512
        total += 2 * n * (512 * 768 + 128 * 768 * 48)
        total += layer * (2 * n * 12 * 768**2 + 4 * n * n * 768)
    return total / 1e9


def _report_padding(root: Path, folder: Path) -> None:
    """Share of the rows that the layers see and that are no clip's; fairseq2's have none.

    Of all files below the root, by a narrow model: what shares a batch depends on lengths alone.
    """
    _save_random(folder, hidden_size=16, num_attention_heads=2, conv_dim=[4] * 7)
    encoder = load_encoder(folder, 1)
    assert isinstance(encoder, TransformersSpeechEncoder)
    counts = [0, 0, 0]

    def count(_module: Any, arguments: Any, settings: Any) -> None:
        mask = settings["attention_mask"]
        n_rows = arguments[0].shape[0] * arguments[0].shape[1]
        counts[0] += 1
        counts[1] += n_rows
        counts[2] += n_rows if mask is None else int(mask.sum())

    encoder.model.encoder.register_forward_pre_hook(count, with_kwargs=True)
    with tempfile.TemporaryDirectory() as out:
        units = UnitEncoder(encoder, torch.randn(2, 16))
        encode_corpus(root, out, units, progress=False)
    print(
        f"padding in batches of transformers' layers: {1 - counts[2] / counts[1]:.2%} of "
        f"{counts[1]} rows in {counts[0]} batches; on fairseq2 clips are packed, nothing is padded"
    )


def _peak(name: str, task: Task) -> float:
    """Peak memory in MB of a process of its own that goes one way."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (name, task))


def _peak_here(name: str, task: Task) -> float:
    _way(name, task)()
    return peak_memory()


if __name__ == "__main__":
    main()
