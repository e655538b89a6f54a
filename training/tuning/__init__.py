"""One recipe, tuned: TRL's trainer, the token rows, and what is left on disk."""
