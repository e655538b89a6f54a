"""Knowledge conflict: a passage contradicts what the model knows; which of the two it answers."""

from ctx_tasks.conflict.data import CONFLICT, conflict
from ctx_tasks.conflict.scores import closed_book_scores, conflict_scores

__all__ = ["CONFLICT", "closed_book_scores", "conflict", "conflict_scores"]
