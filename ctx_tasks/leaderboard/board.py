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
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks import columns as table
from ctx_tasks import settings
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard.entries import Entry, read_entries
from ctx_tasks.leaderboard.lacks import notes
from ctx_tasks.leaderboard.meanings import MOST_EMPTY, meanings
from ctx_tasks.results import Run, Samples, TaskResult
from ctx_tasks.scores import BESIDE
from ctx_tasks.statistics import (
    Difference,
    Estimate,
    estimate_samples,
    independent_difference,
    mean_difference,
    paired_difference,
)
from ctx_tasks.tables import sizes

_INSTEAD = "show them with a mark"


@dataclass(frozen=True)
class Score:
    """A score of one row and column.

    Attributes:
        value, error: the task's primary metric and its standard error; NaN where there is none.
        n: documents.
        estimate: the score's interval and its clusters; None for an average.
        empty: share of answers that say nothing; NaN where the task does not report it.
        cut, unfinished, unsegmented: shares of documents to whom that happened, as
            `ctx_tasks.answers` says; NaN where they were not counted.
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
    unsegmented: float = math.nan
    best: bool = False
    tied: bool = False
    mark: str = ""

    @property
    def size(self) -> str:
        """Documents and independent clusters, "n = 40 in 8"; "" of an average."""
        return _size([self])

    @property
    def unanswered(self) -> bool:
        """Whether so many answers are empty that the score says how answers begin."""
        return self.empty > MOST_EMPTY

    @property
    def signs(self) -> str:
        """What keeps the score from being one of reading: ∅, ⊣, …, ? (see the board's notes)."""
        there = self.unanswered, self.cut > 0, self.unfinished > MOST_EMPTY, self.unsegmented > 0
        return "".join(sign for sign, shown in zip("∅⊣…?", there, strict=True) if shown)


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
        others: tax, unbegun_tax and gain in each task that is not ours, each for itself: their
            scales differ. Turned round where lower is better. A task begins the answer where it has
            a response prefix of its own, or has the model rate given answers (`settings.BEGUN`).
        results: the result behind each cell; averages have none.
        runs: the results files.
    """

    checkpoint: str
    arm: Arm
    cells: dict[str, Score]
    tax: Change | None
    unbegun_tax: Change | None
    gain: Change | None
    others: dict[str, list[Change]]
    results: dict[str, TaskResult]
    runs: list[Run]


@dataclass(frozen=True)
class Board:
    """What a leaderboard shows; `notes` are sentences for the reader."""

    columns: list[str]
    rows: list[Row]
    notes: list[str]

    def size(self, column: str) -> str:
        """Documents and independent clusters of a column's scores; "" of an average."""
        return _size([row.cells[column] for row in self.rows if column in row.cells])


def _size(scores: Iterable[Score]) -> str:
    found = [one.estimate for one in scores if one.estimate is not None]
    return sizes((one.n, one.clusters) for one in found) if found else ""


def board(runs: Sequence[Run], *, force: bool = False, unbegun_tax: bool = False) -> Board:
    """Put runs side by side.

    Args:
        runs: from `results.read_runs`.
        force: mark what cannot be compared instead of refusing it.
        unbegun_tax: also show raw minus chat of arms whose answer is not begun.

    Raises:
        UserError: no runs, or results in one column that cannot be compared.
    """
    entries = read_entries(runs)
    if not entries:
        raise UserError("There is no result to show; give a folder that lm_eval wrote to.")
    _one_template(entries, force)
    columns = _columns(entries)
    strangers = _of_other_dtype(entries, force)
    marks = {column: _marks(entries, column, strangers, force) for column in columns}
    shown = [*columns, *(average for average, _ in table.averages(columns))]
    rows = [_row(entry, entries, columns, marks) for entry in entries]
    if not unbegun_tax:
        rows = [_without_unbegun_tax(row) for row in rows]
    for column in shown:
        _judge(rows, entries, column, columns)
    return Board(table.ordered(shown), rows, [*notes(entries), *meanings(rows)])


# ---- rows before they are judged ---------------------------------------------------------------


def _columns(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(column for entry in entries for column in entry.results))


def _row(
    entry: Entry,
    entries: Sequence[Entry],
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
        {
            "tax": [] if raw is None else _others(entry, raw, begun=True),
            "unbegun_tax": [] if raw is None else _others(entry, raw, begun=False),
            "gain": [] if chat is None else _others(chat, entry),
        },
        {column: result for column, (result, _) in entry.results.items()},
        entry.runs,
    )


def _cell(entry: Entry, column: str) -> Score:
    result, samples = entry.results[column][0], entry.scores(column)
    reported = result.metrics[result.primary]
    if samples is None:
        error = math.nan if reported.error is None else reported.error
        unknown = (math.nan, math.nan)
        found = Estimate(
            reported.value, error, *unknown, result.n, result.n, max(result.n - 1, 1), "unknown"
        )
    else:
        found = estimate_samples(samples, result.primary)
    shares: dict[str, Any] = {name: entry.share(column, name) for name in BESIDE}
    return Score(reported.value, found.error, found.n, found, **shares)


def _average(cells: Sequence[Score]) -> Score:
    error = float(np.sqrt(np.sum([cell.error**2 for cell in cells]))) / len(cells)
    mark = "; ".join(dict.fromkeys(cell.mark for cell in cells if cell.mark))
    mean = float(np.mean([cell.value for cell in cells]))
    shares: dict[str, Any] = {
        name: float(np.mean([getattr(cell, name) for cell in cells])) for name in BESIDE
    }
    return Score(mean, error, sum(cell.n for cell in cells), mark=mark, **shares)


def _change(before: Entry, after: Entry) -> Change | None:
    """Paired mean change over the context columns both have samples of, of one kind of data."""
    for kind in table.KINDS:
        shared = [name for name in table.context(kind) if _paired(before, after, name)]
        if shared:
            parts = [_difference(before, after, column) for column in shared]
            shares = [[one.empty(column) for column in shared] for one in (before, after)]
            empty = float(np.mean(shares[0])), float(np.mean(shares[1]))
            return Change(mean_difference(parts), tuple(shared), empty)
    return None


def _others(before: Entry, after: Entry, begun: bool | None = None) -> list[Change]:
    """Changes of the tasks that are not ours, of all or of those that do or do not begin."""
    found = []
    for column, (result, _) in before.results.items():
        fits = begun is None or result.settings[settings.BEGUN] is begun
        if result.task not in table.TASKS and fits and _paired(before, after, column):
            change = _difference(before, after, column)
            if not _higher_is_better(before, column):
                change = replace(change, mean=-change.mean, low=-change.high, high=-change.low)
            empty = before.empty(column), after.empty(column)
            found.append(Change(change, (column,), empty))
    return found


def _without_unbegun_tax(row: Row) -> Row:
    return replace(row, unbegun_tax=None, others={**row.others, "unbegun_tax": []})


def _paired(a: Entry, b: Entry, column: str) -> bool:
    """Whether both answered the same documents."""
    if column not in a.results or column not in b.results or a.metric(column) != b.metric(column):
        return False
    first, second = a.scores(column), b.scores(column)
    return first is not None and second is not None and _same(first, second)


def _same(a: Samples, b: Samples) -> bool:
    return a.doc_hashes == b.doc_hashes or set(a.doc_hashes) == set(b.doc_hashes)


def _difference(before: Entry, after: Entry, column: str) -> Difference:
    first, second = before.scores(column), after.scores(column)
    assert first is not None
    assert second is not None
    return paired_difference(first, second, after.metric(column))


# ---- best and tied -----------------------------------------------------------------------------


def _judge(
    rows: Sequence[Row], entries: Sequence[Entry], column: str, columns: Sequence[str]
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
            # Without an error, of a perplexity for one, nobody knows.
            tied = not apart.clear and not math.isnan(apart.error)
            row.cells[column] = replace(row.cells[column], tied=tied)


def _higher_is_better(entry: Entry, column: str) -> bool:
    result = entry.results[column][0]
    return result.metrics[result.primary].higher_is_better


def _apart(
    best: Entry, best_row: Row, other: Entry, row: Row, columns: Sequence[str]
) -> Difference:
    return mean_difference(
        [
            _difference(best, other, column)
            if _paired(best, other, column)
            else _unpaired(best_row.cells[column], row.cells[column])
            for column in columns
        ]
    )


def _unpaired(a: Score, b: Score) -> Difference:
    assert a.estimate is not None
    assert b.estimate is not None
    return independent_difference(a.estimate, b.estimate)


# ---- what may stand side by side -----------------------------------------------------------------


def _one_template(entries: Sequence[Entry], force: bool) -> None:
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


def _of_other_dtype(entries: Sequence[Entry], force: bool) -> set[int]:
    """Entries (by id) in an arm that their checkpoint has in another dtype than most of its arms.

    Different checkpoints have their own; and one checkpoint in two, with the same arms, is a
    comparison of dtypes.
    """
    weights: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        if entry.dtype is not None:
            weights.setdefault(entry.weights, {}).setdefault(entry.dtype, []).append(entry)
    strangers: set[int] = set()
    for by_dtype in weights.values():
        usual = max(by_dtype.values(), key=len)
        arms = {entry.arm for entry in usual}
        for entry in (one for part in by_dtype.values() for one in part if one.arm not in arms):
            strangers.add(id(entry))
            if not force:
                values = (usual[0].dtype, usual[0].runs[0].path), (entry.dtype, entry.runs[0].path)
                raise settings.refusal(entry.checkpoint, settings.DTYPE, *values, _INSTEAD)
    return strangers


def _marks(
    entries: Sequence[Entry], column: str, strangers: Set[int], force: bool
) -> dict[int, str]:
    """What each entry (by id) has unlike most of its column."""
    having = [(entry, *entry.results[column]) for entry in entries if column in entry.results]
    marks = {id(entry): [settings.DTYPE] for entry, *_ in having if id(entry) in strangers}
    for name in having[0][1].settings:
        if name in (settings.TEMPLATE, settings.DTYPE):
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
