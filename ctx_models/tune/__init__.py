"""`ctx-eval tune`: which remedy a checkpoint should be run with, or none."""
