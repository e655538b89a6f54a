"""The gate: did a checkpoint lose context awareness? pass, regression, inconclusive or error.

The loss of a task is baseline minus result (turned round where lower is better), paired by
document, with bounds over clusters (`ctx_tasks.gate.loss`).

* **regression**: the loss is shown to exceed the margin: p < 0.05 (in a series less, see
  `ctx_tasks.gate.series`) after Holm's correction over all tasks of all runs judged together, so
  that no change at all fails a gate in at most 5 % of cases;
* **pass**: the upper bound of the loss is within the margin, or every answer is the baseline's word
  for word;
* **inconclusive**: neither can be shown;
* **error**: something is missing, is left over, or cannot be compared.

The overall verdict is the worst: error, then regression, then inconclusive. A gain whose lower
bound exceeds `SUSPICIOUS` is flagged, not failed: test questions in the training data look so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from ctx_tasks.answers import CUT, UNFINISHED, UNSEGMENTED
from ctx_tasks.errors import UserError
from ctx_tasks.gate.baseline import PACKAGE, Measured, Measurement, version
from ctx_tasks.gate.loss import LEVEL, Loss, paired_loss
from ctx_tasks.gate.margin import Margin
from ctx_tasks.intervals import Clustering
from ctx_tasks.reach import unsaid
from ctx_tasks.settings import executed_apart, told, unlike
from ctx_tasks.statistics import SCALES, has_bounds, holm
from ctx_tasks.tables import number

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
class TaskVerdict:
    """What the gate says of one task.

    Attributes:
        reason: one sentence.
        before, after, loss, margin: None for an error.
        needed: documents that would settle an inconclusive verdict, if the loss stays as it is.
        suspicious: the gain is larger than `SUSPICIOUS`.
        unsaid: what the verdict says nothing about (`ctx_tasks.reach`).
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
    unsaid: str = ""


@dataclass(frozen=True)
class Decision:
    """The overall verdict, one for each task, and notes that change nothing."""

    verdict: Verdict
    tasks: list[TaskVerdict]
    notes: list[str]


def decide(
    pairs: Sequence[tuple[Measurement, Measurement]],
    margin: Margin,
    margins: Mapping[str, Margin] | None = None,
    level: float = LEVEL,
) -> list[Decision]:
    """Hold each result against its baseline, task by task; pairs are (baseline, result).

    Args:
        pairs: corrected together, so give all that one gate decides on.
        margins: by task, instead of `margin`.
        level: of a regression (`ctx_tasks.gate.series`).

    Raises:
        UserError: a margin for a task no baseline has, or one that tolerates every loss; a
            baseline made with another version of lm-eval, or saved by another of ours.
    """
    for pair in pairs:
        _refuse_versions(*pair)
    _refuse_unknown(margins or {}, pairs)
    found = [
        [_task(name, *pair, (margins or {}).get(name, margin)) for name in _names(*pair)]
        for pair in pairs
    ]
    decided = iter(_corrected([task for tasks in found for task in tasks], level))
    return [
        _decision(*pair, [next(decided) for _ in tasks])
        for pair, tasks in zip(pairs, found, strict=True)
    ]


def _names(baseline: Measurement, result: Measurement) -> list[str]:
    """The tasks of either."""
    return list({**baseline.tasks, **result.tasks})


def _refuse_unknown(
    margins: Mapping[str, Margin], pairs: Sequence[tuple[Measurement, Measurement]]
) -> None:
    known = {name: None for baseline, _ in pairs for name in baseline.tasks}
    unknown = sorted(margins.keys() - known.keys())
    if unknown:
        raise UserError(
            f"There is a margin for {', '.join(unknown)}, but the baseline has {', '.join(known)}."
        )


def _refuse_versions(baseline: Measurement, result: Measurement) -> None:
    ours = version(PACKAGE)
    for name, old, new in (
        ("lm-eval", baseline.harness, result.harness),
        (PACKAGE, _minor(baseline.package), _minor(ours)),
    ):
        if None not in (old, new) and old != new:
            raise UserError(
                f"The baseline {baseline.source} was made with {name} {old}, and this is {new}: "
                "run its checkpoint again and save it (ctx-eval gate --save FILE RESULTS)."
            )


