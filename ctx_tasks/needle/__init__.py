"""Needle in a haystack: a grid of document lengths and needle depths."""

from ctx_tasks.needle.task import PROMPT, build, grid, nih, scores

__all__ = ["PROMPT", "build", "grid", "nih", "scores"]
