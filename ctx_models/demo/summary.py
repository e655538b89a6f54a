"""What the demo's numbers say: the table, and one sentence computed from it.

The sentence speaks of the context score, the mean of the four context tasks with each counting once
(Table 3, "Avg."): the template's cost where the answer is begun, a remedy's gain begun and unbegun
(what moves the latter alone changes how answers begin). Differences are paired on the same
documents, questions on one passage and cells with one needle are one cluster
(`ctx_tasks.statistics`); "unclear" is a difference whose 95 % interval holds zero.
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
    TOLD,
    UNMARKED,
    Outcome,
    Setup,
)
from ctx_tasks.results import Samples, samples_of
from ctx_tasks.statistics import (
    Difference,
    Estimate,
    estimate_samples,
    mean_difference,
    paired_difference,
)
from ctx_tasks.tables import Head, Labelled, Table, score, sizes, with_error


def table(rows: Sequence[Outcome]) -> Table:
    """Scores ± standard errors over clusters, n in the heads, in 80 characters."""
    heads = [Head(column, (_sizes(rows, column),)) for column in COLUMNS]
    entries = [
        Labelled(
            row.setup.arm.name,
            [score(*_score(row, column)) for column in COLUMNS],
            group=row.setup.checkpoint,
        )
        for row in rows
    ]
    title = "The nano world: bundled questions, no benchmark"
    return Table(Head("model, how it is run"), heads, entries, title)


def markdown(rows: Sequence[Outcome]) -> str:
    """The table as Markdown."""
    heads = [f"{column} ({_sizes(rows, column)})" for column in COLUMNS]
    lines = [["model", "how it is run", *heads], ["---"] * 2 + ["---:"] * len(heads)]
    for row in rows:
        cells = [with_error(*_score(row, column)) for column in COLUMNS]
        lines.append([row.setup.checkpoint, row.setup.arm.name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sentence(rows: Sequence[Outcome]) -> str:
    """One sentence on what the chat template costs and what the remedies win back, as measured."""
    by_setup = {row.setup: row for row in rows}
    raw, chat = by_setup[RAW.begun], by_setup[CHAT.begun]
    gains = {one: _gains(by_setup, one, CHAT) for one in (TOLD, *STEERED)}
    best = max(STEERED, key=lambda one: gains[one][0].mean)
    marked = _gains(by_setup, MARKED, UNMARKED)
    cost = difference(chat, raw)
    return (
        f"{_verdict(cost)}, the answer begun ({context_score(raw):.3f} without, "
        f"{context_score(chat):.3f} with it: {_shown(cost)}); over chat, begun and unbegun, a "
        f"sentence changes it by {_both(gains[TOLD])}, steering by {_both(gains[best])} at best "
        f"({_setting(best)} of {len(STEERED)} settings; by heart: "
        f"{_price(by_setup[best], by_setup[CHAT])}), and {MARKED.arm.indicator} nano-chat-ind's "
        f"{context_score(by_setup[UNMARKED.begun]):.3f} and "
        f"{context_score(by_setup[UNMARKED]):.3f} by {_both(marked)} (by heart: "
        f"{_price(by_setup[MARKED], by_setup[UNMARKED])})."
    )


def context_score(row: Outcome) -> float:
    """Mean of the four context tasks, each counting once."""
    return fmean(_reported(row, _task(row, column))["score,none"] for column in CONTEXT_TASKS)


def difference(
    row: Outcome, other: Outcome, columns: Sequence[str] = tuple(CONTEXT_TASKS)
) -> Difference:
    """Mean over `columns` of how much more `row` scores than `other` on the same documents."""
    parts = [_paired(row, other, column) for column in columns]
    return mean_difference(parts)


def _paired(row: Outcome, other: Outcome, column: str) -> Difference:
    task = _task(row, column)
    # A begun answer is compared with a begun one alone.
    assert task == other.task(column)
    before, after = (_samples(one, task) for one in (other, row))
    assert set(before.doc_hashes) == set(after.doc_hashes)
    return paired_difference(before, after, "score")


def _gains(
    rows: Mapping[Setup, Outcome], remedy: Setup, over: Setup
) -> tuple[Difference, Difference]:
    """What a remedy changes with the answer begun, and without."""
    begun = difference(rows[remedy.begun], rows[over.begun])
    return begun, difference(rows[remedy], rows[over])


def _both(gains: tuple[Difference, Difference]) -> str:
    return " and ".join(map(_shown, gains))


def _shown(found: Difference) -> str:
    shown = with_error(found.mean, found.error, signed=True)
    return shown + ("" if found.clear else " [unclear]")


def _verdict(cost: Difference) -> str:
    if not cost.clear:
        return "The chat template makes no clear difference to nano-chat's context score"
    verb = "lowers" if cost.mean < 0 else "raises"
    return f"The chat template {verb} nano-chat's context score"


def _setting(setup: Setup) -> str:
    return f"α {setup.arm.alpha:g} {setup.arm.schedule}"


def _price(row: Outcome, other: Outcome) -> str:
    return _shown(difference(row, other, [BY_HEART]))


def _task(row: Outcome, column: str) -> str:
    task = row.task(column)
    assert task is not None
    return task


def _reported(row: Outcome, task: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.results["results"][task]
    return found


def _sizes(rows: Sequence[Outcome], column: str) -> str:
    found = [_estimate(row, column) for row in rows]
    return sizes((one.n, one.clusters) for one in found if one is not None)


def _score(row: Outcome, column: str) -> tuple[float, float]:
    """Score and standard error; NaN where the arm has no such task."""
    found = _estimate(row, column)
    return (math.nan, math.nan) if found is None else (found.mean, found.error)


def _estimate(row: Outcome, column: str) -> Estimate | None:
    task = row.task(column)
    return None if task is None else estimate_samples(_samples(row, task), "score")


def _samples(row: Outcome, task: str) -> Samples:
    return samples_of(row.samples[task], "score")
