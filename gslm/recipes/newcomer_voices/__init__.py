"""Recipe `newcomer-voices`: forty sentences by two voices that nothing here was trained on."""

from gslm.recipes.newcomer_voices.build import build_voices, read_sentences

__all__ = ["build_voices", "read_sentences"]
