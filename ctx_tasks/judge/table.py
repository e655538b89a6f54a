"""Judged runs for people: ratings by category side by side, and paired differences to the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ctx_tasks.columns import TURNS
from ctx_tasks.results import Run, TaskResult, read_runs, read_samples
from ctx_tasks.scores import Metric
from ctx_tasks.statistics import paired_difference
from ctx_tasks.tables import Head, Labelled, Table, Value, interval, number, score, with_error


def tables(paths: Sequence[Path]) -> list[Table]:
    """One table for each task, a column for each judged file."""
    runs = [read_runs([path])[0] for path in paths]
    found = []
    for task in TURNS:
        judged = [run for run in runs if task in run.tasks]
        if judged:
            found.append(_table(task, judged))
    return found


def differences(paths: Sequence[Path]) -> list[str]:
    """For every run after the first: how much more it is rated, on the same questions."""
    runs = [read_runs([path])[0] for path in paths]
    said = []
    for task in TURNS:
        judged = [run for run in runs if task in run.tasks]
        said += [_difference(task, judged[0], other) for other in judged[1:]]
    return said


def _table(task: str, runs: Sequence[Run]) -> Table:
    heads = [Head(run.checkpoint, (run.arm.name, f"n = {run.tasks[task].n}")) for run in runs]
    rows = [
        Labelled(
            name.removeprefix("rating_").replace("_", " "),
            [_value(run.tasks[task].metrics.get(name)) for run in runs],
        )
        for name in dict.fromkeys(name for run in runs for name in run.tasks[task].metrics)
    ]
    return Table(Head(task, ("rated 1 to 10",)), heads, rows)


def _value(metric: Metric | None) -> Value:
    if metric is None or math.isnan(metric.value):
        return Value("-")
    if metric.value == int(metric.value) and metric.error is None:
        return Value(number(metric.value, 0))
    return score(metric.value, math.nan if metric.error is None else metric.error)


def _difference(task: str, first: Run, other: Run) -> str:
    a, b = first.tasks[task], other.tasks[task]
    names = f"{task}: {_name(other)} against {_name(first)}"
    unequal = _unequal(a, b)
    if unequal:
        return f"{names} cannot be compared: {unequal} differ."
    if math.isnan(a.metrics["rating"].value) or math.isnan(b.metrics["rating"].value):
        return f"{names} cannot be compared: one of them has no rating."
    change = paired_difference(read_samples(a), read_samples(b), "rating")
    return (
        f"{names}: {with_error(change.mean, change.error, 2, signed=True)}, 95 % "
        f"{interval(change.low, change.high, 2)}, {change.n} questions"
        f"{'' if change.clear else ' [unclear]'}."
    )


def _name(run: Run) -> str:
    return f"{run.checkpoint} ({run.arm.name})"


def _unequal(a: TaskResult, b: TaskResult) -> str:
    """Settings that differ, but for the template: it may be what is compared."""
    names = [name for name in a.settings if name != "chat template"]
    return ", ".join(name for name in names if a.settings[name] != b.settings[name])
