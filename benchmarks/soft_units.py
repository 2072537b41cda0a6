"""What frames tell of phones and of speakers: features, hard units, soft units.

    python benchmarks/soft_units.py --work WORK
    python benchmarks/soft_units.py --work WORK --k 200 --temperatures 0.05 0.1 0.2

Units (Whisper tiny.en, layer 3) and soft units are trained on the recorded prompts of five
languages, one voice each. They are judged on four of flite's voices that read the same sentences,
which share no four words in a row with the English prompts. A logistic regression on single frames
learns from some sentences and is tested on others; for `phones, new voice` it learns from three
voices and is tested on the fourth, each voice in turn. Frames of silence are left out. Intervals
are 95 % bootstrap intervals over sentences. Under each row of soft units: how far phones are above
those of hard units, and the speaker above midway between hard units and features.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from gslm.audio import find_audio
from gslm.bundle import read_tensors, write_tensors
from gslm.eval.bootstrap import Interval, paired_difference_interval, ratio_interval
from gslm.eval.flite_speech import VOICES, speak
from gslm.eval.sentences import example_sentences
from gslm.pretrained import whisper_tiny_en
from gslm.sources import flite, prompts, read_transcripts, wordnet
from gslm.training_config import TrainingConfig
from gslm.units.chunking import encode_clips
from gslm.units.encoders import SpeechEncoder, load_encoder
from gslm.units.fit import frames_in_hours
from gslm.units.normalization import normalize_frames
from gslm.units.phone_labels import SILENCE, frame_phones
from gslm.units.quantizers.kmeans import KMeansConfig, fit_kmeans
from gslm.units.soft import SoftUnits
from gslm.units.soft_data import SoftData, in_blocks, prepare_soft_data
from gslm.units.soft_task import SoftTraining, fit_soft
from gslm.units.unit_encoder import UnitEncoder

LANGUAGES = ("en", "es", "fr", "it", "ru")
WEIGHT_PENALTY = 1e-4
ITERATIONS = 60


@dataclass(frozen=True)
class Speech:
    """Frames of speech, silence left out."""

    frames: Tensor
    """Features as the encoder gives them (n, dim)."""
    phones: Tensor
    """Phone of each frame (n,)."""
    voices: Tensor
    """Voice of each frame (n,)."""
    sentences: Tensor
    """Sentence of each frame (n,)."""
    tested: Tensor
    """Whether the frame's sentence is one to test on (n,)."""


