"""ABX errors that zerospeech-libriabx2 0.9.8 and fastabx 0.9.0 give, of features made here.

`python tests/eval/test_abx_against_others.py FOLDER` writes the features as `.npy` and `made.item`.
zerospeech-libriabx2 scored them with `zrc-abx2 FOLDER FOLDER/made.item --feature_size 0.02
--max_size_group 999999 --max_x_across 999999 --distance_mode …`, fastabx with `zerospeech_abx(…,
max_size_group=None, max_x_across=None)`; the units with its distance `identical`.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from gslm.eval.abx import AbxScorer, phone_task
from gslm.eval.abx_items import read_items, slice_features

LIBRIABX2 = {
    ("within", "within", "angular"): 0.53861094,
    ("across", "within", "angular"): 0.49839523,
    ("within", "any", "angular"): 0.51162589,
    ("across", "any", "angular"): 0.49913499,
    ("within", "within", "euclidean"): 0.53752512,
    ("across", "within", "euclidean"): 0.50183010,
    ("within", "any", "euclidean"): 0.50984579,
    ("across", "any", "euclidean"): 0.49998271,
    ("within", "within", "kl"): 0.51200926,
    ("across", "within", "kl"): 0.49263528,
    ("within", "any", "kl"): 0.50576895,
    ("across", "any", "kl"): 0.50175661,
}
FASTABX = {
    ("within", "within", "angular"): 0.52163209,
    ("within", "any", "angular"): 0.50099263,
    ("across", "within", "angular"): 0.49852934,
    ("across", "any", "angular"): 0.50373723,
    ("within", "within", "euclidean"): 0.52228848,
    ("within", "any", "euclidean"): 0.50631366,
    ("across", "within", "euclidean"): 0.49276240,
    ("across", "any", "euclidean"): 0.50897225,
    ("within", "within", "one-hot"): 0.53106978,
    ("within", "any", "one-hot"): 0.49677750,
    ("across", "within", "one-hot"): 0.51376392,
    ("across", "any", "one-hot"): 0.49640197,
}


def made(kind="features"):
    """Item file's text, and features (n, 6) or units (n,) by file, 50 a second."""
    random = np.random.default_rng(11)
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for number in range(150):
        phone, before, speaker = random.integers(0, (4, 2, 3))
        # Tokens that share frames are at distances of rounding errors, which differ.
        onset = 0.4 * (number // 3) + random.uniform(0.02, 0.15)
        offset = onset + random.uniform(0.06, 0.2)
        lines.append(f"f{number % 3} {onset:.4f} {offset:.4f} p{phone} c{before} c0 s{speaker}")
    frames = {f"f{file}": random.random((1000, 6), dtype=np.float32) for file in range(3)}
    if kind == "units":
        frames = {file: values[:, :4].argmax(1) for file, values in frames.items()}
    return "\n".join(lines) + "\n", frames


def error_rate(tmp_path, kind, slicing, speaker, context, distance, **options):
    text, frames = made(kind)
    (tmp_path / "made.item").write_text(text, encoding="utf-8")
    items = read_items(tmp_path / "made.item")
    tokens = slice_features(items, frames, frame_rate=50, slicing=slicing)
    return AbxScorer(items, phone_task(speaker, context))(tokens, distance, **options).error_rate


@pytest.mark.parametrize(("speaker", "context", "distance"), LIBRIABX2)
def test_compatible_mode_is_zerospeech_libriabx2(tmp_path, speaker, context, distance):
    found = error_rate(
        tmp_path, "features", "librilight", speaker, context, distance, unit_length=True
    )
    assert found == pytest.approx(LIBRIABX2[speaker, context, distance], abs=1e-6)


@pytest.mark.parametrize(("speaker", "context", "distance"), FASTABX)
def test_default_mode_is_fastabx(tmp_path, speaker, context, distance):
    kind = "units" if distance == "one-hot" else "features"
    found = error_rate(tmp_path, kind, "centres", speaker, context, distance)
    assert found == pytest.approx(FASTABX[speaker, context, distance], abs=1e-6)


def write(folder):
    """Write what the others scored."""
    for kind in ("features", "units"):
        text, frames = made(kind)
        place = folder / kind
        place.mkdir(parents=True)
        (place / "made.item").write_text(text, encoding="utf-8")
        for file, values in frames.items():
            np.save(place / f"{file}.npy", values.reshape(len(values), -1))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
