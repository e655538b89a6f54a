"""Which metric and filter of the harness stand for a task: by rule, or as asked.

The rule: filter "none", else the task's first; the first of `PRIMARY` that there is, else the first
metric. A metric that is named by a number is a length (RULER), and -1 there says that it was not
measured: such lengths are left out, and several that were measured are one mean over them. Where
there was a choice, a sentence says what was taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctx_tasks.answers import NAMES
from ctx_tasks.columns import GROUPS, TASKS
from ctx_tasks.errors import UserError

# The metric that stands for a task, in order of preference; otherwise its first.
PRIMARY = ("score", "rating", "recall", "contains", "acc")
# Shares that say how far a score can be trusted: shown beside it, in no place of it unasked.
BESIDE = ("empty", *NAMES)
NOT_MEASURED = -1.0
# No score is as large; squares of such, and sums of those, are no numbers any more.
LARGEST = 1e100
_NO_FILTER = "none"
_MOST_LISTED = 4


@dataclass(frozen=True)
class Metric:
    """A score as the harness reported it.

    Attributes:
        error: its standard error; None without one.
        lengths: the metrics it is our mean of; empty for one of the task's own.
    """

    value: float
    error: float | None
    higher_is_better: bool
    lengths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Metrics and filters as asked, by task; under "" for every task that has them."""

    metrics: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, metrics: Iterable[str] | None, filters: Iterable[str] | None) -> Choice:
        """From NAME and TASK=NAME, as the command line takes them."""
        return cls(_by_task(metrics or ()), _by_task(filters or ()))

    def refuse_unused(self, found: Mapping[str, Chosen]) -> None:
        """Refuse what no task has; `found` are all tasks by name.

        Raises:
            UserError: a task that there is not, or a metric or filter that no task has.
        """
        for option, asked, names in (
            ("--metric", self.metrics, [name for one in found.values() for name in one.metrics]),
            ("--filter", self.filters, [name for one in found.values() for name in one.filters]),
        ):
            for task, name in asked.items():
                if task and task not in found:
                    raise UserError(
                        f"{option} {task}={name}: there is no task {task}; the results have "
                        f"{', '.join(found)}."
                    )
                if not task and name not in names:
                    raise UserError(
                        f"{option} {name}: no task has it; they have "
                        f"{', '.join(dict.fromkeys(names))}."
                    )


@dataclass(frozen=True)
class Chosen:
    """What stands for a task.

    Attributes:
        metrics: of the filter, by name, without those that were not measured.
        filter, filters: the filter taken, and all that the task has.
        primary: the metric that stands for the task; "" where nothing was scored.
        said: what was taken and what there is besides; "" where there was no choice.
    """

    metrics: dict[str, Metric]
    filter: str
    filters: tuple[str, ...]
    primary: str
    said: str


def choose(
    task: str, found: Mapping[str, Any], better: Mapping[str, Any], choice: Choice
) -> Chosen:
    """Metric and filter of a task.

    Args:
        found: the task's part of a results file: "acc,none", "acc_stderr,none", ...
        better: whether higher is better, by metric; None counts as yes.

    Raises:
        UserError: a metric or filter asked of this task that it does not have.
    """
    by_filter: dict[str, dict[str, Metric]] = {}
    for key, value in found.items():
        name, comma, used = key.partition(",")
        # --predict_only: "bypass" stands where a score would be.
        if comma and is_number(value) and name != "bypass" and not name.endswith("_stderr"):
            metric = Metric(float(value), _error(found, name, used), better.get(name) is not False)
            by_filter.setdefault(used, {})[name] = metric
    filters = tuple(by_filter)
    measured = {used: _measured(metrics) for used, metrics in by_filter.items()}
    # What every run of ours notes of its answers is no score of a task that has none (yet).
    measured = {used: metrics for used, metrics in measured.items() if metrics.keys() - set(NAMES)}
    if not measured:
        return Chosen({}, _NO_FILTER, filters, "", "")
    used = _filter(task, measured, choice)
    metrics = measured[used]
    scores = [name for name in metrics if name not in BESIDE] or list(metrics)
    usual = next((name for name in PRIMARY if name in scores), scores[0])
    primary = _asked(task, choice.metrics, metrics, "metric") or usual
    ours = task in TASKS or task in GROUPS
    unsaid = ours and primary == usual and len(filters) < 2
    unmeasured = [name for name in by_filter[used] if name not in metrics]
    said = "" if unsaid else _said(task, primary, metrics, used, measured, unmeasured)
    return Chosen(metrics, used, filters, primary, said)