@dataclass(frozen=True)
class Scores:
    """Frames told right, by sentence to test on (sentences,)."""

    phones: np.ndarray
    """Phones, of voices that the probe learned from."""
    phones_new_voice: np.ndarray
    """Phones, of a voice that the probe did not learn from."""
    speaker: np.ndarray
    """Voices."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, nargs="+", default=[50, 100, 200, 500])
    parser.add_argument("--dims", type=int, nargs="+", default=[SoftTraining.dim])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[SoftTraining.temperature])
    parser.add_argument("--steps", type=int, nargs="+", default=[SoftTraining().loop.steps])
    parser.add_argument("--sentences", type=int, default=120)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps what was trained, to go on later")
    parser.add_argument("--quick", action="store_true", help="little audio, for a try")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.k, arguments.hours, arguments.sentences = [50], 0.1, 20
    torch.set_num_threads(arguments.threads)
    settings = [
        SoftTraining(dim=dim, temperature=temperature, loop=TrainingConfig(steps=steps))
        for dim in arguments.dims
        for temperature in arguments.temperatures
        for steps in arguments.steps
    ]
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        root = linked_prompts(work / "audio")
        encoder = load_encoder(whisper_tiny_en(), 3)
        speech = spoken(encoder, arguments.sentences, work)
        folder = work / f"{arguments.hours:g}-hours"
        max_frames = frames_in_hours(arguments.hours, encoder.hop_length)
        ids = find_audio(root)
        data = prepare_soft_data(
            encoder, "frame", root, ids, folder / "data", max_frames=max_frames
        )
        print(
            f"{len(VOICES)} voices, {arguments.sentences} sentences, {len(speech.frames)} frames; "
            f"trained on {len(data.train) / 180_000:.2f} hours of prompts"
        )
        print(f"{'':38}{'phones':>20}{'phones, new voice':>20}{'speaker':>22}")
        totals = _totals(speech)
        normalized = normalize_frames(speech.frames)
        features = scores(normalized, speech)
        print_row("features", features, totals)
        for k in arguments.k:
            units, networks = trained(encoder, data, k, settings, folder / f"k{k}")
            nearest = torch.from_numpy(units.quantize(speech.frames)).long()
            hard = scores(F.one_hot(nearest, k).float(), speech)
            print_row(f"hard, K = {k}", hard, totals)
            for setting, network in zip(settings, networks, strict=True):
                with torch.no_grad():
                    vectors = network(normalized)
                    rows = {"vectors": vectors, "distribution": network.distribution(vectors)}
                for kind, row in rows.items():
                    found = scores(row, speech)
                    print_row(f"{setting_name(setting)} {kind}", found, totals)
                    print_gaps(found, hard, features, totals)


def linked_prompts(folder: Path) -> Path:
    """One folder with links to the prompts of all languages."""
    for language in LANGUAGES:
        source = prompts(language).audio
        for id_ in find_audio(source):
            link = folder / language / id_
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((source / id_).resolve())
    return folder


def spoken(encoder: SpeechEncoder, n_sentences: int, work: Path) -> Speech:
    """Let each voice read the same sentences; a third of them are to test on."""
    kept = work / f"spoken-{n_sentences}.safetensors"
    if kept.is_file():
        return _with_split(read_tensors(kept))
    program = flite()
    texts = example_sentences(
        wordnet(), n_sentences, 0, read_transcripts(prompts("en").transcripts).values()
    )
    jobs = [(voice, i) for voice in range(len(VOICES)) for i in range(n_sentences)]
    clips = [
        speak(program, VOICES[voice], texts[i], f"{VOICES[voice]}-{i}", work / "spoken.wav")
        for voice, i in tqdm(jobs, desc="speaking", unit="sentence")
    ]
    names = sorted({name for clip in clips for name in clip.phones.names})
    frames = encode_clips(encoder, [clip.waveform for clip in clips])
    rate = 16_000 / encoder.hop_length
    rows = []
    for (voice, i), clip, part in zip(jobs, clips, frames, strict=True):
        phones = torch.from_numpy(frame_phones(clip.phones, len(part), rate, names)).long()
        heard = (phones >= 0) & (phones != names.index(SILENCE))
        n = int(heard.sum())
        rows.append((part[heard], phones[heard], torch.full((n,), voice), torch.full((n,), i)))
    columns = [torch.cat(column) for column in zip(*rows, strict=True)]
    labels = ("frames", "phones", "voices", "sentences")
    write_tensors(kept, dict(zip(labels, columns, strict=True)))
    return _with_split(read_tensors(kept))


def _with_split(columns: dict[str, Tensor]) -> Speech:
    return Speech(**columns, tested=columns["sentences"] % 3 == 0)


def trained(
    encoder: SpeechEncoder, data: SoftData, k: int, settings: list[SoftTraining], folder: Path
) -> tuple[UnitEncoder, list[SoftUnits]]:
    """Units fitted on the clean frames, and soft units of each setting."""
    path = folder / "units"
    if not (path / "config.json").is_file():
        centroids = fit_kmeans(lambda: in_blocks(data.train), KMeansConfig(k)).centroids
        UnitEncoder(encoder, centroids, "frame").save(path)
    units = UnitEncoder.load(path)
    return units, [fit_soft(units, data, s, folder / setting_name(s)) for s in settings]


def setting_name(settings: SoftTraining) -> str:
    """What tells the settings that are compared apart."""
    return f"{settings.dim}, t={settings.temperature:g}, {settings.loop.steps} steps"


def scores(rows: Tensor, speech: Speech) -> Scores:
    """Train and test the probes on rows (n, dim)."""
    train, test = ~speech.tested, speech.tested
    new_voice = torch.zeros(len(rows), dtype=torch.bool)
    for voice in range(len(VOICES)):
        own = speech.voices == voice
        new_voice |= told(rows, speech.phones, train & ~own, test & own)
    return Scores(
        _by_sentence(told(rows, speech.phones, train, test), speech),
        _by_sentence(new_voice, speech),
        _by_sentence(told(rows, speech.voices, train, test), speech),
    )


def told(rows: Tensor, labels: Tensor, train: Tensor, test: Tensor) -> Tensor:
    """Which frames (n,) a logistic regression trained on `train` tells right, of `test`."""
    mean, deviation = rows[train].mean(0), rows[train].std(0).clamp(min=1e-4)
    known, wanted = (rows[train] - mean) / deviation, labels[train]
    n_labels = int(labels.max()) + 1
    weights = torch.zeros(rows.shape[1], n_labels, requires_grad=True)
    bias = torch.zeros(n_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(known @ weights + bias, wanted)
        loss = loss + WEIGHT_PENALTY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    right = torch.zeros(len(rows), dtype=torch.bool)
    with torch.no_grad():
        guessed = ((rows[test] - mean) / deviation @ weights + bias).argmax(1)
    right[test] = guessed == labels[test]
    return right


def _by_sentence(right: Tensor, speech: Speech) -> np.ndarray:
    counts = torch.bincount(speech.sentences[right], minlength=int(speech.sentences.max()) + 1)
    return counts.numpy()[_tested_sentences(speech)]


def _totals(speech: Speech) -> np.ndarray:
    return torch.bincount(speech.sentences).numpy()[_tested_sentences(speech)]


def _tested_sentences(speech: Speech) -> np.ndarray:
    return speech.sentences[speech.tested].unique().numpy()


def print_row(name: str, found: Scores, totals: np.ndarray) -> None:
    """One line of the table, in percent."""
    cells = [
        _text(ratio_interval(right, totals))
        for right in (found.phones, found.phones_new_voice, found.speaker)
    ]
    print(f"{name:38}{cells[0]:>20}{cells[1]:>20}{cells[2]:>22}", flush=True)


def print_gaps(soft: Scores, hard: Scores, features: Scores, totals: np.ndarray) -> None:
    """Phones: how far above hard units; speaker: how far from midway to the features."""
    midway = (hard.speaker + features.speaker) / 2
    pairs = (
        (soft.phones, hard.phones),
        (soft.phones_new_voice, hard.phones_new_voice),
        (soft.speaker, midway),
    )
    cells = [_text(paired_difference_interval(a, b, totals)) for a, b in pairs]
    print(f"{'  gap':38}{cells[0]:>20}{cells[1]:>20}{cells[2]:>22}", flush=True)


def _text(interval: Interval) -> str:
    percent = interval.scaled(100)
    return f"{percent.estimate:.1f} [{percent.low:.1f}, {percent.high:.1f}]"


if __name__ == "__main__":
    main()
