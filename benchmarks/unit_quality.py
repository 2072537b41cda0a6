"""What units are worth: ABX, PNMI and bits of every packaged encoder, layer by layer.

    gslm eval make abx -o SETS
    python benchmarks/unit_quality.py SETS --work WORK     # adds rows, goes on where it stopped
    python benchmarks/unit_quality_page.py                 # docs/unit-scores.md

k-means sees none of the clips that are scored: the prompts in four other languages, and other
sentences by flite's voices. Each row of `results/unit_quality.jsonl` is one kind of unit from one
layer; ABX is on phones in their context (triphones), exact, from `combined/triphone.item`, so that
speakers across are the recorded woman and the synthetic voices; each set by itself stands beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from machine import matmul_rate
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from unit_quality_rows import RESULTS, add, key_of, read_rows

from gslm.audio import SAMPLE_RATE, find_audio, read_audio, write_wav
from gslm.bundle import tensors_hash
from gslm.errors import UserError
from gslm.eval.abx import AbxScorer, phone_task
from gslm.eval.abx_items import Items, read_items, slice_features
from gslm.eval.flite_speech import speak
from gslm.eval.sentences import example_sentences
from gslm.pretrained import whisper_base, whisper_tiny_en
from gslm.sources import flite, prompts, wordnet
from gslm.training_config import TrainingConfig
from gslm.types import Fingerprint, Units
from gslm.units.chunking import encode_clips
from gslm.units.encoders import SpeechEncoder, load_encoder
from gslm.units.fit import fit_units
from gslm.units.inspection import unit_usage
from gslm.units.normalization import (
    FeatureStatistics,
    by_frame,
    by_training_set,
    feature_statistics,
    normalize_frames,
)
from gslm.units.phone_agreement import UnitClip, measure_agreement
from gslm.units.phone_labels import PhoneLabels
from gslm.units.quantizers.kmeans import KMeansConfig, assign, fit_kmeans
from gslm.units.quantizers.smoothing import smooth, spacing
from gslm.units.soft import soft_of_frames
from gslm.units.soft_data import prepare_soft_data
from gslm.units.soft_task import SoftTraining, fit_soft
from gslm.units.syllables import Syllables
from gslm.units.unit_encoder import UnitEncoder

SIZES = (50, 100, 200, 500)
SYLLABLE_SIZES = (200, 500, 2000)
PENALTIES = (1.0, 2.0)
FIT_FRAMES = 270_000  # an hour and a half, in random order
FIT_SENTENCES = 200
SHORTEST_S = 0.5
LANGUAGES = ("es", "fr", "it", "ru")
VOICES = ("rms", "slt", "awb")
CHOSEN_LAYERS = ("MFCC, per file", "tiny.en 3, per frame", "base 4, per frame")
"""Those that syllables and soft units are made of as well."""
SOFT_FRAMES = 180_000  # an hour, in random order
SCORES = {
    "within": ("combined", "within"),
    "across": ("combined", "across"),
    "recorded_within": ("recorded", "within"),
    "synthetic_within": ("synthetic", "within"),
    "synthetic_across": ("synthetic", "across"),
}


@dataclass(frozen=True)
class Layer:
    """One row group of the table: an encoder, a layer of it, and a normalisation."""

    name: str
    """Name in the table."""
    encoder: str
    """`mfcc`, `log-mel`, `tiny.en` or `base`."""
    number: int
    """Layer, from 1; 0 for encoders without."""
    normalization: str
    """One of gslm's, or speaker (over all files of a speaker)."""


LAYERS = (
    Layer("log-mel, per file", "log-mel", 0, "utterance"),
    Layer("MFCC, per speaker", "mfcc", 0, "speaker"),
    Layer("MFCC, per file", "mfcc", 0, "utterance"),
    *(
        Layer(f"{name} {i}, per {over}", name, i, normalization)
        for name, n_layers in (("tiny.en", 4), ("base", 6))
        for i in range(1, n_layers + 1)
        for over, normalization in (("frame", "frame"), ("frame and dimension", "frame+global"))
    ),
)


