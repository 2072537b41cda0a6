"""Recipe `prompts-data`: recorded telephone prompts as a folder of audio with transcripts."""

from gslm.recipes.prompts_data.build import PromptsSummary, build_prompts, clean_transcript
from gslm.recipes.prompts_data.split import committed_list, near_duplicates, select_held_out

__all__ = [
    "PromptsSummary",
    "build_prompts",
    "clean_transcript",
    "committed_list",
    "near_duplicates",
    "select_held_out",
]
