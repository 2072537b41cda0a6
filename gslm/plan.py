"""What `gslm train` is about to do, and about how long it takes on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import soundfile
import torch

from gslm.audio import SAMPLE_RATE, find_audio
from gslm.pipeline import BundleSettings, speech_encoder
from gslm.training import TrainingConfig, has_bfloat16
from gslm.ulm.model import preset
from gslm.units.encoders import SpeechEncoder

_WHISPER_GFLOP, _CEPSTRAL_GFLOP = 0.6, 0.01
"""GFLOP a second of speech: tiny.en's third layer; other costs are small beside these."""
_CONVOLUTIONS_GFLOP = 5.0
"""The same of the seven convolutions that HuBERT and its kin read waveforms with."""
_GENERATOR_GFLOP = 1.5
"""GFLOP a second of audio of the default generator, forward."""
_DISCRIMINATOR_GFLOP = 1.6
"""GFLOP a second of audio of the default discriminators, forward."""
_PROSODY_GFLOP = 35.0
"""A step of durations and pitch takes as long as products of this size."""
_GENERATOR_SHARES = {False: 0.95, True: 1.35}
"""What the generator's training reaches of the float32 matmul rate without and with bfloat16
instructions, measured with the default settings."""
_LANGUAGE_SHARE = 0.55
"""What the language model's reaches, with those instructions or not."""


def print_plan(audio_root: str | Path, settings: BundleSettings) -> None:
    """Print the stages, what the encoder was learned from, and an estimate of the time."""
    ids = find_audio(audio_root)
    seconds, known = _duration(Path(audio_root), ids)
    encoder = speech_encoder(settings.units)
    rate = matmul_rate()
    minutes = _minutes(settings, _encoder_gflop(encoder), seconds, rate)
    about = "about " if known else "at least "
    print(f"{len(ids)} recordings, {about}{seconds / 60:.1f} minutes")
    layer = f", layer {encoder.layer}" if encoder.layer else ""
    print(f"1. units: {encoder.name}{layer}, K={settings.units.k}")
    print(f"   the encoder was learned from {encoder.learned_from}")
    if encoder.name == "whisper":
        print("   text-free instead: -s units.encoder=mfcc or -s units.encoder=log-mel")
    tried = ", ".join(f"BPE {size}" for size in settings.tokenizer.bpe_sizes)
    print(f"2. tokens: plain units{f' or {tried}, by held-out bits' if tried else ''}")
    model = preset(settings.ulm.size, settings.units.k, context=settings.ulm.context)
    print(f"3. unit language model: {settings.ulm.size}, {model.n_layers} layers of {model.dim}")
    print(f"4. vocoder: {settings.vocoder.generator.loop.steps} steps, durations and pitch first")
    stages = ", ".join(f"{name} {value:.0f}" for name, value in minutes.items())
    precision = "bfloat16" if _has_bfloat16(settings.vocoder.generator.loop) else "float32"
    print(
        f"about {sum(minutes.values()):.0f} minutes ({stages}) at {rate / 1e9:.0f} GFLOP/s of "
        f"float32 matmul, training in {precision}"
    )


def matmul_rate(size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    a = torch.randn(size, size)
    a @ a
    started = time.perf_counter()
    for _ in range(repeats):
        a @ a
    return repeats * 2 * size**3 / (time.perf_counter() - started)


def _has_bfloat16(loop: TrainingConfig) -> bool:
    if loop.mixed_precision == "auto":
        return has_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return loop.mixed_precision == "bf16"


def _duration(root: Path, ids: list[str]) -> tuple[float, bool]:
    """Seconds of audio; files whose header does not tell are left out."""
    total, known = 0.0, True
    for id_ in ids:
        try:
            total += soundfile.info(root / id_).duration
        except (soundfile.LibsndfileError, UnicodeEncodeError):
            known = False
    return total, known


def _encoder_gflop(encoder: SpeechEncoder) -> float:
    """GFLOP a second of speech."""
    weights = sum(tensor.numel() for tensor in encoder.tensors().values())
    if not weights:
        return _CEPSTRAL_GFLOP
    if encoder.name == "whisper":
        return _WHISPER_GFLOP
    return _CONVOLUTIONS_GFLOP + 2e-9 * weights * SAMPLE_RATE / encoder.hop_length


def _minutes(
    settings: BundleSettings, encoder_gflop: float, seconds: float, rate: float
) -> dict[str, float]:
    # Once for k-means, once for the corpus, and once for each view.
    passes = 2 + settings.vocoder.n_views
    encoding = passes * seconds * encoder_gflop * 1e9 / (0.6 * rate)
    ulm = settings.ulm
    tokens = ulm.training.steps * ulm.training.accumulate * ulm.rows * ulm.row_length
    n_models = 1 + len(settings.tokenizer.bpe_sizes)
    language = n_models * 6 * _parameters(settings) * tokens
    return {
        "units": encoding / 60,
        "language model": language / (rate * _LANGUAGE_SHARE) / 60,
        "vocoder": _vocoder_minutes(settings, encoder_gflop, rate),
    }


def _vocoder_minutes(settings: BundleSettings, encoder_gflop: float, rate: float) -> float:
    """A gradient costs twice its forward; discriminators hear real and made audio, twice."""
    prosody = settings.vocoder.prosody.loop.steps * _PROSODY_GFLOP * 1e9 / rate
    generator = settings.vocoder.generator
    crop = generator.batch_size * generator.crop_frames / 50
    judged = generator.batch_size * generator.adversarial_frames / 50
    steps = generator.loop.steps
    adversarial = max(0, steps - generator.adversarial_from)
    gflop = crop * (3 * _GENERATOR_GFLOP + 4 * encoder_gflop) * steps
    gflop += 9 * judged * _DISCRIMINATOR_GFLOP * adversarial
    usable = rate * _GENERATOR_SHARES[_has_bfloat16(generator.loop)]
    return (prosody + gflop * 1e9 / usable) / 60


def _parameters(settings: BundleSettings) -> float:
    model = preset(settings.ulm.size, settings.units.k)
    return 12.0 * model.n_layers * model.dim**2
