"""`compare A B`: two runs on the same documents, task by task.

The difference is B minus A, paired by document, with its 95 % interval over clusters (questions on
one passage; needle cells with one needle where there are several; `ctx_tasks.statistics`). p is
that of a sign-flip test over the clusters, exact for up to 16 that changed: of questions that are
their own clusters and flipped it is McNemar's. The p-values are corrected by Holm over the tasks.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ctx_tasks import settings
from ctx_tasks.columns import GROUPS, heading
from ctx_tasks.coverage import gaps, scored
from ctx_tasks.errors import UserError, few
from ctx_tasks.intervals import Clustering
from ctx_tasks.reach import unsaid
from ctx_tasks.results import Run, Samples, TaskResult, read_documents
from ctx_tasks.signs import sign_flip
from ctx_tasks.statistics import (
    Difference,
    cut_apart,
    holm,
    paired_changes,
    paired_difference,
    paired_places,
)


@dataclass(frozen=True)
class TaskComparison:
    """One task of two runs.

    Attributes:
        before, after: the metric's mean over the shared documents.
        gained, lost: documents whose score rose and fell.
        p: the sign-flip test's, corrected over the tasks.
        mark: settings in which the two differ (only under force), else "".
        gaps: what the samples of either lack, and what few clusters cannot tell, in words.
        cut: documents left out because one run cut their prompt and the other another's.
    """

    task: str
    metric: str
    before: float
    after: float
    difference: Difference
    gained: int
    lost: int
    p: float
    mark: str
    gaps: list[str]
    cut: int = 0


@dataclass(frozen=True)
class Flip:
    """A document whose score changed."""

    task: str
    doc_hash: str
    before: float
    after: float
    question: str
    target: str
    output_before: str
    output_after: str


def compare(a: Run, b: Run, *, force: bool = False) -> list[TaskComparison]:
    """Compare every task both runs have, with a score per document.

    Raises:
        UserError: no task or no document in both, or settings that differ (unless `force`).
    """
    b = aligned(a, b)
    before, after = scored(a)[0], scored(b)[0]
    shared = shared_tasks(a, b, before, after)
    found = [_compare(a, b, task, (before[task], after[task]), force) for task in shared]
    corrected = holm([one.p for one in found])
    return [replace(one, p=p) for one, p in zip(found, corrected, strict=True)]


def aligned(a: Run, b: Run) -> Run:
    """`b` with its tasks under the names of `a`'s in the same columns, the answer begun or not."""
    names = {heading(name): name for name in a.tasks if name not in GROUPS}
    return replace(b, tasks={names.get(heading(n), n): r for n, r in b.tasks.items()})


def as_json(a: Run, b: Run, found: Sequence[TaskComparison]) -> str:
    """Both runs and all tasks, numbers unrounded, NaN as null."""
    runs = {
        letter: {"checkpoint": run.checkpoint, "arm": run.arm.name, "file": str(run.path)}
        for letter, run in (("a", a), ("b", b))
    }
    content = {**runs, "tasks": [_flat(one) for one in found], "notes": notes(a, b, found)}
    return json.dumps(content, indent=1) + "\n"


def comma_separated(found: Sequence[TaskComparison]) -> str:
    """One line a task, numbers unrounded, NaN as nothing."""
    file = io.StringIO()
    rows = [_flat(one) for one in found]
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flat(one: TaskComparison) -> dict[str, Any]:
    fields = asdict(one)
    difference, _ = fields.pop("difference"), fields.pop("gaps")
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in {**fields, **difference}.items()
    }


def shared_tasks(a: Run, b: Run, before: Collection[str], after: Collection[str]) -> list[str]:
    """Names of the tasks and groups of both runs.

    Args:
        before, after: those of each run that have a score per document.

    Raises:
        UserError: there is none.
    """
    shared = [name for name in before if name in after]
    if not shared:
        # One reason of each: they are as many as the tasks.
        left = "".join(f" {reason}" for run in (a, b) for reason in scored(run)[1][:1])
        raise UserError(
            f"{a.path} has {few([*a.tasks])} and {b.path} has {few([*b.tasks])}: no task in both "
            f"with a score per document; compare runs of the same tasks.{left}"
        )
    return shared


def notes(a: Run, b: Run, found: Sequence[TaskComparison]) -> list[str]:
    """Metrics where there was a choice, and what was not compared: tasks and documents."""
    said = []
    for letter, one, other in (("A", a, b), ("B", b, a)):
        alone = [name for name in one.standing if name not in other.tasks]
        said += [f"{letter} alone has {', '.join(alone)}."] if alone else []
        said += [one.tasks[compared.task].chosen.said for compared in found]
        said += scored(one)[1]
    said += [gap for compared in found for gap in compared.gaps]
    return [note for note in dict.fromkeys(said) if note]


