"""A series of gates against one baseline that errs in 5 % altogether, however long it gets.

Chance decides once what the baseline's run looks like; every candidate is then held against it, and
false alarms add up. So each candidate, the k-th, is judged at its own share of the 5 %,

    level(k) = 0.05 * k^-1.6 / zeta(1.6),

whose sum over all k is 0.05: alpha-spending, which needs no assumption on how the candidates depend
on each other (Tian and Ramdas, "Online control of the familywise error rate", Statistical Methods
in Medical Research 30, 2021, where 1.6 is the exponent of choice). Passes are not spent: "the loss
is at most x" stays a bound of the one candidate.

What was spent stands beside the baseline, in a journal: a line a candidate. The same results again,
or answers that are the baseline's word for word, cost nothing; another baseline begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from scipy.special import zeta

from ctx_tasks import journal
from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256
from ctx_tasks.gate.baseline import Measurement
from ctx_tasks.gate.loss import LEVEL

_EXPONENT = 1.6


def level(place: int | None) -> float:
    """The level of the candidate at this place of a series, from 1; of a single gate for None."""
    if place is None:
        return LEVEL
    return LEVEL * float(place**-_EXPONENT / zeta(_EXPONENT))


def state(baseline: Path) -> Path:
    """Where the series of a baseline file is kept."""
    return baseline.with_name(f"{baseline.name}.series.jsonl")


def enter(baseline: Path, judged: Sequence[Measurement], results: Sequence[Measurement]) -> int:
    """The place of `results` in the series of a baseline file, which is kept before it is told.

    Args:
        judged: what the baseline file holds.

    Raises:
        UserError: no baseline file, or a series that cannot be read or written.
    """
    if not baseline.is_file():
        raise UserError(
            f"--sequential counts the gates against a saved baseline, and {baseline} is a folder: "
            "save it first (ctx-eval gate --save baseline.json RESULTS)."
        )
    of, ours = sha256(baseline), digest(results)
    with journal.Journal(state(baseline)) as series:
        lines = journal.read(series.path)
        known = [line.get("results") for line in lines if line.get("baseline") == of]
        if ours == digest(judged):
            return max(len(known), 1)
        if ours not in known:
            series.add({"baseline": of, "results": ours})
            known.append(ours)
        return known.index(ours) + 1


def digest(measurements: Sequence[Measurement]) -> str:
    """Equal for runs with the same documents, answers and scores."""
    found = hashlib.sha256()
    for one in measurements:
        for name, task in sorted(one.tasks.items()):
            lines = sorted(zip(task.hashes, task.answers, task.scores.tolist(), strict=True))
            found.update(repr([name, lines]).encode())
    return found.hexdigest()