def of_members(chosen: Chosen, names: Iterable[str]) -> Choice:
    """The choice that gives members of a group the group's metric and filter."""
    members = list(names)
    return Choice(dict.fromkeys(members, chosen.primary), dict.fromkeys(members, chosen.filter))


def is_number(value: Any) -> bool:
    """Whether a value of a results file is one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def document_scores(metric: str, values: Sequence[Any]) -> np.ndarray:
    """The scores of documents [n]; NaN for what is no number to reckon with, or not measured."""
    found = np.array([_finite(value) for value in values], dtype=float)
    return np.where(found == NOT_MEASURED, math.nan, found) if _is_length(metric) else found


def _finite(value: Any) -> float:
    """A number whose square and sums with others are finite, else NaN."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < LARGEST else math.nan


def over_lengths(metric: Metric, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """The scores [n] of documents of several lengths, each of which has that of its own."""
    found = np.full(len(scores[metric.lengths[0]]), math.nan)
    for length in metric.lengths:
        found = np.where(np.isnan(found), scores[length], found)
    return found


def _error(found: Mapping[str, Any], metric: str, used: str) -> float | None:
    error = found.get(f"{metric}_stderr,{used}")
    return float(error) if is_number(error) and math.isfinite(float(error)) else None  # type: ignore[arg-type]


def _is_length(metric: str) -> bool:
    """Whether a metric is named by a length, as RULER's are."""
    return metric.isdecimal()


def _measured(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Without lengths that were not measured, and before several the mean over them."""
    kept = {
        name: metric
        for name, metric in metrics.items()
        if not (_is_length(name) and metric.value == NOT_MEASURED)
    }
    lengths = tuple(sorted((name for name in kept if _is_length(name)), key=int))
    if len(lengths) < 2:
        return kept
    mean = sum(kept[name].value for name in lengths) / len(lengths)
    over = Metric(mean, None, kept[lengths[0]].higher_is_better, lengths)
    return {f"mean of {', '.join(lengths)}": over, **kept}


def _filter(task: str, measured: Mapping[str, Mapping[str, Metric]], choice: Choice) -> str:
    asked = _asked(task, choice.filters, measured, "filter")
    if asked is not None:
        return asked
    wanted = choice.metrics.get(task, choice.metrics.get(""))
    having = [used for used, metrics in measured.items() if wanted in metrics] or list(measured)
    return _NO_FILTER if _NO_FILTER in having else having[0]


def _asked(task: str, asked: Mapping[str, str], having: Mapping[str, Any], what: str) -> str | None:
    """What was asked of this task, or of all and this one has it."""
    name = asked.get(task)
    if name is not None and name not in having:
        raise UserError(f"{task} has no {what} {name!r}; it has {', '.join(having)}.")
    return name if name is not None else next((n for n in [asked.get("")] if n in having), None)


def _said(
    task: str,
    primary: str,
    metrics: Mapping[str, Metric],
    used: str,
    filters: Iterable[str],
    unmeasured: list[str],
) -> str:
    others = [name for name in metrics if name != primary and name not in BESIDE]
    filtered = [name for name in filters if name != used]
    parts = [f"also {_listed(others)}: --metric {task}=NAME"] if others else []
    parts += [f"other filters {_listed(filtered)}: --filter {task}=NAME"] if filtered else []
    parts += [f"not measured: {', '.join(unmeasured)}"] if unmeasured else []
    of = f" of filter {used}" if filtered else ""
    return f"{task} is scored by {primary}{of} ({'; '.join(parts)})." if parts else ""


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _by_task(given: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in given:
        task, equals, name = text.partition("=")
        if not (name if equals else text):
            raise UserError(f"{text!r} names nothing; write NAME or TASK=NAME.")
        found[task if equals else ""] = name if equals else text
    return found