@dataclass(frozen=True)
class ScoredSets:
    """The clips that are scored, and what is known of them."""

    root: Path
    """Folder that `gslm eval make abx` wrote."""
    labels: PhoneLabels
    """Phones of all clips."""
    items: dict[str, Items]
    """Items of `combined`, and those of `recorded` and `synthetic` alone."""
    scorers: dict[str, AbxScorer]
    """One for each of `SCORES`, made once for all units."""
    ids: list[str]
    """Paths of the audio below the root."""


def main() -> None:
    """Add the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("--work", type=Path, default=Path("unit-quality.work"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--layers", nargs="+", help="names of the table's rows; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"matmul {matmul_rate():.0f} GFLOP/s float32")
    sets = read_sets(arguments.sets)
    fit_root = fit_audio(arguments.work, sets)
    for layer in LAYERS:
        if not arguments.layers or layer.name in arguments.layers:
            score_layer(layer, sets, fit_root, arguments.results, arguments.seed)


def read_sets(root: Path) -> ScoredSets:
    """Read labels, items and the list of clips."""
    combined = read_items(root / "combined" / "triphone.item")
    items = {"combined": combined}
    for name in ("recorded", "synthetic"):
        chosen = np.char.startswith(combined.files, f"{name}/")
        items[name] = Items(
            combined.path,
            combined.files[chosen],
            combined.onsets[chosen],
            combined.offsets[chosen],
            {column: values[chosen] for column, values in combined.columns.items()},
            combined.lines[chosen],
        )
    labels = PhoneLabels.open(root / "combined" / "phones.tsv")
    scorers = {
        name: AbxScorer(items[part], phone_task(speaker))
        for name, (part, speaker) in SCORES.items()
    }
    return ScoredSets(
        root, labels, items, scorers, [id_ for id_ in find_audio(root) if id_ in labels]
    )


def fit_audio(work: Path, sets: ScoredSets) -> Path:
    """Make the recordings that k-means sees; what an earlier run made is kept."""
    root = work / "fit"
    marker = work / "fit.done"
    if marker.is_file():
        return root
    for language in LANGUAGES:
        source = prompts(language).audio
        for id_ in tqdm(find_audio(source), desc=f"prompts {language}", unit="clip"):
            try:
                waveform = read_audio(source / id_)
            except UserError:
                continue  # one file of the Russian prompts is empty
            if len(waveform) >= SHORTEST_S * SAMPLE_RATE:
                write_wav((root / language / id_).with_suffix(".wav"), waveform)
    scored = [
        line.split("\t")[1]
        for name in ("recorded", "synthetic")
        for line in (sets.root / name / "transcripts.tsv").read_text("utf-8").splitlines()
    ]
    sentences = example_sentences(wordnet(), FIT_SENTENCES * len(VOICES), 1, unlike=scored)
    program = flite()
    for number, text in enumerate(tqdm(sentences, desc="speaking", unit="sentence")):
        id_ = f"{VOICES[number % len(VOICES)]}/{number:04d}"
        spoken = speak(program, id_.split("/")[0], text, id_, work / "spoken.wav")
        write_wav(root / f"{id_}.wav", spoken.waveform)
    marker.touch()
    return root


def score_layer(layer: Layer, sets: ScoredSets, fit_root: Path, results: Path, seed: int) -> None:
    """Add all rows of one layer that are not there yet."""
    done = {key_of(row) for row in read_rows(results)}
    wanted = [("continuous", None), *(("hard", k) for k in SIZES)]
    wanted += [(f"smoothed {p:g}", k) for k in SIZES for p in PENALTIES]
    if layer.name in CHOSEN_LAYERS:
        wanted += [("syllables", k) for k in SYLLABLE_SIZES]
        wanted += [("soft", k) for k in SIZES]
    missing = [(kind, k) for kind, k in wanted if (layer.name, kind, k, seed) not in done]
    if not missing:
        return
    started = time.perf_counter()
    encoder = speech_encoder(layer)
    statistics, centroids = fitted(encoder, layer, fit_root, missing, seed)
    frames = dict(encoded(encoder, sets.root, sets.ids, layer, statistics))
    if ("continuous", None) in missing:
        tokens = {clip: part.numpy() for clip, part in frames.items()}
        add(results, layer.name, "continuous", None, seed, abx_scores(sets, tokens))
    for kind, k in missing:
        if kind == "continuous":
            continue
        if kind == "soft":
            hard = UnitEncoder(encoder, centroids[k], layer.normalization, statistics)
            folder = fit_root.parent / "soft" / layer.name.replace(" ", "-")
            soft = soft_scores(sets, frames, trained_soft(hard, fit_root, folder, seed))
            add(results, layer.name, kind, k, seed, soft)
            continue
        if kind == "syllables":
            units, fingerprint = syllables(encoder, sets, fit_root, k, seed)
        else:
            penalty = float(kind.split()[1]) if kind.startswith("smoothed") else 0.0
            units = {clip: runs(part, centroids[k], penalty) for clip, part in frames.items()}
            hashed = tensors_hash({"centroids": centroids[k]})
            fingerprint = Fingerprint(
                encoder.name, encoder.weights_hash, layer.number, 50.0, layer.normalization,
                hashed, k, "" if kind == "hard" else kind,
            )  # fmt: skip
        row = unit_scores(sets, units, fingerprint)
        add(results, layer.name, kind, k, seed, row)
    print(f"{layer.name}: {(time.perf_counter() - started) / 60:.1f} minutes")


def speech_encoder(layer: Layer) -> SpeechEncoder:
    """The encoder of a layer."""
    folders = {"tiny.en": whisper_tiny_en, "base": whisper_base}
    source = folders[layer.encoder]() if layer.encoder in folders else layer.encoder
    return load_encoder(source, layer.number or None)


def encoded(
    encoder: SpeechEncoder,
    root: Path,
    ids: list[str],
    layer: Layer,
    statistics: FeatureStatistics | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Id without suffix and normalised frames (n, dim) of each clip.

    statistics: those of all that k-means sees; frames are not normalised by them where None.
    """
    by_speaker: dict[str, list[tuple[str, Tensor]]] = {}
    for first in tqdm(range(0, len(ids), 64), desc=layer.name, unit="batch"):
        part = ids[first : first + 64]
        clips = encode_clips(encoder, [read_audio(root / id_) for id_ in part])
        for id_, frames in zip(part, clips, strict=True):
            name = id_.rpartition(".")[0]
            if by_frame(layer.normalization):
                rows = normalize_frames(frames)
                yield name, statistics.normalize(rows) if statistics else rows
            elif layer.normalization == "utterance":
                yield name, feature_statistics([frames]).normalize(frames)
            else:
                by_speaker.setdefault(speaker_of(id_), []).append((name, frames))
    for clips_of_speaker in by_speaker.values():
        statistics = feature_statistics(frames for _, frames in clips_of_speaker)
        yield from ((name, statistics.normalize(frames)) for name, frames in clips_of_speaker)