def _minor(release: str | None) -> str | None:
    """ "0.3" of "0.3.1": what may change a score changes that."""
    return None if release is None else ".".join(release.split(".")[:2])


def _decision(baseline: Measurement, result: Measurement, tasks: list[TaskVerdict]) -> Decision:
    notes = list(dict.fromkeys([*baseline.notes, *result.notes]))
    if baseline.arm != result.arm:
        notes.append(
            f"The baseline is run as {baseline.arm.name}, the result as {result.arm.name}."
        )
    notes += [f"{task.task}: {task.unsaid}." for task in tasks if task.unsaid]
    apart = executed_apart(baseline.executed, result.executed)
    notes += [apart] if apart else []
    notes += [
        f"{name}: {_shares(found.shares)} in the {where}."
        for where, run in (("baseline", baseline), ("result", result))
        for name, found in run.tasks.items()
        if any(found.shares.values())
    ]
    return Decision(worst([task.verdict for task in tasks]), tasks, notes)


def _shares(shares: Mapping[str, float]) -> str:
    """ "0.25 of the prompts are cut, 0.10 of the answers unfinished" """
    words = {
        CUT: "of the prompts are cut",
        UNFINISHED: "of the answers are unfinished",
        UNSEGMENTED: "of the prompts could not be segmented",
    }
    return ", ".join(f"{number(shares[name])} {words[name]}" for name in shares if shares[name])


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Error before regression before inconclusive before pass."""
    return next(verdict for verdict in _WORST_FIRST if verdict in verdicts)


def match(
    baseline: Sequence[Measurement], results: Sequence[Measurement]
) -> list[tuple[Measurement, Measurement]]:
    """Pairs of baseline and result: one with one, else by arm, else by checkpoint and arm.

    Raises:
        UserError: a baseline without its one result, or a result without its one baseline.
    """
    if len(baseline) == len(results) == 1:
        return [(baseline[0], results[0])]
    pairs = []
    for old in baseline:
        same = [new for new in results if new.arm == old.arm]
        same = [new for new in same if new.checkpoint == old.checkpoint] or same
        if len(same) != 1:
            raise UserError(
                f"The baseline's {named(old)} matches {len(same)} of the results "
                f"({'; '.join(named(new) for new in results)}); name the results of one."
            )
        pairs.append((old, same[0]))
    _refuse_surplus(results, [new for _, new in pairs])
    return pairs


def _refuse_surplus(results: Sequence[Measurement], matched: Sequence[Measurement]) -> None:
    # By identity: two baselines may have matched one result, and equal runs may differ in place.
    used = [id(new) for new in matched]
    surplus = [new for new in results if id(new) not in used]
    if surplus or len(set(used)) < len(used):
        told = "; ".join(f"{named(new)} ({new.source})" for new in surplus) or "none"
        raise UserError(
            f"Not every result has a baseline of its own; left over: {told}. Name the results to "
            "be judged alone, or save a baseline that has a run for each."
        )


def named(one: Measurement) -> str:
    """Checkpoint and arm."""
    return f"{one.checkpoint}, {one.arm.name}"


# ---- one task ------------------------------------------------------------------------------------


def _task(name: str, baseline: Measurement, result: Measurement, margin: Margin) -> TaskVerdict:
    old, new = baseline.tasks.get(name), result.tasks.get(name)
    if old is None:
        return TaskVerdict(name, Verdict.ERROR, "the baseline lacks this task; save one with it")
    if new is None:
        reason = "the results lack this task; run it too"
        return TaskVerdict(name, Verdict.ERROR, reason, old.metric)
    wrong = incomparable(old, new, baseline.arm == result.arm)
    if wrong:
        return TaskVerdict(name, Verdict.ERROR, wrong, old.metric)
    order = places(old, new)
    found = _measured(name, old, new.scores[order], margin)
    same = old.answers == [new.answers[place] for place in order]
    if same and (old.scores == new.scores[order]).all():
        return replace(found, verdict=Verdict.PASS, reason="every answer is the baseline's")
    return found


def places(old: Measured, new: Measured) -> list[int]:
    """Where each of `old`'s documents stands in `new`."""
    found = {doc_hash: place for place, doc_hash in enumerate(new.hashes)}
    return [found[doc_hash] for doc_hash in old.hashes]


