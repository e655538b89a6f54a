"""The leaderboard: a row per checkpoint and arm, a column per task, what template and remedies do.

Every score has a standard error over clusters where samples were logged (`statistics`), otherwise
the harness's. In each column the best score is marked, and every score whose difference from it has
a 95 % interval that holds zero counts as tied: paired where both answered the same documents, as
independent where they did not (needle documents are measured out in each model's own tokens). These
intervals are not corrected for the number of rows.

The **template tax** of a checkpoint is raw minus chat with the answer begun in both, the **gain**
of a remedy is remedy minus chat, both begun or both not: paired, the mean over the context tasks
that both have, each counting once. Without a begun answer raw and chat differ in how answers begin,
which is no reading: that difference has another name, is shown on request, and with the shares of
answers that are empty.

Within a column only results of one task version, data, limit and generation settings stand beside
each other. The chat template is the arm here, not a setting; but one checkpoint has one template.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks import columns as table
from ctx_tasks import settings
from ctx_tasks.answers import CUT, UNFINISHED
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard.meanings import MOST_EMPTY, meanings
from ctx_tasks.results import Run, Samples, TaskResult, read_samples
from ctx_tasks.statistics import (
    Difference,
    Estimate,
    estimate_samples,
    independent_difference,
    mean_difference,
    paired_difference,
)

_INSTEAD = "show them with a mark"
# Metrics that stand beside a score.
SHARES = ("empty", CUT, UNFINISHED)


@dataclass(frozen=True)
class Cell:
    """A score of one row and column.

    Attributes:
        value, error: the task's primary metric and its standard error; NaN where there is none.
        n: documents.
        estimate: the score's interval and its clusters; None for an average.
        empty: share of answers that say nothing; NaN where the task does not report it.
        cut, unfinished: shares of documents whose prompt lost tokens, and whose answer met the
            token limit (`ctx_tasks.answers`); NaN where they were not counted.
        best, tied: the best of its column, or not distinguishable from it.
        mark: why it is not comparable with the rest of the column (only under force), else "".
    """

    value: float
    error: float
    n: int
    estimate: Estimate | None = None
    empty: float = math.nan
    cut: float = math.nan
    unfinished: float = math.nan
    best: bool = False
    tied: bool = False
    mark: str = ""

    @property
    def unanswered(self) -> bool:
        """Whether so many answers are empty that the score says how answers begin."""
        return self.empty > MOST_EMPTY

    @property
    def signs(self) -> str:
        """What keeps the score from being one of reading: ∅, ⊣, … (see the board's notes)."""
        signs = ("∅", self.unanswered), ("⊣", self.cut > 0), ("…", self.unfinished > MOST_EMPTY)
        return "".join(sign for sign, there in signs if there)


@dataclass(frozen=True)
class Change:
    """A mean difference and the columns over which it was taken.

    Attributes:
        empty: mean share of empty answers over them before and after; NaN where it is not known.
    """

    difference: Difference
    columns: tuple[str, ...]
    empty: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One checkpoint, run in one way.

    Attributes:
        cells: by column.
        tax: raw minus chat of the same checkpoint, both begun, on the row of the latter.
        unbegun_tax: the same of arms that begin their answers themselves; only where asked for.
        gain: this remedy minus chat of the same checkpoint, both begun or both not.
        results: the result behind each cell; averages have none.
        runs: the results files.
    """

    checkpoint: str
    arm: Arm
    cells: dict[str, Cell]
    tax: Change | None
    unbegun_tax: Change | None
    gain: Change | None
    results: dict[str, TaskResult]
    runs: list[Run]


@dataclass(frozen=True)
class Board:
    """What a leaderboard shows; `notes` are sentences for the reader."""

    columns: list[str]
    rows: list[Row]
    notes: list[str]


def board(runs: Sequence[Run], *, force: bool = False, unbegun_tax: bool = False) -> Board:
    """Put runs side by side.

    Args:
        runs: from `results.read_runs`.
        force: mark what cannot be compared instead of refusing it.
        unbegun_tax: also show raw minus chat of arms whose answer is not begun.

    Raises:
        UserError: no runs, or results in one column that cannot be compared.
    """
    entries = _entries(runs)
    if not entries:
        raise UserError("There is no result to show; give a folder that lm_eval wrote to.")
    _one_template(entries, force)
    columns = _columns(entries)
    marks = {column: _marks(entries, column, force) for column in columns}
    shown = [*columns, *(average for average, _ in table.averages(columns))]
    rows = [_row(entry, entries, columns, marks) for entry in entries]
    if not unbegun_tax:
        rows = [replace(row, unbegun_tax=None) for row in rows]
    for column in shown:
        _judge(rows, entries, column, columns)
    return Board(table.ordered(shown), rows, [*_notes(entries), *meanings(rows)])


# ---- rows before they are judged ---------------------------------------------------------------


@dataclass
class _Entry:
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

    @property
    def logged(self) -> bool:
        """Whether all its tasks have samples; groups never do."""
        tasks = [result for result, _ in self.results.values() if not result.members]
        return all(result.samples_file is not None for result in tasks)

    def samples(self, column: str) -> Samples | None:
        """The samples of a column's result; None where they were not logged."""
        if column not in self._samples:
            result = self.results[column][0]
            logged = result.samples_file is not None
            self._samples[column] = read_samples(result) if logged else None
        return self._samples[column]

    def metric(self, column: str) -> str:
        return self.results[column][0].primary

    def empty(self, column: str) -> float:
        """The share of its answers that say nothing; NaN where the task does not report it."""
        return self.share(column, "empty")

    def share(self, column: str, metric: str) -> float:
        """A share that stands beside the score; NaN where it is not reported."""
        found = self.results[column][0].metrics.get(metric)
        return math.nan if found is None else found.value


def _entries(runs: Sequence[Run]) -> list[_Entry]:
    entries: dict[tuple[str, str, Arm], _Entry] = {}
    for run in runs:
        key = (run.checkpoint, run.identity, run.arm)
        entry = entries.setdefault(key, _Entry(*key))
        entry.runs.append(run)
        groups = [result for name, result in run.tasks.items() if name not in table.GROUPS]
        hidden = {member for group in groups for member in group.members}
        for name, result in run.tasks.items():
            if name not in hidden and name not in table.GROUPS:
                _put(entry, table.heading(name), result, run.path)
    return [entry for entry in entries.values() if entry.results]


def _put(entry: _Entry, column: str, result: TaskResult, path: Path) -> None:
    taken = entry.results.setdefault(column, (result, path))
    if taken[0].task != result.task:
        raise UserError(
            f"{taken[0].task} ({taken[1]}) and {result.task} ({path}) are one column and one row; "
            "show their folders apart."
        )


def _columns(entries: Iterable[_Entry]) -> list[str]:
    return list(dict.fromkeys(column for entry in entries for column in entry.results))


def _row(
    entry: _Entry,
    entries: Sequence[_Entry],
    columns: Sequence[str],
    marks: dict[str, dict[int, str]],
) -> Row:
    cells = {
        column: replace(_cell(entry, column), mark=marks[column].get(id(entry), ""))
        for column in columns
        if column in entry.results
    }
    for name, four in table.averages(columns):
        if set(four) <= set(cells):
            cells[name] = _average([cells[column] for column in four])
    by_arm = {other.arm: other for other in entries if other.model == entry.model}
    arm = entry.arm
    raw = by_arm.get(replace(arm, chat=False)) if arm == arm.base and arm.chat else None
    tax = None if raw is None else _change(entry, raw)
    chat = by_arm.get(arm.base) if arm.remedy else None
    return Row(
        entry.checkpoint,
        arm,
        cells,
        tax if arm.prefix else None,
        None if arm.prefix else tax,
        None if chat is None else _change(chat, entry),
        {column: result for column, (result, _) in entry.results.items()},
        entry.runs,
    )


def _cell(entry: _Entry, column: str) -> Cell:
    result, samples = entry.results[column][0], entry.samples(column)
    reported = result.metrics[result.primary]
    scored = samples is not None and not np.isnan(samples.scores[result.primary]).all()
    if samples is None or not scored:
        error = math.nan if reported.error is None else reported.error
        unknown = (math.nan, math.nan)
        found = Estimate(
            reported.value, error, *unknown, result.n, result.n, max(result.n - 1, 1), "unknown"
        )
    else:
        found = estimate_samples(samples, result.primary)
    shares: dict[str, Any] = {name: entry.share(column, name) for name in SHARES}
    return Cell(reported.value, found.error, found.n, found, **shares)


def _average(cells: Sequence[Cell]) -> Cell:
    error = float(np.sqrt(np.sum([cell.error**2 for cell in cells]))) / len(cells)
    mark = "; ".join(dict.fromkeys(cell.mark for cell in cells if cell.mark))
    mean = float(np.mean([cell.value for cell in cells]))
    shares: dict[str, Any] = {
        name: float(np.mean([getattr(cell, name) for cell in cells])) for name in SHARES
    }
    return Cell(mean, error, sum(cell.n for cell in cells), mark=mark, **shares)


def _change(before: _Entry, after: _Entry) -> Change | None:
    """Paired mean change over the context columns both have samples of, of one kind of data."""
    for kind in table.KINDS:
        shared = [name for name in table.context(kind) if _paired(before, after, name)]
        if shared:
            parts = [_difference(before, after, column) for column in shared]
            shares = [[one.empty(column) for column in shared] for one in (before, after)]
            empty = float(np.mean(shares[0])), float(np.mean(shares[1]))
            return Change(mean_difference(parts), tuple(shared), empty)
    return None


def _paired(a: _Entry, b: _Entry, column: str) -> bool:
    """Whether both answered the same documents."""
    if column not in a.results or column not in b.results or a.metric(column) != b.metric(column):
        return False
    first, second = a.samples(column), b.samples(column)
    return first is not None and second is not None and _same(first, second)


def _same(a: Samples, b: Samples) -> bool:
    return a.doc_hashes == b.doc_hashes or set(a.doc_hashes) == set(b.doc_hashes)


def _difference(before: _Entry, after: _Entry, column: str) -> Difference:
    first, second = before.samples(column), after.samples(column)
    assert first is not None
    assert second is not None
    return paired_difference(first, second, after.metric(column))


# ---- best and tied -----------------------------------------------------------------------------


def _judge(
    rows: Sequence[Row], entries: Sequence[_Entry], column: str, columns: Sequence[str]
) -> None:
    """Mark the best cell of a column and those tied with it."""
    parts = dict(table.averages(columns)).get(column, (column,))
    having = [
        (row, entry)
        for row, entry in zip(rows, entries, strict=True)
        if column in row.cells and not math.isnan(row.cells[column].value)
    ]
    if len(having) < 2:
        return
    sign = 1 if _higher_is_better(having[0][1], parts[0]) else -1
    best_row, best = max(having, key=lambda pair: sign * pair[0].cells[column].value)
    for row, entry in having:
        if row is best_row:
            row.cells[column] = replace(row.cells[column], best=True)
        else:
            apart = _apart(best, best_row, entry, row, parts)
            row.cells[column] = replace(row.cells[column], tied=not apart.clear)


def _higher_is_better(entry: _Entry, column: str) -> bool:
    result = entry.results[column][0]
    return result.metrics[result.primary].higher_is_better


def _apart(
    best: _Entry, best_row: Row, other: _Entry, row: Row, columns: Sequence[str]
) -> Difference:
    return mean_difference(
        [
            _difference(best, other, column)
            if _paired(best, other, column)
            else _unpaired(best_row.cells[column], row.cells[column])
            for column in columns
        ]
    )


def _unpaired(a: Cell, b: Cell) -> Difference:
    assert a.estimate is not None
    assert b.estimate is not None
    return independent_difference(a.estimate, b.estimate)


# ---- what may stand side by side -----------------------------------------------------------------


def _one_template(entries: Sequence[_Entry], force: bool) -> None:
    seen: dict[tuple[str, str], tuple[Any, Path]] = {}
    for entry in entries:
        for result, path in entry.results.values():
            template = result.settings[settings.TEMPLATE]
            if not entry.arm.chat or template is None:
                continue
            first, where = seen.setdefault(entry.model, (template, path))
            if first != template and not force:
                values = (first, where), (template, path)
                raise settings.refusal(entry.checkpoint, settings.TEMPLATE, *values, _INSTEAD)


def _marks(entries: Sequence[_Entry], column: str, force: bool) -> dict[int, str]:
    """What each entry (by id) has unlike most of its column."""
    having = [(entry, *entry.results[column]) for entry in entries if column in entry.results]
    marks: dict[int, list[str]] = {}
    for name in having[0][1].settings:
        if name == settings.TEMPLATE:
            continue
        values = [settings.key(result.settings[name]) for _, result, _ in having]
        usual = Counter(values).most_common(1)[0][0]
        place = values.index(usual)
        for (entry, result, path), value in zip(having, values, strict=True):
            if value != usual and not force:
                other = having[place]
                first = (other[1].settings[name], other[2])
                second = (result.settings[name], path)
                raise settings.refusal(column, name, first, second, _INSTEAD)
            if value != usual:
                marks.setdefault(id(entry), []).append(name)
    return {key: ", ".join(names) for key, names in marks.items()}


def _notes(entries: Sequence[_Entry]) -> list[str]:
    notes = []
    unlogged = [entry for entry in entries if not entry.logged]
    if unlogged:
        names = ", ".join(f"{entry.checkpoint} ({entry.arm.name})" for entry in unlogged)
        notes.append(
            f"Without --log_samples: {names}; errors there are the harness's, which take documents "
            "as independent, and nothing is paired."
        )
    if any(table.is_bundled(column) for entry in entries for column in entry.results):
        notes.append("(nano): bundled questions, no benchmark.")
    return notes
