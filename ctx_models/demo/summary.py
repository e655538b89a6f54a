"""What the demo's numbers say: the table, and one sentence computed from it.

The sentence speaks of the context score, the mean of the four context tasks with each counting once
(Table 3, "Avg."). Differences are paired on the same documents, questions on one passage and cells
with one needle are one cluster (`ctx_tasks.statistics`); "unclear" is a difference whose 95 %
interval holds zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ctx_models.demo.run import (
    BY_HEART,
    CHAT,
    COLUMNS,
    CONTEXT_TASKS,
    MARKED,
    RAW,
    STEERED,
    UNMARKED,
    Entry,
    Row,
)
from ctx_tasks.results import samples_of
from ctx_tasks.statistics import Difference, mean_difference, paired_difference
from ctx_tasks.tables import Head, Labelled, Table, score, with_error


def table(rows: Sequence[Row]) -> Table:
    """Scores ± standard errors as the harness computes them, n in the heads, in 80 characters."""
    heads = [Head(column, (f"n = {_count(rows[0], column)}",)) for column in COLUMNS]
    entries = [
        Labelled(
            row.entry.arm.name,
            [score(*_score(row, column)) for column in COLUMNS],
            group=row.entry.checkpoint,
        )
        for row in rows
    ]
    title = "The nano world: bundled questions, no benchmark"
    return Table(Head("model, how it is run"), heads, entries, title)


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    heads = [f"{column} (n = {_count(rows[0], column)})" for column in COLUMNS]
    lines = [["model", "how it is run", *heads], ["---"] * 2 + ["---:"] * len(heads)]
    for row in rows:
        cells = [with_error(*_score(row, column)) for column in COLUMNS]
        lines.append([row.entry.checkpoint, row.entry.arm.name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sentence(rows: Sequence[Row]) -> str:
    """One sentence on what the chat template costs and what the remedies win back, as measured."""
    by_entry = {row.entry: row for row in rows}
    raw, chat = by_entry[RAW], by_entry[CHAT]
    cost = difference(chat, raw)
    steered = {one: difference(by_entry[one], chat) for one in STEERED}
    best = max(STEERED, key=lambda one: steered[one].mean)
    worst = min(STEERED, key=lambda one: steered[one].mean)
    marked = difference(by_entry[MARKED], by_entry[UNMARKED])
    at_best = f"{_shown(steered[best])} at best ({_setting(best)} of {len(STEERED)} settings"
    return (
        f"{_verdict(cost)} ({context_score(raw):.3f} without, {context_score(chat):.3f} with it: "
        f"{_shown(cost)}); steering changes the latter by {at_best}; by heart: "
        f"{_price(by_entry[best], chat)}) and by {_shown(steered[worst])} at worst "
        f"({_setting(worst)}); {MARKED.arm.indicator} changes nano-chat-ind's "
        f"{context_score(by_entry[UNMARKED]):.3f} by {_shown(marked)} (by heart: "
        f"{_price(by_entry[MARKED], by_entry[UNMARKED])})."
    )


def context_score(row: Row) -> float:
    """Mean of the four context tasks, each counting once."""
    return fmean(_reported(row, task)["score,none"] for task in CONTEXT_TASKS.values())


def difference(row: Row, other: Row, columns: Sequence[str] = tuple(CONTEXT_TASKS)) -> Difference:
    """Mean over `columns` of how much more `row` scores than `other` on the same documents."""
    parts = [_paired(row, other, column) for column in columns]
    return mean_difference(parts)


def _paired(row: Row, other: Row, column: str) -> Difference:
    task = COLUMNS[column]
    before, after = (samples_of(one.samples[task], "score") for one in (other, row))
    assert set(before.doc_hashes) == set(after.doc_hashes)
    return paired_difference(before, after, "score")


def _shown(found: Difference) -> str:
    shown = with_error(found.mean, found.error, signed=True)
    return shown + ("" if found.clear else " [unclear]")


def _verdict(cost: Difference) -> str:
    if not cost.clear:
        return "The chat template makes no clear difference to nano-chat's context score"
    verb = "lowers" if cost.mean < 0 else "raises"
    return f"The chat template {verb} nano-chat's context score"


def _setting(entry: Entry) -> str:
    return f"α {entry.arm.alpha:g} {entry.arm.schedule}"


def _price(row: Row, other: Row) -> str:
    return _shown(difference(row, other, [BY_HEART]))


def _reported(row: Row, task: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.results["results"][task]
    return found


def _count(row: Row, column: str) -> int:
    task = row.task(column)
    assert task is not None
    return int(row.results["n-samples"][task]["effective"])


def _score(row: Row, column: str) -> tuple[float, float]:
    """Score and standard error; NaN where the arm has no such task."""
    task = row.task(column)
    if task is None:
        return math.nan, math.nan
    reported = _reported(row, task)
    return reported["score,none"], reported["score_stderr,none"]