def flips(a: Run, b: Run, task: str) -> Iterator[Flip]:
    """The documents whose score changed, in the order of `b`'s file."""
    metric = b.tasks[task].primary
    before = {line["doc_hash"]: line for line in read_documents(a.tasks[task])}
    for line in read_documents(b.tasks[task]):
        old = before.get(line["doc_hash"])
        if old is not None and _flipped(old.get(metric), line.get(metric)):
            yield _flip(task, metric, old, line)


def _flipped(before: Any, after: Any) -> bool:
    return before is not None and after is not None and before != after


def _flip(task: str, metric: str, before: dict[str, Any], after: dict[str, Any]) -> Flip:
    doc = after["doc"] if isinstance(after["doc"], dict) else {}
    return Flip(
        task,
        after["doc_hash"],
        float(before[metric]),
        float(after[metric]),
        str(doc.get("question", "")),
        str(after.get("target", "")),
        _output(before),
        _output(after),
    )


def _output(line: dict[str, Any]) -> str:
    kept = line.get("filtered_resps") or [""]
    return kept[0] if isinstance(kept[0], str) else json.dumps(kept[0])


def _compare(
    a: Run, b: Run, task: str, samples: tuple[Samples, Samples], force: bool
) -> TaskComparison:
    first, second = a.tasks[task], b.tasks[task]
    mark = differing(a, b, task, force)
    before, after = samples
    metric = _metric(first, second)
    _require_same(before, after, task, a, b, force)
    changes, clusters = paired_changes(before, after, metric)
    return TaskComparison(
        task,
        metric,
        *_means(before, after, metric),
        paired_difference(before, after, metric),
        int((changes > 0).sum()),
        int((changes < 0).sum()),
        sign_flip(changes, clusters),
        mark,
        [
            f"{letter}: {task}: {gap}."
            for letter, result, samples in (("A", first, before), ("B", second, after))
            for gap in gaps(result, samples, metric)
        ]
        + [f"{task}: {few}." for few in [unsaid(Clustering.of(clusters))] if few],
        cut_apart(before, after),
    )


def _metric(a: TaskResult, b: TaskResult) -> str:
    if a.primary not in b.metrics:
        raise UserError(
            f"{a.task} has {', '.join(a.metrics)} in one run but {', '.join(b.metrics)} in the "
            "other; evaluate both with one version of the task."
        )
    return a.primary


def _means(a: Samples, b: Samples, metric: str) -> tuple[float, float]:
    """Means over the documents that are compared."""
    first, second = paired_places(a, b, metric)
    return float(a.scores[metric][first].mean()), float(b.scores[metric][second].mean())


def _require_same(a: Samples, b: Samples, task: str, one: Run, two: Run, force: bool) -> None:
    first, second = set(a.doc_hashes), set(b.doc_hashes)
    if first != second and (not force or not first & second):
        raise UserError(
            f"{task}: {one.path} has {len(first)} documents and {two.path} {len(second)}, of which "
            f"{len(first & second)} are the same; evaluate both on the same documents (needle "
            "documents depend on the model's tokenizer), or compare what they share (--force)."
        )


def differing(a: Run, b: Run, task: str, force: bool = False) -> str:
    """Names of the settings in which two results differ though their arms do not; "" for none.

    Raises:
        UserError: there is one, and not `force`; says both values.
    """
    first, second = a.tasks[task].settings, b.tasks[task].settings
    names = settings.differing(first, second)
    if a.arm.chat != b.arm.chat:
        # That is the arm: what the two are meant to differ in.
        names = [name for name in names if name != settings.TEMPLATE]
    if names and not force:
        values = (first[names[0]], a.path), (second[names[0]], b.path)
        raise settings.refusal(task, names[0], *values, "compare them all the same with a mark")
    return ", ".join(names)


def one_run(runs: Sequence[Run], named: str) -> Run:
    """The one run of a folder or file.

    Raises:
        UserError: several checkpoints or arms; lists them.
    """
    if len({(run.checkpoint, run.identity, run.arm) for run in runs}) > 1:
        listed = few([f"{run.checkpoint} ({run.arm.name}) in {run.path}" for run in runs])
        raise UserError(f"{named} holds several runs; name the results file of one: {listed}.")
    return replace(runs[0], tasks={name: r for run in runs for name, r in run.tasks.items()})
