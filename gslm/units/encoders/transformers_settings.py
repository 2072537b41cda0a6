"""What the small files beside a transformers speech model say of its input and its learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gslm.audio import SAMPLE_RATE
from gslm.bundle import read_json_object
from gslm.errors import UserError


def normalizes(folder: Path, model: dict[str, Any]) -> bool:
    """Whether clips are brought to mean 0 and variance 1; checks preprocessor_config.json.

    folder: of the model. model: its config.json. Without the file as in fairseq: where the
    convolutions are normalised over channels. Raises `UserError` for another sample rate or
    other spectra than gslm gives.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return model.get("feat_extract_norm", "group") == "layer"
    asked = read_json_object(path)
    rate = asked.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(
            f"{path}: the encoder was made for {rate} Hz; gslm gives {SAMPLE_RATE:,} Hz, choose "
            "an encoder made for it"
        )
    if model.get("model_type") == "wav2vec2-bert":
        stack, n_mels = asked.get("stride", 2), asked.get("num_mel_bins", 80)
        n_values = model.get("feature_projection_input_dim", 160)
        if stack != 2 or not isinstance(n_mels, int) or 2 * n_mels != n_values:
            raise UserError(f"{path}: stacks of {stack} spectra of {n_mels} bands are not known")
        return False  # by band, see log_mel_pairs
    return bool(asked.get("do_normalize", True))


def learned_from_of(model: dict[str, Any]) -> str:
    """What a model was learned from, by the heads that its config.json (`model`) names."""
    named = model.get("architectures")
    heads = [str(n) for n in named if "For" in str(n)] if isinstance(named, list) else []
    if heads and not heads[0].endswith("ForPreTraining"):
        return f"speech, then transcripts or labels ({heads[0]})"
    return "speech alone"
