"""Checkpoints x arms, one load each, resumable."""
