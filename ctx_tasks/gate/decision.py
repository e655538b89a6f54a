"""The gate: did a checkpoint lose context awareness? pass, regression, inconclusive or error.

The loss of a task is baseline minus result (turned round where lower is better), paired by
document. Its one-sided 95 % bounds come from the cluster-robust error and Student's t with G - 1
degrees of freedom, after Agresti and Min's addition of half a document to each side of the flips
("Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine
24, 2005): without it a few flips, or none, would look like certainty.

* **regression**: the loss is shown to exceed the margin: p < 0.05 after Holm's correction over all
  tasks of all runs judged together, so that no change at all fails a gate in at most 5 % of cases;
* **pass**: the upper bound of the loss is within the margin, or every answer is the baseline's word
  for word;
* **inconclusive**: neither can be shown;
* **error**: something is missing or cannot be compared.

The overall verdict is the worst: error, then regression, then inconclusive. A gain whose lower
bound exceeds `SUSPICIOUS` is flagged, not failed: test questions in the training data look so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from scipy import stats

from ctx_tasks.errors import UserError
from ctx_tasks.gate.baseline import Measured, Measurement
from ctx_tasks.settings import told
from ctx_tasks.statistics import holm
from ctx_tasks.tables import number

LEVEL = 0.05
SUSPICIOUS = 0.1
_MOST_LISTED = 3
# More documents than that are no advice.
_MOST_NEEDED = 1_000_000


class Verdict(IntEnum):
    """The value is the exit code."""

    PASS = 0
    REGRESSION = 1
    INCONCLUSIVE = 2
    ERROR = 3


_WORST_FIRST = (Verdict.ERROR, Verdict.REGRESSION, Verdict.INCONCLUSIVE, Verdict.PASS)


@dataclass(frozen=True)
class Margin:
    """Loss that is tolerated: absolute, or a share of the baseline's score."""

    value: float
    relative: bool = False

    def of(self, baseline: float) -> float:
        """The margin in the units of the score."""
        return self.value * abs(baseline) if self.relative else self.value

    @classmethod
    def read(cls, given: object) -> Margin:
        """From 0.01 or "5%".

        Raises:
            UserError: neither, or negative.
        """
        text = str(given).strip()
        try:
            relative = text.endswith("%")
            value = float(text.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise UserError(f"margin {given!r} must be a loss such as 0.01, or a share such as 5%.")
        return cls(value, relative)


@dataclass(frozen=True)
class Loss:
    """A loss, its standard error and one-sided 95 % bounds; `p` of a loss within the margin."""

    mean: float
    error: float
    low: float
    high: float
    p: float
    n: int
    clusters: int


@dataclass(frozen=True)
class TaskVerdict:
    """What the gate says of one task.

    Attributes:
        reason: one sentence.
        before, after, loss, margin: None for an error.
        needed: documents that would settle an inconclusive verdict, if the loss stays as it is.
        suspicious: the gain is larger than `SUSPICIOUS`.
    """

    task: str
    verdict: Verdict
    reason: str
    metric: str = ""
    before: float | None = None
    after: float | None = None
    loss: Loss | None = None
    margin: float | None = None
    needed: int | None = None
    suspicious: bool = False


@dataclass(frozen=True)
class Judgement:
    """The overall verdict, one for each task, and notes that change nothing."""

    verdict: Verdict
    tasks: list[TaskVerdict]
    notes: list[str]


def judge(
    pairs: Sequence[tuple[Measurement, Measurement]],
    margin: Margin,
    margins: Mapping[str, Margin] | None = None,
) -> list[Judgement]:
    """Hold each result against its baseline, task by task; pairs are (baseline, result).

    Args:
        pairs: corrected together, so give all that one gate decides on.
        margins: by task, instead of `margin`.

    Raises:
        UserError: a margin for a task no baseline has.
    """
    _refuse_unknown(margins or {}, pairs)
    found = [
        _task(name, old, result.tasks.get(name), (margins or {}).get(name, margin))
        for baseline, result in pairs
        for name, old in baseline.tasks.items()
    ]
    decided = iter(_corrected(found))
    return [
        _judgement(baseline, result, [next(decided) for _ in baseline.tasks])
        for baseline, result in pairs
    ]


def _refuse_unknown(
    margins: Mapping[str, Margin], pairs: Sequence[tuple[Measurement, Measurement]]
) -> None:
    known = {name: None for baseline, _ in pairs for name in baseline.tasks}
    unknown = sorted(margins.keys() - known.keys())
    if unknown:
        raise UserError(
            f"There is a margin for {', '.join(unknown)}, but the baseline has {', '.join(known)}."
        )


def _judgement(baseline: Measurement, result: Measurement, tasks: list[TaskVerdict]) -> Judgement:
    extra = sorted(result.tasks.keys() - baseline.tasks.keys())
    notes = [f"Not in the baseline, not judged: {', '.join(extra)}."] if extra else []
    if baseline.arm != result.arm:
        notes.append(
            f"The baseline is run as {baseline.arm.name}, the result as {result.arm.name}."
        )
    return Judgement(worst([task.verdict for task in tasks]), tasks, notes)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Error before regression before inconclusive before pass."""
    return next(verdict for verdict in _WORST_FIRST if verdict in verdicts)


def match(
    baseline: Sequence[Measurement], results: Sequence[Measurement]
) -> list[tuple[Measurement, Measurement]]:
    """Pairs of baseline and result: one with one, else by arm, else by checkpoint and arm.

    Raises:
        UserError: a baseline without its one result.
    """
    if len(baseline) == len(results) == 1:
        return [(baseline[0], results[0])]
    pairs = []
    for old in baseline:
        same = [new for new in results if new.arm == old.arm]
        same = [new for new in same if new.checkpoint == old.checkpoint] or same
        if len(same) != 1:
            raise UserError(
                f"The baseline's {_name(old)} matches {len(same)} of the results "
                f"({'; '.join(_name(new) for new in results)}); name the results of one."
            )
        pairs.append((old, same[0]))
    return pairs


def paired_loss(
    losses: np.ndarray, clusters: np.ndarray, margin: float, largest: float = 1.0
) -> Loss:
    """Bounds of the mean of `losses` [n] in `clusters` [n] (numbers from 0).

    `largest` is the loss of a document that flips: 1 for scores from 0 to 1.
    """
    count = int(clusters.max()) + 1
    n = len(losses) + 2
    mean = float(losses.sum() / n)
    sums = np.bincount(clusters, weights=losses) - mean * np.bincount(clusters)
    # Half a document gained and half a one lost, twice.
    squares = float((sums**2).sum()) + largest**2
    freedom = max(count - 1, 1)
    error = math.sqrt(count / freedom * squares) / n
    reach = error * float(stats.t.ppf(1 - LEVEL, freedom))
    p = float(stats.t.sf((mean - margin) / error, freedom))
    return Loss(mean, error, mean - reach, mean + reach, p, len(losses), count)


# ---- one task ------------------------------------------------------------------------------------


def _task(name: str, old: Measured, new: Measured | None, margin: Margin) -> TaskVerdict:
    wrong = _incomparable(old, new)
    if wrong or new is None:
        return TaskVerdict(name, Verdict.ERROR, wrong or "", old.metric)
    places = {doc_hash: place for place, doc_hash in enumerate(new.hashes)}
    after = new.scores[[places[doc_hash] for doc_hash in old.hashes]]
    sign = 1 if old.higher_is_better else -1
    means = float(old.scores.mean()), float(after.mean())
    tolerated = margin.of(means[0])
    # Ratings go from 1 to 10: a document can lose more than 1.
    largest = max(1.0, float(np.ptp(np.concatenate([old.scores, after]))))
    loss = paired_loss(sign * (old.scores - after), np.array(old.clusters), tolerated, largest)
    found = TaskVerdict(
        name, Verdict.INCONCLUSIVE, "", old.metric, *means, loss, tolerated,
        suspicious=loss.high < -SUSPICIOUS * largest,
    )  # fmt: skip
    said = dict(zip(new.hashes, new.answers, strict=True))
    same = all(said[h] == answer for h, answer in zip(old.hashes, old.answers, strict=True))
    if same and (old.scores == after).all():
        return replace(found, verdict=Verdict.PASS, reason="every answer is the baseline's")
    return found


def _incomparable(old: Measured, new: Measured | None) -> str | None:
    """Why two results of a task cannot be compared; None where they can."""
    if new is None:
        return "the results lack this task; run it too"
    if old.metric != new.metric:
        return f"the baseline has the metric {old.metric}, the results {new.metric}"
    for name, value in old.settings.items():
        other = new.settings.get(name)
        if value != other:
            a, b = told(value, other)
            return f"{name} is {a} in the baseline but {b} in the results; run them alike"
    return _incomplete(old, new)


def _incomplete(old: Measured, new: Measured) -> str | None:
    lost, extra = (set(a.hashes) - set(b.hashes) for a, b in ((old, new), (new, old)))
    if lost or extra:
        shown = ", ".join(sorted(lost or extra)[:_MOST_LISTED])
        return (
            f"{len(lost)} documents of the baseline are missing and {len(extra)} are new ({shown}, "
            "...); evaluate the same documents"
        )
    for which, one in (("baseline", old), ("results", new)):
        unscored = int(np.isnan(one.scores).sum()) or one.missing
        if unscored:
            return (
                f"{unscored} documents of the {which} have no {one.metric}; run or judge them again"
            )
    return "there is only one cluster of documents" if len(set(old.clusters)) < 2 else None


def _corrected(tasks: Sequence[TaskVerdict]) -> list[TaskVerdict]:
    """Decide what is open yet, with p corrected over the tasks that have one."""
    having = [task.loss.p for task in tasks if task.loss is not None]
    corrected = iter(holm(having))
    return [task if task.loss is None else _decided(task, next(corrected)) for task in tasks]


def _decided(task: TaskVerdict, p: float) -> TaskVerdict:
    assert task.loss is not None
    assert task.margin is not None
    loss, margin = replace(task.loss, p=p), task.margin
    if task.verdict is Verdict.PASS:
        return replace(task, loss=loss)
    if p < LEVEL:
        reason = f"the loss is beyond {margin:.3g} (p = {p:.2g})"
        return replace(task, loss=loss, verdict=Verdict.REGRESSION, reason=reason)
    if loss.high <= margin:
        reason = f"the loss is at most {loss.high:.3g}"
        return replace(task, loss=loss, verdict=Verdict.PASS, reason=reason)
    needed = _needed(loss, margin)
    low, high = (number(end, signed=True) for end in (loss.low, loss.high))
    reason = f"the loss is between {low} and {high}" + (
        "" if needed is None else f"; about {needed:,} documents would settle it"
    )
    return replace(task, loss=loss, reason=reason, needed=needed)


def _needed(loss: Loss, margin: float) -> int | None:
    """Documents at which the bound would reach the margin; errors shrink with their square root."""
    away = abs(loss.mean - margin)
    reach = loss.high - loss.mean
    needed = loss.n * (reach / away) ** 2 if away else math.inf
    return math.ceil(needed) if needed < _MOST_NEEDED else None


def _name(one: Measurement) -> str:
    return f"{one.checkpoint}, {one.arm.name}"
