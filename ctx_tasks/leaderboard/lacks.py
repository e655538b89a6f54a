"""What a board's results lack, in sentences: samples, scores, documents, clusters."""

from __future__ import annotations

from collections.abc import Sequence

from ctx_tasks import columns as table
from ctx_tasks.coverage import gaps, unscored
from ctx_tasks.intervals import Clustering
from ctx_tasks.leaderboard.entries import Entry
from ctx_tasks.reach import unsaid
from ctx_tasks.results import TaskResult
from ctx_tasks.statistics import cluster_numbers


def notes(entries: Sequence[Entry]) -> list[str]:
    """Metrics where there was a choice, and all that is lacking."""
    results = [
        (entry, column, result)
        for entry in entries
        for column, (result, _) in entry.results.items()
    ]
    said = list(dict.fromkeys(result.chosen.said for *_, result in results if result.chosen.said))
    said += _unscored(results)
    unlogged = [entry for entry in entries if not entry.logged]
    if unlogged:
        names = ", ".join(f"{entry.checkpoint} ({entry.arm.name})" for entry in unlogged)
        said.append(
            f"Without --log_samples: {names}; errors there are the harness's, which take documents "
            "as independent, and nothing is paired."
        )
    shown = {table.kind_of(column) for entry in entries for column in entry.results}
    bundled = [kind for kind in table.BUNDLED if kind in shown]
    said += [f"({kind}): bundled questions, no benchmark." for kind in bundled]
    return said + _few(entries) + [gap for entry in entries for gap in _gaps(entry)]


def _few(entries: Sequence[Entry]) -> list[str]:
    """What columns of few clusters cannot tell, once a column where all rows are of the same."""
    notes = []
    for entry in entries:
        for column in entry.results:
            samples = entry.scores(column)
            few = samples and unsaid(Clustering.of(cluster_numbers(samples.clusters)))
            notes += [f"{column}: {few}."] if few else []
    return list(dict.fromkeys(notes))


def _unscored(results: Sequence[tuple[Entry, str, TaskResult]]) -> list[str]:
    """What has no score per document, and what is better when lower."""
    notes = []
    for entry, column, result in results:
        if result.logged and entry.scores(column) is None:
            notes.append(f"{unscored(result)}; the error is the harness's, nothing is paired.")
        if not result.metrics[result.primary].higher_is_better:
            notes.append(f"{result.task}: lower is better; tax and gain are turned round.")
    return [note for note in dict.fromkeys(notes) if note]


def _gaps(entry: Entry) -> list[str]:
    """Sentences on what the samples of a row lack."""
    found = []
    for column, (result, _) in entry.results.items():
        samples = entry.scores(column)
        lacking = [] if samples is None else gaps(result, samples, result.primary)
        found += [f"{entry.checkpoint}, {entry.arm.name}, {column}: {gap}." for gap in lacking]
    return found
