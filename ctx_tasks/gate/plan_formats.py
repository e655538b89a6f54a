"""A plan of a gate, for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ctx_tasks.gate.plan import MOST_DOCUMENTS, POWERS, SMALLER, Question, TaskPlan
from ctx_tasks.leaderboard.formats import finite
from ctx_tasks.tables import Head, Labelled, Table, Value, number

FORMAT = "lm-eval-ctx gate plan 1"


def tables(plans: Sequence[TaskPlan], loss: float) -> list[Table]:
    """One table for what passes and one for what is found; a line a task."""
    return [
        _table("How often no change passes", plans, [one.passing for one in plans]),
        _table(f"How often a loss of {loss:g} is found", plans, [one.finding for one in plans]),
    ]


def sentences(plans: Sequence[TaskPlan]) -> list[str]:
    """Where the numbers come from."""
    said = [
        f"{one.task}: {one.noise.source}; correlation within clusters "
        f"{number(one.noise.together, 2)}."
        for one in plans
    ]
    said.append("Each task by itself; a gate passes only where all of its tasks do.")
    if any(None in question.needed for one in plans for question in (one.passing, one.finding)):
        said.append(
            f"-: more than {MOST_DOCUMENTS:,} documents, or never with these needles: "
            "another margin, another loss, or more needles."
        )
    return said


def as_json(plans: Sequence[TaskPlan], loss: float) -> str:
    """Everything, numbers unrounded."""
    tasks = [_plain(one) for one in plans]
    content = {"format": FORMAT, "loss": loss, "powers": POWERS, "tasks": tasks}
    return json.dumps(finite(content), indent=1, allow_nan=False) + "\n"


def _plain(one: TaskPlan) -> dict[str, Any]:
    fields = dataclasses.asdict(one)
    fields["noise"].pop("steps")
    return fields


def _table(title: str, plans: Sequence[TaskPlan], questions: Sequence[Question]) -> Table:
    parts = {0.25: "a quarter", 0.5: "half", 1.0: "as many"}
    heads = [Head(parts[part]) for part in SMALLER] + [
        Head(f"{power:.0%} need") for power in POWERS
    ]
    rows = [
        Labelled(f"{one.task} (margin {one.margin:.3g})", _values(question))
        for one, question in zip(plans, questions, strict=True)
    ]
    return Table(Head("task"), heads, rows, title=title)


def _values(question: Question) -> list[Value]:
    now = [
        Value(f"{size.chance:.0%} of {size.documents:,} / {size.clusters:,}")
        for size in question.smaller
    ]
    needed = [
        Value("-" if size is None else f"{size.documents:,} / {size.clusters:,}")
        for size in question.needed
    ]
    return now + needed
