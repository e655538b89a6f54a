"""What a candidate gains and costs on the documents it was tried on, and which is chosen.

* **gain**: the mean over the context tasks of the mean change against none, paired by document,
  with errors over clusters (`ctx_tasks.statistics`);
* **shown**: the lower end of the gain's two-sided 95 % interval is above 0 after Bonferroni's
  correction over all candidates at the start, those that were dropped on the way too. Of one
  winner Bonferroni is Holm's first step. Where nothing helps, none is chosen in at least 95 %;
* **within its price**: the upper one-sided 95 % bound of the loss, the gate's
  (`ctx_tasks.gate.loss`), is within what may be lost. It is not corrected: the other half says
  what the choice costs.

Of those that are shown and within their prices the one with the largest gain is chosen; else none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from ctx_tasks.arm import Arm
from ctx_tasks.gate.loss import Loss, paired_loss
from ctx_tasks.results import Samples
from ctx_tasks.statistics import (
    CONFIDENCE,
    Difference,
    cluster_numbers,
    clustered_difference,
    has_bounds,
    mean_difference,
    paired_changes,
    paired_places,
)

State = Literal["dropped", "not shown", "too dear", "shown", "chosen"]


@dataclass(frozen=True)
class Measured:
    """A task's scores in one arm, and whether more of its metric is better."""

    samples: Samples
    metric: str
    higher_is_better: bool = True


Answers = Mapping[str, Measured]


@dataclass(frozen=True)
class Price:
    """What may be lost at most in the mean over the documents of some tasks."""

    name: str
    at_most: float
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One candidate on the documents of the choosing half that it was tried on.

    Attributes:
        documents: of the context tasks.
        gain: with its 95 % interval, not corrected.
        low: the lower end of the gain's corrected interval.
        losses: by price.
        state: "dropped" before all documents; "not shown" to help; "too dear"; "shown" to help
            but not the best; or "chosen".
    """

    arm: Arm
    documents: int
    gain: Difference
    low: float
    losses: Mapping[str, Loss]
    state: State = "dropped"


@dataclass(frozen=True)
class Report:
    """What an arm is worth on the reporting half: gain, gains by task, and losses by price."""

    arm: Arm
    gain: Difference
    tasks: Mapping[str, Difference]
    losses: Mapping[str, Difference]


# ---- what was measured ---------------------------------------------------------------------------


def joined(parts: Sequence[Measured]) -> Measured:
    """The scores of several parts of a task's documents as one."""
    shared = set.intersection(*(set(part.samples.scores) for part in parts))
    samples = Samples(
        [doc_hash for part in parts for doc_hash in part.samples.doc_hashes],
        [cluster for part in parts for cluster in part.samples.clusters],
        {name: np.concatenate([part.samples.scores[name] for part in parts]) for name in shared},
    )
    return replace(parts[0], samples=samples)


def gain(none: Answers, other: Answers, tasks: Sequence[str]) -> Difference:
    """The mean over the tasks of what `other` scores more than `none`."""
    return mean_difference([change(none, other, (task,)) for task in tasks])


def change(none: Answers, other: Answers, tasks: Sequence[str]) -> Difference:
    """The mean change over all documents of the tasks, up where it is for the better."""
    return clustered_difference(*_changes(none, other, tasks))


def loss(none: Answers, other: Answers, price: Price) -> Loss:
    """What is lost over all documents of a price's tasks."""
    changes, clusters, bounded = _changes(none, other, price.tasks)
    largest = max(1.0, float(np.abs(changes).max()))
    return paired_loss(-changes, clusters, price.at_most, largest, bounded)


def _changes(
    none: Answers, other: Answers, tasks: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Changes [n] for the better, their cluster numbers [n], and whether scores have bounds."""
    changes, names, bounded = [], [], True
    for task in tasks:
        if task not in none or task not in other:
            continue
        a, b = none[task], other[task]
        found, _ = paired_changes(a.samples, b.samples, a.metric)
        first, _ = paired_places(a.samples, b.samples, a.metric)
        changes.append(found if a.higher_is_better else -found)
        # Two tasks may name their clusters alike, and those on one passage belong together.
        names += [a.samples.clusters[place] for place in first]
        scores = a.samples.scores[a.metric], b.samples.scores[a.metric]
        bounded &= has_bounds(a.metric, *scores)
    return np.concatenate(changes), cluster_numbers(names), bounded


# ---- what is chosen ------------------------------------------------------------------------------


def trial(
    arm: Arm,
    none: Answers,
    other: Answers,
    tasks: Sequence[str],
    prices: Sequence[Price],
    candidates: int,
) -> Trial:
    """What a candidate, one of so many, is worth on what it was tried on."""
    found = gain(none, other, tasks)
    losses = {price.name: loss(none, other, price) for price in prices}
    return Trial(arm, found.n, found, corrected_low(found, candidates), losses)


def corrected_low(found: Difference, candidates: int) -> float:
    """The lower end of the interval after Bonferroni's correction."""
    quantile = float(stats.t.isf((1 - CONFIDENCE) / 2 / candidates, found.freedom))
    return found.mean - quantile * found.error


def surviving(trials: Sequence[Trial], count: int, prices: Sequence[Price]) -> list[Trial]:
    """The best of a round; those that are shown to cost more than they may come last."""
    dear = {id(one) for one in trials if _shown_too_dear(one, prices)}
    order = sorted(trials, key=lambda one: (id(one) in dear, -one.gain.mean))
    return order[:count]


def _shown_too_dear(one: Trial, prices: Sequence[Price]) -> bool:
    return any(one.losses[price.name].low > price.at_most for price in prices)


def judged(trials: Sequence[Trial], prices: Sequence[Price]) -> list[Trial]:
    """The candidates that were tried on all documents, each with its state, the best first."""
    ordered = [
        replace(one, state=_state(one, prices))
        for one in sorted(trials, key=lambda one: -one.gain.mean)
    ]
    best = next((place for place, one in enumerate(ordered) if one.state == "shown"), None)
    return [
        replace(one, state="chosen") if place == best else one for place, one in enumerate(ordered)
    ]


def _state(one: Trial, prices: Sequence[Price]) -> State:
    # NaN, where there is one cluster, is not above 0.
    if not one.low > 0:
        return "not shown"
    kept = all(one.losses[price.name].high <= price.at_most for price in prices)
    return "shown" if kept else "too dear"


def report(
    arm: Arm, none: Answers, other: Answers, tasks: Sequence[str], prices: Sequence[Price]
) -> Report:
    """What an arm is worth on documents that did not choose it."""
    changes = {price.name: change(none, other, price.tasks) for price in prices}
    return Report(
        arm,
        gain(none, other, tasks),
        {task: change(none, other, (task,)) for task in tasks},
        {
            name: replace(one, mean=-one.mean, low=-one.high, high=-one.low)
            for name, one in changes.items()
        },
    )
