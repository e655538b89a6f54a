"""`ctx-eval tune`: choose on one half by successive halving, report on the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctx_models import progress
from ctx_models.sweep.plan import Cell
from ctx_models.tune.cells import Bench
from ctx_models.tune.plan import Tuning
from ctx_models.tune.rating import Rater
from ctx_tasks.arm import CHAT, Arm
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable
from ctx_tasks.intervals import Clustering
from ctx_tasks.reach import unsaid
from ctx_tasks.statistics import cluster_numbers
from ctx_tasks.tune.choice import (
    Answers,
    Measured,
    Trial,
    joined,
    judged,
    report,
    surviving,
    trial,
)
from ctx_tasks.tune.outcome import Outcome


def run(tunings: Sequence[Tuning]) -> list[Outcome]:
    """Tune one checkpoint after the other; what is measured already is read.

    Raises:
        UserError: a model that cannot be loaded or steered, a task without scores per document.
    """
    require_one_process()
    for tuning in tunings:
        require_writable(tuning.plan.output / "tune.json")
    with progress.shown(sum(map(answers, tunings))) as bar:
        judge = rater(tunings)
        return [_tuned(tuning, Bench(tuning, bar, judge)) for tuning in tunings]


def rater(tunings: Sequence[Tuning]) -> Rater | None:
    """The judge that all share, whose cost is limited together; None without one."""
    found = (Rater(one.judge, one.plan.output) for one in tunings if one.judge is not None)
    return next(found, None)


def require_one_process() -> None:
    """Refuse an `accelerate launch`: each process would choose for itself.

    Raises:
        UserError: there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("tune needs one process: use it without accelerate launch.")


def measurements(tuning: Tuning) -> int:
    """How many runs choosing takes: an arm on the documents of a round is one."""
    return sum(one.candidates + 1 for one in tuning.rounds)


def answers(tuning: Tuning) -> int:
    """How many answers choosing and reporting take at most."""
    reported = sum(map(len, tuning.reporting.values()))
    choosing = sum((one.candidates + 1) * tuning.count(one.begin, one.end) for one in tuning.rounds)
    return choosing + 2 * reported


def _tuned(tuning: Tuning, bench: Bench) -> Outcome:
    trials = halving(tuning, bench)
    none = bench.reporting(CHAT)
    chosen = next((one.arm for one in trials if one.state == "chosen"), CHAT)
    found = None
    if chosen != CHAT:
        found = report(chosen, none, bench.reporting(chosen), tuning.tasks, tuning.prices)
    return Outcome(
        tuning.checkpoint.name,
        trials,
        tuning.prices,
        found,
        command(tuning, chosen),
        _notes(tuning),
    )


def halving(tuning: Tuning, bench: Bench) -> list[Trial]:
    """The trials of all candidates: those tried on all documents, judged, then the dropped."""
    measured: dict[Arm, dict[str, Measured]] = {}
    alive = list(tuning.candidates)
    trials: list[Trial] = []
    dropped: list[Trial] = []
    for place, part in enumerate(tuning.rounds):
        for arm in (CHAT, *alive):
            new = bench.choosing(arm, part.begin, part.end)
            measured[arm] = together(measured.get(arm, {}), new)
        trials = [_trial(arm, measured, tuning) for arm in alive]
        for after in tuning.rounds[place + 1 : place + 2]:
            alive = [one.arm for one in surviving(trials, after.candidates, tuning.prices)]
            dropped += [one for one in trials if one.arm not in alive]
    return [*judged(trials, tuning.prices), *sorted(dropped, key=lambda one: -one.documents)]


def together(before: Answers, after: Answers) -> dict[str, Measured]:
    """The scores of two parts of the documents, task by task."""
    return {
        task: joined([part[task] for part in (before, after) if task in part])
        for task in {**before, **after}
    }


def _trial(arm: Arm, measured: dict[Arm, dict[str, Measured]], tuning: Tuning) -> Trial:
    return trial(
        arm, measured[CHAT], measured[arm], tuning.tasks, tuning.prices, len(tuning.candidates)
    )


def command(tuning: Tuning, arm: Arm) -> str:
    """The command line that runs an arm on all documents; not into the reporting half's folder."""
    return Cell(tuning.checkpoint, arm, replace(tuning.plan, output=Path("results"))).command


def _notes(tuning: Tuning) -> list[str]:
    """What the few clusters of the reporting half cannot tell of others."""
    found = []
    for task, half in tuning.halves.items():
        names = [half.clusters[index] for index in half.reporting]
        said = unsaid(Clustering.of(cluster_numbers(names))) if names else ""
        found += [f"{task}, reporting half: {said}."] if said else []
    return found
