"""Waveform to units: an encoder, a normalisation and centroids, as one object and one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gslm.audio import SAMPLE_RATE, stream_audio
from gslm.bundle import (
    config_from_json,
    read_json,
    read_tensors,
    tensors_hash,
    write_json,
    write_tensors,
)
from gslm.errors import UserError
from gslm.types import Fingerprint, Units
from gslm.units.chunking import encode_clips, encode_stream, for_recording
from gslm.units.coarsening import Coarsening, coarsening_from_json, coarsening_to_json
from gslm.units.encoders import Chunking, SpeechEncoder, build_encoder
from gslm.units.encoders.precision import in_precision
from gslm.units.normalization import (
    FeatureStatistics,
    by_frame,
    by_training_set,
    check_normalization,
    feature_statistics,
    normalize_frames,
)
from gslm.units.quantizers.kmeans import assign
from gslm.units.quantizers.smoothing import Smoothing, smooth, spacing
from gslm.units.quantizers.spherical import assign_spherical
from gslm.units.soft import SoftUnits, remove_soft, soft_blocks
from gslm.units.syllables import Syllables, pool_syllables

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class _FolderConfig:
    """What a folder's config.json holds beside the tensors."""

    encoder: str
    """Name of the encoder."""
    encoder_config: dict[str, Any]
    """The encoder's own settings."""
    chunking: dict[str, int]
    """How long recordings are cut."""
    normalization: str
    """One of `NORMALIZATIONS`."""
    fingerprint: dict[str, Any]
    """Fingerprint of the units, which half precision must not change."""
    coarsening: dict[str, Any] | None = None
    """How units are made coarser than one a frame; None where they are not."""


