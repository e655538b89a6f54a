"""MT-Bench: questions, judge prompts, and the two turns as tasks."""

from ctx_tasks.mt_bench.data import questions

__all__ = ["questions"]