def speaker_of(id_: str) -> str:
    """The folder that a scored clip lies in, or the topmost one of a clip for k-means."""
    parts = id_.split("/")
    return parts[2] if parts[1] == "audio" else parts[0]


def fitted(
    encoder: SpeechEncoder,
    layer: Layer,
    root: Path,
    missing: list[tuple[str, int | None]],
    seed: int,
) -> tuple[FeatureStatistics | None, dict[int | None, Tensor]]:
    """Statistics of all that k-means sees, where needed, and centroids by their number."""
    sizes = sorted({k for kind, k in missing if kind not in ("continuous", "syllables")})
    if not sizes and not by_training_set(layer.normalization):
        return None, {}
    ids = find_audio(root)
    np.random.default_rng(seed).shuffle(ids)
    rows = torch.empty(FIT_FRAMES, encoder.dim)
    n_rows = 0
    for _, frames in encoded(encoder, root, ids, layer):
        part = frames[: FIT_FRAMES - n_rows]
        rows[n_rows : n_rows + len(part)] = part
        n_rows += len(part)
        if n_rows == FIT_FRAMES:
            break
    statistics = None
    if by_training_set(layer.normalization):
        statistics = feature_statistics([rows[:n_rows]])
        rows = statistics.normalize(rows)
    blocks = rows[:n_rows].split(20_000)
    return statistics, {
        k: fit_kmeans(lambda: blocks, KMeansConfig(k, seed)).centroids for k in sizes
    }