class UnitEncoder:
    """Turns speech into discrete units: encoder, normalisation, nearest centroid.

    With a coarsening, units come with durations in frames. Smoothed ones never repeat a unit.
    Syllables of one unit that follow each other stay apart, unless units are de-duplicated; each
    stretch of silence is one unit, the last of the vocabulary.
    """

    soft_units: SoftUnits | None = None
    """What `gslm units soft` trained, for `soft`; None where there are only hard units."""

    def __init__(
        self,
        encoder: SpeechEncoder,
        centroids: Tensor,
        normalization: str = "none",
        statistics: FeatureStatistics | None = None,
        fingerprint: Fingerprint | None = None,
        coarsening: Coarsening | None = None,
    ) -> None:
        """Join the parts.

        centroids: float32 (K, dim), in the space of normalised features; of unit length for
        syllables. statistics: of the training set, for `global` and `frame+global` alone.
        fingerprint: as stored beside weights in half precision; made from the parts where None.
        coarsening: `Smoothing` or `Syllables`; None for one unit a frame.
        """
        check_normalization(normalization)
        if centroids.ndim != 2 or centroids.shape[1] != encoder.dim:
            raise UserError(
                f"centroids of shape {tuple(centroids.shape)} do not fit {encoder.name} features "
                f"of {encoder.dim} dimensions; fit them with this encoder"
            )
        if by_training_set(normalization) != (statistics is not None):
            raise UserError(
                "normalisations 'global' and 'frame+global' need statistics; the others take none"
            )
        self.encoder = encoder
        self.centroids = centroids.float()
        self.normalization = normalization
        self.statistics = statistics
        self.coarsening = coarsening
        self.fingerprint = fingerprint or self._fingerprint()

    @property
    def n_units(self) -> int:
        """Size of the vocabulary: a unit for each centroid, and for syllables that of silence."""
        return len(self.centroids) + isinstance(self.coarsening, Syllables)

    def smoothed(self, penalty: float) -> UnitEncoder:
        """The same encoder and centroids with changes of the unit at `penalty`; 0 for none.

        Raises `UserError` for syllables, and for a penalty below 0 or not finite.
        """
        if isinstance(self.coarsening, Syllables):
            raise UserError("syllables cannot be smoothed; smooth units of one a frame")
        coarsening = Smoothing(penalty) if penalty else None
        fingerprint = replace(self.fingerprint, coarsening=_named(coarsening))
        smoothed = UnitEncoder(
            self.encoder,
            self.centroids,
            self.normalization,
            self.statistics,
            fingerprint,
            coarsening,
        )
        smoothed.soft_units = self.soft_units
        return smoothed

    def in_precision(self, precision: str) -> UnitEncoder:
        """The same units computed in `float32`, `bfloat16` or `auto`, see encoders/precision.py.

        Raises `UserError` for bfloat16 where the encoder knows float32 alone.
        """
        converted = UnitEncoder(
            in_precision(self.encoder, precision),
            self.centroids,
            self.normalization,
            self.statistics,
            self.fingerprint,
            self.coarsening,
        )
        converted.soft_units = self.soft_units
        return converted

    def __call__(
        self,
        waveform: Waveform | Tensor,
        sample_rate: int = SAMPLE_RATE,
        deduplicate: bool = False,
    ) -> Units:
        """Units of one waveform, one a frame, or runs with durations if `deduplicate`.

        waveform: float (samples,) in [-1, 1] at `sample_rate` Hz. Raises `UserError` for one
        that is empty, not mono, or not finite.
        """
        units = self.encode_many([_checked(waveform, sample_rate)])[0]
        return units.deduplicated() if deduplicate else units

    def soft(
        self, waveform: Waveform | Tensor, sample_rate: int = SAMPLE_RATE
    ) -> NDArray[np.float32]:
        """Soft units (frames, dim) of one waveform, each of length one; see `gslm.units.soft`.

        waveform: as for a call, with the same errors, and one where there are no soft units.
        """
        samples = _checked(waveform, sample_rate)
        return np.concatenate(list(soft_blocks(self, lambda: [samples])))

    def encode_many(self, waveforms: Sequence[Waveform]) -> list[Units]:
        """Units of 16 kHz waveforms (samples,), encoded together in batches of like length."""
        clips = encode_clips(self.encoder, waveforms)
        return [self._clip_units(w, frames) for w, frames in zip(waveforms, clips, strict=True)]

    def encode_file(self, path: str | Path, deduplicate: bool = False) -> Units:
        """Units of an audio file of any format and length, read in blocks; bounded memory."""
        units = self.encode_blocks(lambda: stream_audio(path))
        return units.deduplicated() if deduplicate else units

    def encode_blocks(self, blocks: Callable[[], Iterable[Waveform]]) -> Units:
        """Units of one long recording.

        blocks: called for each reading; gives float32 (samples,) at 16 kHz in order. It is
        read again where each recording is normalised by itself, by HuBERT's kin (see
        `chunking.for_recording`), and for its level of syllables.
        """
        encoder = for_recording(self.encoder, blocks)
        statistics = None
        if self.normalization == "utterance":
            statistics = feature_statistics(encode_stream(encoder, blocks()))
        return self._units(blocks, lambda read: encode_stream(encoder, read), statistics)

    def quantize(
        self, frames: Tensor, statistics: FeatureStatistics | None = None
    ) -> NDArray[np.int32]:
        """Units (n,) of encoder frames (n, dim), each by itself: the nearest centroids.

        statistics: of the whole recording, where `frames` is only a part of it.
        """
        normalized = self.normalize(frames.cpu(), statistics)
        return assign(normalized, self.centroids).numpy().astype(np.int32)

    def normalize(self, frames: Tensor, statistics: FeatureStatistics | None = None) -> Tensor:
        """Frames (n, dim) as the quantiser sees them; `statistics` as for `quantize`."""
        if by_frame(self.normalization):
            frames = normalize_frames(frames)
        if self.normalization == "utterance":
            statistics = statistics or feature_statistics([frames])
        else:
            statistics = self.statistics
        return statistics.normalize(frames) if statistics else frames

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write config.json, encoder.safetensors, centroids.safetensors and soft units, if any.

        half: store the encoder's weights as float16; centroids stay float32.
        """
        folder = Path(folder)
        tensors = self.encoder.tensors()
        weights = folder / "encoder.safetensors"
        if tensors:
            write_tensors(weights, tensors, torch.float16 if half else None)
        else:
            weights.unlink(missing_ok=True)  # of other units that were here before
        write_tensors(folder / "centroids.safetensors", self._quantizer_tensors())
        remove_soft(folder)
        if self.soft_units is not None:
            self.soft_units.save(folder, self.fingerprint)
        config = _FolderConfig(
            encoder=self.encoder.name,
            encoder_config=self.encoder.config(),
            chunking=asdict(self.encoder.chunking),
            normalization=self.normalization,
            fingerprint=self.fingerprint.to_json(),
            coarsening=coarsening_to_json(self.coarsening),
        )
        write_json(folder / "config.json", asdict(config))

    @classmethod
    def load(cls, folder: str | Path) -> UnitEncoder:
        """Read what `save` wrote.

        Raises `UserError` where a file is missing or damaged, or the centroids are not those of
        the fingerprint.
        """
        folder = Path(folder)
        where = folder / "config.json"
        config = config_from_json(_FolderConfig, read_json(where), where)
        chunking = config_from_json(Chunking, config.chunking, where)
        has_weights = (folder / "encoder.safetensors").is_file()
        tensors = read_tensors(folder / "encoder.safetensors") if has_weights else {}
        encoder = build_encoder(config.encoder, config.encoder_config, tensors, chunking, where)
        quantizer = read_tensors(folder / "centroids.safetensors")
        if "centroids" not in quantizer:
            raise UserError(f"{folder / 'centroids.safetensors'}: holds no centroids")
        statistics = None
        if {"mean", "deviation"} <= set(quantizer):
            statistics = FeatureStatistics(quantizer["mean"], quantizer["deviation"])
        fingerprint = Fingerprint.from_json(config.fingerprint, str(where))
        coarsening = coarsening_from_json(config.coarsening, where)
        if fingerprint.coarsening != _named(coarsening):
            raise UserError(
                f"{where}: its coarsening [{_named(coarsening)}] is not the fingerprint's "
                f"[{fingerprint.coarsening}]; make the folder again"
            )
        loaded = cls(
            encoder,
            quantizer["centroids"],
            config.normalization,
            statistics,
            fingerprint,
            coarsening,
        )
        found = tensors_hash(loaded._quantizer_tensors())
        if (found, loaded.n_units) != (fingerprint.centroids_hash, fingerprint.vocabulary_size):
            raise UserError(
                f"{folder / 'centroids.safetensors'}: holds {loaded.n_units} centroids of hash "
                f"{found}, but config.json names {fingerprint.vocabulary_size} of "
                f"{fingerprint.centroids_hash}; copy both from one bundle"
            )
        loaded.soft_units = SoftUnits.load(folder, fingerprint)
        return loaded

    def _clip_units(self, waveform: Waveform, frames: Tensor) -> Units:
        return self._units(lambda: [waveform], lambda _: [frames])

    def _units(
        self,
        blocks: Callable[[], Iterable[Waveform]],
        encode: Callable[[Iterable[Waveform]], Iterable[Tensor]],
        statistics: FeatureStatistics | None = None,
    ) -> Units:
        """Units of one recording, read by `blocks`, whose frames (n, dim) `encode` gives."""
        match self.coarsening:
            case None:
                parts = [self.quantize(frames, statistics) for frames in encode(blocks())]
                return Units(np.concatenate(parts), None, self.fingerprint)
            case Smoothing():
                frames = (self.normalize(part.cpu(), statistics) for part in encode(blocks()))
                runs = list(smooth(frames, self.centroids, self._change_cost))
            case Syllables():
                runs = list(self._syllables(blocks, encode, statistics))
        ids, durations = (np.concatenate(part) for part in zip(*runs, strict=True))
        units = Units(ids, durations, self.fingerprint)
        return units.deduplicated() if isinstance(self.coarsening, Smoothing) else units

    def _syllables(
        self,
        blocks: Callable[[], Iterable[Waveform]],
        encode: Callable[[Iterable[Waveform]], Iterable[Tensor]],
        statistics: FeatureStatistics | None,
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Units and durations in frames, as they are found."""
        assert isinstance(self.coarsening, Syllables)
        for found in pool_syllables(
            blocks,
            encode,
            lambda frames: self.normalize(frames.cpu(), statistics),
            self.coarsening,
            self.encoder.hop_length,
        ):
            nearest = assign_spherical(found.vectors, self.centroids).numpy()
            ids = np.where(found.silent, len(self.centroids), nearest)
            yield ids.astype(np.int32), found.durations

    @cached_property
    def _change_cost(self) -> float:
        assert isinstance(self.coarsening, Smoothing)
        return self.coarsening.penalty * spacing(self.centroids)

    def _quantizer_tensors(self) -> dict[str, Tensor]:
        tensors = {"centroids": self.centroids}
        if self.statistics is not None:
            tensors |= {"mean": self.statistics.mean, "deviation": self.statistics.deviation}
        return tensors

    def _fingerprint(self) -> Fingerprint:
        return Fingerprint(
            encoder=self.encoder.name,
            weights_hash=self.encoder.weights_hash,
            layer=self.encoder.layer,
            frame_rate=SAMPLE_RATE / self.encoder.hop_length,
            normalization=self.normalization,
            centroids_hash=tensors_hash(self._quantizer_tensors()),
            vocabulary_size=self.n_units,
            coarsening=_named(self.coarsening),
        )


def _named(coarsening: Coarsening | None) -> str:
    return "" if coarsening is None else str(coarsening)


def _checked(waveform: Waveform | Tensor, sample_rate: int) -> Waveform:
    """A waveform as float32 numpy (samples,) at 16 kHz, or a `UserError`."""
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1:
        raise UserError(
            f"waveform of shape {samples.shape}: expected mono, (samples,); average its channels"
        )
    if len(samples) == 0:
        raise UserError("waveform: holds no samples; give at least one")
    if not np.isfinite(samples).all():
        raise UserError("waveform: holds NaN or infinite samples; clean it first")
    if sample_rate <= 0:
        raise UserError(f"sample rate of {sample_rate} Hz: give the waveform's rate, above 0")
    if sample_rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, sample_rate, SAMPLE_RATE).astype(np.float32)
    return samples
