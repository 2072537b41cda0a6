"""Speech encoders by short name: where they are, which layer, what licence, what they learned.

Facts come from the models' cards and from the papers and programs named under `layer_from`.
Layers are counted from 1, as transformers counts `hidden_states`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A published speech encoder."""

    name: str
    """Short name, for `--encoder`."""
    source: str
    """Its name on the Hugging Face Hub."""
    layer: int
    """Layer that is used where none is named."""
    n_layers: int
    """Layers of the whole model."""
    layer_from: str
    """Whose choice the layer is."""
    languages: str
    """Languages that it heard."""
    licence: str
    """Licence of the weights, by the model's card."""
    learned_from: str
    """In one phrase, what it was learned from."""
    frame_rate: int = 50
    """Frames a second."""


PRESETS = (
    Preset(
        name="hubert-base",
        source="facebook/hubert-base-ls960",
        layer=6,
        n_layers=12,
        layer_from="GSLM (TWIST and SlamKit take 9, SpidR's comparison 11)",
        languages="English",
        licence="Apache 2.0",
        learned_from="speech alone (960 h of English audiobooks)",
    ),
    Preset(
        name="hubert-large",
        source="facebook/hubert-large-ll60k",
        layer=18,
        n_layers=24,
        layer_from="RepCodec",
        languages="English",
        licence="Apache 2.0",
        learned_from="speech alone (60,000 h of English audiobooks)",
    ),
    Preset(
        name="mhubert-147",
        source="utter-project/mHuBERT-147",
        layer=9,
        n_layers=12,
        layer_from="as TWIST takes of hubert-base, of the same shape",
        languages="147",
        licence="CC BY-NC-SA 4.0 (no commercial use)",
        learned_from="speech alone (90,000 h in 147 languages)",
    ),
    Preset(
        name="mhubert-25hz",
        source="slprl/mhubert-base-25hz",
        layer=11,
        n_layers=12,
        layer_from="TWIST and SlamKit",
        languages="several",
        licence="MIT",
        learned_from="speech alone (MLS, VoxPopuli, Common Voice, Spotify, Fisher)",
        frame_rate=25,
    ),
    Preset(
        name="wav2vec2-base",
        source="facebook/wav2vec2-base",
        layer=6,
        n_layers=12,
        layer_from="SpidR's comparison",
        languages="English",
        licence="Apache 2.0",
        learned_from="speech alone (960 h of English audiobooks)",
    ),
    Preset(
        name="wav2vec2-large",
        source="facebook/wav2vec2-large-lv60",
        layer=14,
        n_layers=24,
        layer_from="GSLM",
        languages="English",
        licence="Apache 2.0",
        learned_from="speech alone (60,000 h of English audiobooks)",
    ),
    Preset(
        name="xlsr-53",
        source="facebook/wav2vec2-large-xlsr-53",
        layer=14,
        n_layers=24,
        layer_from="as wav2vec2-large, of the same shape",
        languages="53",
        licence="Apache 2.0",
        learned_from="speech alone (56,000 h in 53 languages)",
    ),
    Preset(
        name="xls-r-300m",
        source="facebook/wav2vec2-xls-r-300m",
        layer=14,
        n_layers=24,
        layer_from="as wav2vec2-large, of the same shape",
        languages="128",
        licence="Apache 2.0",
        learned_from="speech alone (436,000 h in 128 languages)",
    ),
    Preset(
        name="mms-300m",
        source="facebook/mms-300m",
        layer=14,
        n_layers=24,
        layer_from="as wav2vec2-large, of the same shape",
        languages="over 1,400",
        licence="CC BY-NC 4.0 (no commercial use)",
        learned_from="speech alone (491,000 h in over 1,400 languages)",
    ),
    Preset(
        name="wavlm-base",
        source="microsoft/wavlm-base",
        layer=11,
        n_layers=12,
        layer_from="SpidR's comparison",
        languages="English",
        licence="CC BY-SA 3.0 (UniSpeech's, by its card)",
        learned_from="speech alone (960 h of English audiobooks)",
    ),
    Preset(
        name="wavlm-base-plus",
        source="microsoft/wavlm-base-plus",
        layer=11,
        n_layers=12,
        layer_from="as wavlm-base, of the same shape",
        languages="English",
        licence="CC BY-SA 3.0 (UniSpeech's, by its card)",
        learned_from="speech alone (94,000 h of English)",
    ),
    Preset(
        name="wavlm-large",
        source="microsoft/wavlm-large",
        layer=21,
        n_layers=24,
        layer_from="ESPnet's discrete units (ZeroSyl: 13 for boundaries, 22 for units)",
        languages="English",
        licence="CC BY-SA 3.0 (UniSpeech's, by its card)",
        learned_from="speech alone (94,000 h of English)",
    ),
    Preset(
        name="data2vec-base",
        source="facebook/data2vec-audio-base",
        layer=6,
        n_layers=12,
        layer_from="RepCodec",
        languages="English",
        licence="Apache 2.0",
        learned_from="speech alone (960 h of English audiobooks)",
    ),
    Preset(
        name="w2v-bert-2.0",
        source="facebook/w2v-bert-2.0",
        layer=17,
        n_layers=24,
        layer_from="MaskGCT",
        languages="over 143",
        licence="MIT",
        learned_from="speech alone (4.5 million h in over 143 languages)",
    ),
)
"""All presets, in the order in which they are listed."""


def preset(name: str) -> Preset | None:
    """The preset of this short name, or None where there is none."""
    return next((found for found in PRESETS if found.name == name), None)


def table() -> str:
    """All encoders that have a short name, a line each, with layer, frame rate and licence."""
    rows = [("encoder", "layer", "Hz", "languages", "licence", "Hub name or what it is")]
    rows += [
        ("tiny.en", "3 of 4", "50", "English", "MIT", "Whisper's, learned with text"),
        ("mfcc", "-", "50", "any", "-", "a fixed spectrum"),
        ("log-mel", "-", "50", "any", "-", "a fixed spectrum"),
    ]
    rows += [
        (
            found.name,
            f"{found.layer} of {found.n_layers}",
            str(found.frame_rate),
            found.languages,
            found.licence,
            found.source,
        )
        for found in PRESETS
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
