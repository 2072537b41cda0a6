"""Long recordings through HuBERT: units in chunks beside units of the whole, and peak memory.

    python benchmarks/long_recordings.py AUDIO_DIR [--files 3] [--hours 0.2 1 3] [--model FOLDER]

Clips are joined to files of two minutes. Each is encoded whole and in chunks, as files are, and
the same frames are compared, with K centroids fitted to them. Then a file of each of --hours is
written and encoded in a process of its own, whose peak memory is printed. Without --model, a
HuBERT-base of random weights; once as they are drawn, and once with queries and keys that are
multiplied until attention picks frames out of the whole, which random weights alone never do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from machine import peak_memory
from numpy.typing import NDArray

from gslm.audio import SAMPLE_RATE, find_audio, read_audio
from gslm.units.encoders import Chunking, SpeechEncoder, load_encoder
from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans
from gslm.units.unit_encoder import UnitEncoder

TWO_MINUTES = 120 * SAMPLE_RATE
WHOLE = Chunking(chunk_frames=10_000, overlap_frames=250)
"""Longer than two minutes."""
NARROW: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
}
"""Sizes with which hours take minutes; how much of a recording is held does not depend on them."""


def main() -> None:
    """Print shares of identical units, then peaks of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("--files", type=int, default=3, help="of two minutes")
    parser.add_argument("--hours", type=float, nargs="*", default=[0.2, 1.0, 3.0])
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="transformers folder of a HuBERT")
    parser.add_argument("--narrow", action="store_true", help="a narrow model for the hours")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    speech = _joined(arguments.audio, max(1, arguments.files) * TWO_MINUTES)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = arguments.model or _random_model(work / "drawn")
        models = {"weights as they are": folder}
        if arguments.model is None:
            models["peaked attention"] = _random_model(work / "peaked", sharpness=3.0)
        for name, model in models.items():
            if arguments.files:
                _report_chunks(name, model, arguments.layer, arguments.k, speech)
        if arguments.narrow:
            folder = _random_model(work / "narrow", **NARROW)
        for hours in arguments.hours:
            path = _long_file(work / "long.wav", speech, hours)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                task = (folder, arguments.layer, path, hours, arguments.threads)
                print(pool.apply(_encode, task), flush=True)


def _joined(root: Path, n_samples: int) -> NDArray[np.float32]:
    """Clips in an order drawn once, joined to (n_samples,), again from the first where they end."""
    ids = find_audio(root)
    np.random.default_rng(0).shuffle(ids)
    parts: list[NDArray[np.float32]] = []
    n_joined = 0
    for id_ in ids:
        if n_joined >= n_samples:
            break
        parts.append(read_audio(root / id_))
        n_joined += len(parts[-1])
    return np.resize(np.concatenate(parts), n_samples)


def _random_model(folder: Path, sharpness: float = 1.0, **sizes: Any) -> Path:
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**sizes))
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.data *= sharpness
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    return folder


@torch.inference_mode()
def _report_chunks(
    name: str, folder: Path, layer: int, k: int, speech: NDArray[np.float32]
) -> None:
    chunked = load_encoder(folder, layer)
    clips = np.split(speech, len(speech) // TWO_MINUTES)
    whole = [load_encoder(folder, layer, WHOLE)([torch.from_numpy(clip)])[0] for clip in clips]
    fitted = fit_kmeans(lambda: iter(whole), KMeansConfig(k=k))
    units = UnitEncoder(chunked, fitted.centroids)
    shares = []
    for clip, frames in zip(clips, whole, strict=True):
        made = units.encode_blocks(lambda clip=clip: [clip]).ids  # type: ignore[misc]
        expected = units.quantize(frames)
        assert len(made) == len(expected) == chunked.n_frames(len(clip))
        shares.append((made == expected).mean())
    rows = ", ".join(f"{share:.2%}" for share in shares)
    print(f"{name}: {_attended(folder, layer, clips[0]):.0f} frames attended to; ", end="")
    print(f"units of 2-minute files equal to those of the whole: {rows}")


def _attended(folder: Path, layer: int, clip: NDArray[np.float32]) -> float:
    """How many of ten seconds' frames a head's attention spreads over: exp of its entropy."""
    from transformers import HubertModel

    model = HubertModel.from_pretrained(folder, attn_implementation="eager").eval()
    out = model(torch.from_numpy(clip[None, : 10 * SAMPLE_RATE]), output_attentions=True)
    weights = torch.stack(out.attentions[:layer])
    return float(torch.special.entr(weights).sum(-1).mean().exp())


def _long_file(path: Path, speech: NDArray[np.float32], hours: float) -> Path:
    """Write `speech` again and again, 16-bit, until it lasts so long."""
    rest = round(hours * 3600 * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        while rest > 0:
            file.write(speech[:rest])
            rest -= len(speech)
    return path


def _encode(folder: Path, layer: int, path: Path, hours: float, threads: int) -> str:
    torch.set_num_threads(threads)
    encoder: SpeechEncoder = load_encoder(folder, layer)
    centroids = torch.randn(100, encoder.dim, generator=torch.Generator().manual_seed(0))
    units = UnitEncoder(encoder, centroids)
    started = time.perf_counter()
    n_units = len(units.encode_file(path).ids)
    seconds = time.perf_counter() - started
    expected = encoder.n_frames(round(hours * 3600 * SAMPLE_RATE))
    assert n_units == expected, f"{n_units} units, {expected} frames"
    peak = peak_memory()
    return (
        f"a file of {hours:g} h: {n_units} units, as many as frames; peak {peak:.0f} MB; "
        f"{hours * 3600 / seconds:.0f} x real time"
    )


if __name__ == "__main__":
    main()
