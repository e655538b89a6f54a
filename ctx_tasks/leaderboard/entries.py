"""The rows of a leaderboard before they are judged: results by column, samples read once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ctx_tasks import columns as table
from ctx_tasks import settings
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from ctx_tasks.results import Run, Samples, TaskResult, read_samples


@dataclass
class Entry:
    """A row's results by column, with samples read once."""

    checkpoint: str
    identity: str
    arm: Arm
    runs: list[Run] = field(default_factory=list)
    results: dict[str, tuple[TaskResult, Path]] = field(default_factory=dict)
    _samples: dict[str, Samples | None] = field(default_factory=dict)

    @cached_property
    def model(self) -> tuple[str, str]:
        return self.checkpoint, self.identity

    @cached_property
    def weights(self) -> str:
        """Equal for equal weights, whatever they were loaded as."""
        arguments = json.loads(self.identity)
        return json.dumps({name: arguments[name] for name in arguments if name != "dtype"})

    @cached_property
    def dtype(self) -> str | None:
        """What the weights were loaded as, where a results file says so."""
        found = [result.settings.get(settings.DTYPE) for result, _ in self.results.values()]
        return next((one for one in found if one is not None), None)

    @property
    def logged(self) -> bool:
        """Whether all its tasks have samples."""
        return all(result.logged for result, _ in self.results.values())

    def samples(self, column: str) -> Samples | None:
        """The samples of a column's result; None where they were not logged."""
        if column not in self._samples:
            result = self.results[column][0]
            self._samples[column] = read_samples(result) if result.logged else None
        return self._samples[column]

    def scores(self, column: str) -> Samples | None:
        """The same; None too where the metric is not scored per document."""
        found = self.samples(column)
        scored = found is not None and not np.isnan(found.scores[self.metric(column)]).all()
        return found if scored else None

    def metric(self, column: str) -> str:
        return self.results[column][0].primary

    def empty(self, column: str) -> float:
        """The share of its answers that say nothing; NaN where the task does not report it."""
        return self.share(column, "empty")

    def share(self, column: str, metric: str) -> float:
        """A share that stands beside the score; NaN where it is not reported."""
        found = self.results[column][0].metrics.get(metric)
        return math.nan if found is None else found.value


def read_entries(runs: Sequence[Run]) -> list[Entry]:
    entries: dict[tuple[str, str, Arm], Entry] = {}
    for run in runs:
        key = (run.checkpoint, run.identity, run.arm)
        entry = entries.setdefault(key, Entry(*key))
        entry.runs.append(run)
        for name, result in run.standing.items():
            _put(entry, table.heading(name), result, run.path)
    return [entry for entry in entries.values() if entry.results]


def _put(entry: Entry, column: str, result: TaskResult, path: Path) -> None:
    taken = entry.results.setdefault(column, (result, path))
    if taken[0].task != result.task:
        raise UserError(
            f"{taken[0].task} ({taken[1]}) and {result.task} ({path}) are one column and one row; "
            "show their folders apart."
        )
