"""Needle in a haystack: a grid of document lengths and needle depths."""

from ctx_tasks.needle.task import build, grid, nih, scores
from ctx_tasks.needle.wordings import PROMPT, prompt, prompt_spread

__all__ = ["PROMPT", "build", "grid", "nih", "prompt", "prompt_spread", "scores"]