def runs(frames: Tensor, centroids: Tensor, penalty: float) -> tuple[NDArray, NDArray]:
    """Units (n,) and durations (n,) of frames (m, dim); each frame by itself at penalty 0."""
    if not penalty:
        ids = assign(frames, centroids).numpy().astype(np.int32)
        return ids, np.ones(len(ids), np.int32)
    parts = list(smooth([frames], centroids, penalty * spacing(centroids)))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def syllables(
    encoder: SpeechEncoder, sets: ScoredSets, fit_root: Path, k: int | None, seed: int
) -> tuple[dict[str, tuple[NDArray, NDArray]], Fingerprint]:
    """Syllable units and durations of each clip."""
    assert k is not None
    ids = find_audio(fit_root)
    made = fit_units(fit_root, ids, encoder, k, seed, coarsening=Syllables())
    found = {}
    for first in range(0, len(sets.ids), 64):
        part = sets.ids[first : first + 64]
        for id_, units in zip(
            part, made.encode_many([read_audio(sets.root / id_) for id_ in part]), strict=True
        ):
            found[id_.rpartition(".")[0]] = (units.ids, units.durations)
    return found, made.fingerprint


def trained_soft(hard: UnitEncoder, fit_root: Path, folder: Path, seed: int) -> UnitEncoder:
    """The units with soft ones, trained on the audio that k-means saw."""
    ids = find_audio(fit_root)
    data = prepare_soft_data(
        hard.encoder, hard.normalization, fit_root, ids, folder / "data",
        max_frames=SOFT_FRAMES, seed=seed,
    )  # fmt: skip
    settings = SoftTraining(loop=TrainingConfig(steps=1200, seed=seed))
    run = folder / f"{hard.fingerprint.vocabulary_size}-{seed}"
    hard.soft_units = fit_soft(hard, data, settings, run)
    return hard


def soft_scores(
    sets: ScoredSets, frames: dict[str, Tensor], units: UnitEncoder
) -> dict[str, float]:
    """ABX of soft units by their angles, and PNMI of the most probable unit of each frame."""
    vectors = {clip: soft_of_frames(units, part) for clip, part in frames.items()}
    likeliest = {
        clip: soft_of_frames(units, part, "distribution").argmax(1).astype(np.int32)
        for clip, part in frames.items()
    }
    found = unit_scores(
        sets, {clip: (ids, np.ones_like(ids)) for clip, ids in likeliest.items()}, units.fingerprint
    )
    pnmi = {name: value for name, value in found.items() if name.endswith("pnmi")}
    return pnmi | abx_scores(sets, vectors)


def unit_scores(
    sets: ScoredSets, units: dict[str, tuple[NDArray, NDArray]], fingerprint: Fingerprint
) -> dict[str, float]:
    """PNMI, units and bits a second, and discrete ABX."""
    clips = [
        UnitClip(clip, Units(ids, durations, fingerprint), float(durations.sum()) / 50)
        for clip, (ids, durations) in units.items()
    ]
    usage = unit_usage(clip.units for clip in clips)
    agreement = measure_agreement(clips, sets.labels)
    row = {"pnmi": agreement.all.pnmi}
    row |= {f"{name}_pnmi": counts.pnmi for name, counts in agreement.by_part().items()}
    row |= {"units_per_second": usage.runs_per_second, "bits_per_second": usage.bitrate}
    expanded = {clip: np.repeat(ids, durations) for clip, (ids, durations) in units.items()}
    return row | abx_scores(sets, expanded)


def abx_scores(sets: ScoredSets, features: dict[str, NDArray]) -> dict[str, float]:
    """Errors from 0 to 1 by the names of `SCORES`."""
    tokens = {
        name: slice_features(items, features, frame_rate=50.0) for name, items in sets.items.items()
    }
    return {name: sets.scorers[name](tokens[part]).error_rate for name, (part, _) in SCORES.items()}


if __name__ == "__main__":
    main()
