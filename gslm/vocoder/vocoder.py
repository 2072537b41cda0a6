"""A trained vocoder: units in, samples out, in memory that a long sequence does not grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gslm.audio import Waveform
from gslm.bundle import (
    config_from_json,
    config_to_json,
    read_json_object,
    read_tensors,
    write_json,
    write_tensors,
)
from gslm.errors import UserError
from gslm.types import Fingerprint, Units
from gslm.vocoder.duration import DurationConfig, DurationPredictor, rounded_durations
from gslm.vocoder.excitation import fill_unvoiced, harmonic_pulses, phase_turns, seeded_noise
from gslm.vocoder.generator import FINE_HOP, UNIT_HOP, Generator, GeneratorConfig
from gslm.vocoder.pitch import PitchConfig, PitchPredictor

_WINDOW_FRAMES = 1000
_CONTEXT_FRAMES = 64
"""More than any network here sees to one side, so that windows leave no seams."""


class Vocoder:
    """Durations, pitch and waveform of unit sequences of one fingerprint."""

    def __init__(
        self,
        generator: Generator,
        durations: DurationPredictor,
        pitch: PitchPredictor,
        fingerprint: Fingerprint,
    ) -> None:
        self.generator = generator.eval()
        self.durations = durations.eval()
        self.pitch = pitch.eval()
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def synthesize(self, units: Units, predict_durations: bool = True, seed: int = 0) -> Waveform:
        """Speak a unit sequence.

        predict_durations: ignore the sequence's own durations, as for sequences that a language
        model made. seed: of the noise in the sound. Returns float32 (320 * frames,) at 16 kHz.
        Raises `UserError` where the units are of another fingerprint, or none are left.
        """
        self.fingerprint.require_same(units.fingerprint, "the vocoder", "the unit sequence")
        if units.n_frames == 0:
            raise UserError("no units to speak; the sequence is empty")
        size = self.fingerprint.vocabulary_size
        outside = units.ids[(units.ids < 0) | (units.ids >= size)]
        if len(outside):
            raise UserError(
                f"unit {outside[0]} is outside the vocoder's vocabulary of {size}; "
                "ids run from 0 to one less"
            )
        frames = self._frames(units, predict_durations)
        f0 = _in_windows(lambda part, _: self.pitch.predict(part), frames, 2)
        return self._waveform(frames, f0, seed).clamp(-1, 1).numpy()

    def predict_durations(self, units: Units) -> Units:
        """The de-duplicated sequence with durations in frames that this voice would take."""
        ids = torch.from_numpy(units.deduplicated().ids.astype(np.int64))[None]
        with torch.inference_mode():
            expected = _in_windows(lambda part, _: self.durations.expected(part), ids, 1)
        durations = rounded_durations(expected[0]).numpy().astype(np.int32)
        return Units(ids[0].numpy().astype(np.int32), durations, units.fingerprint)

    def _frames(self, units: Units, predict_durations: bool) -> Tensor:
        """Unit frames int64 (1, frames)."""
        if predict_durations:
            units = self.predict_durations(units)
        return torch.from_numpy(units.expanded().ids.astype(np.int64))[None]

    def _waveform(self, frames: Tensor, f0: Tensor, seed: int) -> Tensor:
        """Samples (320 * frames,) from unit frames (1, frames) and pitch (1, 2 * frames)."""
        filled, voiced = fill_unvoiced(f0), (f0 > 0).float()
        phase_at_start = torch.zeros(1, dtype=torch.float64)

        def part(units: Tensor, first: int) -> Tensor:
            nonlocal phase_at_start
            fine = slice(2 * first, 2 * (first + units.shape[1]))
            context = min(first, _CONTEXT_FRAMES) if first else 0
            turns = phase_turns(filled[:, fine], FINE_HOP)
            # The phase runs on from the window before, wherever this one's context begins.
            turns += phase_at_start - (turns[:, context * UNIT_HOP] if first else 0.0)
            following = (context + _WINDOW_FRAMES) * UNIT_HOP
            if following < turns.shape[1]:
                phase_at_start = torch.remainder(turns[:, following], 1.0)
            pulses = harmonic_pulses(turns, filled[:, fine], voiced[:, fine], FINE_HOP)
            start = first * UNIT_HOP
            noise = seeded_noise(seed, start, start + units.shape[1] * UNIT_HOP)[None]
            shape = self.generator.spectral_shape(units, f0[:, fine])
            return self.generator.synthesize(shape, pulses, noise)

        return _in_windows(part, frames, UNIT_HOP)[0]

    def tensors(self) -> dict[str, Tensor]:
        """All weights by `part.name`."""
        return {
            f"{part}.{name}": tensor
            for part, module in self._parts().items()
            for name, tensor in module.state_dict().items()
        }

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write config.json and model.safetensors; `half` stores weights in float16."""
        folder = Path(folder)
        dtype = torch.float16 if half else None
        write_tensors(folder / "model.safetensors", self.tensors(), dtype)
        config = {part: config_to_json(m.config) for part, m in self._parts().items()}
        write_json(folder / "config.json", {"fingerprint": self.fingerprint.to_json(), **config})

    @classmethod
    def load(cls, folder: str | Path) -> Vocoder:
        """Read what `save` wrote; one-line `UserError`s where files are missing or damaged."""
        folder = Path(folder)
        path = folder / "config.json"
        config = read_json_object(path)
        if not isinstance(config, dict):
            raise UserError(f"{path}: not a vocoder's configuration; copy the bundle again")
        fingerprint = Fingerprint.from_json(config.get("fingerprint", {}), str(path))
        vocoder = cls(
            Generator(config_from_json(GeneratorConfig, config.get("generator"), path)),
            DurationPredictor(config_from_json(DurationConfig, config.get("durations"), path)),
            PitchPredictor(config_from_json(PitchConfig, config.get("pitch"), path)),
            fingerprint,
        )
        tensors = read_tensors(folder / "model.safetensors")
        for part, module in vocoder._parts().items():
            prefix = f"{part}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            try:
                module.load_state_dict(own)
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"{folder}: weights do not fit config.json ({reason})") from None
        return vocoder

    def _parts(self) -> dict[str, Generator | DurationPredictor | PitchPredictor]:
        return {"generator": self.generator, "durations": self.durations, "pitch": self.pitch}


def _in_windows(compute: Callable[[Tensor, int], Tensor], units: Tensor, factor: int) -> Tensor:
    """Apply `compute` to windows of a long sequence with context, and join their middles.

    compute: (units (1, window), first index) to values (1, factor * window). Returns
    (1, factor * n), equal to one call on the whole but for rounding.
    """
    n = units.shape[1]
    if n <= _WINDOW_FRAMES + _CONTEXT_FRAMES:
        return compute(units, 0)
    parts = []
    for start in range(0, n, _WINDOW_FRAMES):
        first = max(0, start - _CONTEXT_FRAMES)
        stop = min(n, start + _WINDOW_FRAMES)
        values = compute(units[:, first : min(n, stop + _CONTEXT_FRAMES)], first)
        parts.append(values[:, (start - first) * factor : (stop - first) * factor])
    return torch.cat(parts, dim=1)
