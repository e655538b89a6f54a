"""Which tasks and documents of a run have a score per document, and what those lack that do not."""

from __future__ import annotations

import numpy as np

from ctx_tasks.results import Run, Samples, TaskResult, read_samples


def scored(run: Run) -> tuple[dict[str, Samples], list[str]]:
    """Samples of the standing tasks that have a score per document, and why the others have none.

    Of a group that has none its tasks are taken.
    """
    found: dict[str, Samples] = {}
    reasons = []
    waiting = list(run.standing.items())
    while waiting:
        name, result = waiting.pop(0)
        samples = read_samples(result) if result.logged else None
        if samples is not None and not np.isnan(samples.scores[result.primary]).all():
            found[name] = samples
            continue
        without = f"{name} has no samples in {run.path} (--log_samples)"
        reasons.append(f"{without if samples is None else unscored(result)}; left out.")
        waiting += [(m, run.tasks[m]) for m in result.members if m in run.tasks]
    return found, reasons


def unscored(result: TaskResult) -> str:
    """Why a task with samples has no score per document."""
    lengths = result.metrics[result.primary].lengths
    if lengths:
        return (
            f"{result.task}: {result.primary} is no mean over documents, as the lengths have "
            f"unequal numbers of them (--metric {result.task}={lengths[0]})"
        )
    return f"{result.task}: {result.primary} is not scored per document"


def gaps(result: TaskResult, samples: Samples, metric: str) -> list[str]:
    """What a task's samples lack, for the reader: documents cut off, and documents unscored."""
    there = len(samples.doc_hashes)
    found = []
    if result.n > there:
        found.append(f"the sample file is cut off, it holds {there} of {result.n} documents")
    unrated = result.metrics.get("missing")
    unscored = int(np.isnan(samples.scores[metric]).sum())
    unscored = max(unscored, 0 if unrated is None else int(unrated.value))
    if unscored:
        found.append(f"{unscored} of {max(there, result.n)} documents have no {metric}")
    return found
