"""Checkpoints and arms side by side: scores, ties, template tax, gains, alpha curves."""
