"""Bundled questions on real, true prose, in the shape of SQuAD, QuAC and DROP; no benchmark.

Thirty passages written for this project (README.md there), so that a real model can be tried
without a network. Divergence from QuAC as the paper asks it: every question of a dialogue is asked,
after the questions before it with their answers, and not the first alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctx_tasks import reading
from ctx_tasks.reading_rows import DROP, QUAC, SQUAD, Benchmark
from ctx_tasks.rows import Record

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = Path(__file__).parent / "data"
SOURCE = "prose (bundled)"


def squad(**settings: Any) -> dict[str, Dataset]:
    """Questions whose answer is a span: `{"validation": Dataset}` of `reading_rows.ReadingRow`.

    Args:
        questions: how many, from the first; None (default) for all 60. The first 30 are one to a
            passage.
        data_used: filled with `source`, `sha256` and `rows`, see `reading.squad`.
        settings: anything else the harness hands on is not looked at.
    """
    return _load(SQUAD, "squad", **settings)


def quac(**settings: Any) -> dict[str, Dataset]:
    """Dialogues of two questions, each asked; see `squad`."""
    return _load(replace(QUAC, unnest=_turns), "quac", **settings)


def drop(**settings: Any) -> dict[str, Dataset]:
    """Questions for numbers that stand in the passage, or are counted or reckoned; see `squad`."""
    return _load(DROP, "drop", **settings)


def _load(
    benchmark: Benchmark,
    name: str,
    *,
    questions: Any = None,
    data_used: dict[str, Any] | None = None,
    **_unused: Any,
) -> dict[str, Dataset]:
    named = replace(benchmark, name=f"prose {name}")
    return reading.bundled(named, FOLDER / f"{name}.jsonl", SOURCE, questions, data_used)


def _turns(record: Record) -> Iterator[Record]:
    """Each question of a dialogue as the first of one, with what was said before in front of it."""
    row = record.value
    said = ""
    turns = zip(row["questions"], row["answers"]["texts"], strict=True)
    for number, (question, answers) in enumerate(turns, start=1):
        turn = {
            "dialogue_id": f"{row['dialogue_id']}-{number}",
            "questions": [said + question],
            "answers": {"texts": [answers]},
        }
        yield Record(f"{record.where}, question {number}", {**row, **turn})
        said += f"{question} {answers[0]}.\n"