def _measured(name: str, old: Measured, after: np.ndarray, margin: Margin) -> TaskVerdict:
    """A task that can be compared, undecided; `after` are the result's scores in `old`'s order."""
    means = float(old.scores.mean()), float(after.mean())
    bounded = has_bounds(old.metric, old.scores, after)
    allowed = tolerated(name, old.metric, margin, means[0], bounded)
    spread = float(np.ptp(np.concatenate([old.scores, after])))
    largest = max(1.0, spread) if bounded else spread
    sign = 1 if old.higher_is_better else -1
    losses, clusters = sign * (old.scores - after), np.array(old.clusters)
    loss = paired_loss(losses, clusters, allowed, largest, bounded)
    suspicious = loss.high < -SUSPICIOUS * largest
    return TaskVerdict(
        name,
        Verdict.INCONCLUSIVE,
        "",
        old.metric,
        *means,
        loss,
        allowed,
        suspicious=suspicious,
        unsaid=unsaid(Clustering.of(clusters), allowed / largest),
    )


def tolerated(name: str, metric: str, margin: Margin, before: float, bounded: bool) -> float:
    """The margin in the units of the score.

    Raises:
        UserError: it tolerates every loss.
    """
    least, most = SCALES.get(metric, (0.0, 1.0))
    allowed = margin.of(before)
    if bounded and allowed >= most - least:
        raise UserError(
            f"A margin of {allowed:g} tolerates every loss: {name} is scored from {least:g} to "
            f"{most:g}; give a loss such as 0.01, or a share such as 5%."
        )
    return allowed


def incomparable(old: Measured, new: Measured, one_arm: bool) -> str | None:
    """Why two results of a task cannot be compared; None where they can."""
    if old.metric != new.metric:
        return f"the baseline has the metric {old.metric}, the results {new.metric}"
    for name, value in old.settings.items():
        other = new.settings.get(name)
        if unlike(name, value, other):
            a, b = told(value, other)
            return f"{name} is {a} in the baseline but {b} in the results; run them alike"
    # Marks, prefixes and templates that belong to the arm are meant to change the prompts.
    if one_arm and None not in (old.prompts, new.prompts) and old.prompts != new.prompts:
        return (
            "the prompts differ, though the task's version is the same; evaluate the baseline "
            "again with this version of the task"
        )
    return _incomplete(old, new)


def _incomplete(old: Measured, new: Measured) -> str | None:
    for which, one in (("baseline", old), ("results", new)):
        if one.expected > len(one.hashes):
            return (
                f"the sample file of the {which} is cut off: it holds {len(one.hashes)} of "
                f"{one.expected} documents; run the task again"
            )
    lost, extra = (set(a.hashes) - set(b.hashes) for a, b in ((old, new), (new, old)))
    if lost or extra:
        shown = ", ".join(sorted(lost or extra)[:_MOST_LISTED])
        return (
            f"{len(lost)} documents of the baseline are missing and {len(extra)} are new ({shown}, "
            "...); evaluate the same documents"
        )
    for which, one in (("baseline", old), ("results", new)):
        unscored = int((~np.isfinite(one.scores)).sum()) or one.missing
        if unscored:
            return (
                f"{unscored} documents of the {which} have no {one.metric}; run or judge them again"
            )
    return "there is only one cluster of documents" if len(set(old.clusters)) < 2 else None


def _corrected(tasks: Sequence[TaskVerdict], level: float) -> list[TaskVerdict]:
    """Decide what is open yet, with p corrected over the tasks that have one."""
    having = [task.loss.p for task in tasks if task.loss is not None]
    corrected = iter(holm(having))
    return [task if task.loss is None else _decided(task, next(corrected), level) for task in tasks]


def _decided(task: TaskVerdict, p: float, level: float) -> TaskVerdict:
    assert task.loss is not None
    assert task.margin is not None
    loss, margin = replace(task.loss, p=p), task.margin
    if task.verdict is Verdict.PASS:
        return replace(task, loss=loss)
    if p < level:
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
