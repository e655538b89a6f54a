"""What the demo's numbers say: the table, and one sentence computed from it.

The sentence speaks of the context score, the mean of the four context tasks with each counting once
(Table 3, "Avg."). Differences are paired on the same documents; questions that share a passage are
one cluster; what is less than two standard errors from zero is called unclear.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ctx_models.demo import (
    BY_HEART,
    CHAT,
    COLUMNS,
    CONTEXT_TASKS,
    MARKED,
    RAW,
    STEERED,
    UNMARKED,
    Arm,
    Row,
)


class Difference(NamedTuple):
    """A mean difference and its standard error."""

    mean: float
    error: float

    @property
    def clear(self) -> bool:
        """Whether it is at least two standard errors from zero."""
        return abs(self.mean) >= 2 * self.error and self.mean != 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}" + ("" if self.clear else " [unclear]")


def table(rows: Sequence[Row]) -> Table:
    """Scores ± standard errors as the harness computes them, n in the heads, in 80 characters."""
    shown = Table(title="The nano world: bundled questions, no benchmark", box=SIMPLE_HEAD)
    shown.padding = (0, 1, 0, 0)
    shown.add_column("model, how it is run")
    for column in COLUMNS:
        shown.add_column(f"{column}\nn = {_count(rows[0], column)}", justify="right", no_wrap=True)
    for checkpoint, arms in groupby(rows, key=lambda row: row.arm.checkpoint):
        shown.add_row(Text(checkpoint, style="bold"))
        for row in arms:
            # Two digits, and an error is less than one.
            cells = [_cell(row, column, digits=2).replace("± 0.", "±.") for column in COLUMNS]
            shown.add_row(Text(f" {row.arm.settings}"), *cells)
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    heads = [f"{column} (n = {_count(rows[0], column)})" for column in COLUMNS]
    lines = [["model", "how it is run", *heads], ["---"] * 2 + ["---:"] * len(heads)]
    for row in rows:
        cells = [_cell(row, column) for column in COLUMNS]
        lines.append([row.arm.checkpoint, row.arm.settings, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sentence(rows: Sequence[Row]) -> str:
    """One sentence on what the chat template costs and what the remedies win back, as measured."""
    by_arm = {row.arm: row for row in rows}
    raw, chat = by_arm[RAW], by_arm[CHAT]
    cost = difference(chat, raw)
    steered = {arm: difference(by_arm[arm], chat) for arm in STEERED}
    best = max(STEERED, key=lambda arm: steered[arm].mean)
    worst = min(STEERED, key=lambda arm: steered[arm].mean)
    marked = difference(by_arm[MARKED], by_arm[UNMARKED])
    return (
        f"{_verdict(cost)} ({context_score(raw):.3f} without, {context_score(chat):.3f} with it: "
        f"{cost}); steering changes the latter by {steered[best]} at best ({_setting(best)} of "
        f"{len(STEERED)} settings; by heart: {_price(by_arm[best], chat)}) and by {steered[worst]} "
        f"at worst ({_setting(worst)}); {MARKED.indicator} changes nano-chat-ind's "
        f"{context_score(by_arm[UNMARKED]):.3f} by {marked} (by heart: "
        f"{_price(by_arm[MARKED], by_arm[UNMARKED])})."
    )


def context_score(row: Row) -> float:
    """Mean of the four context tasks, each counting once."""
    return fmean(_reported(row, task)["score,none"] for task in CONTEXT_TASKS.values())


def difference(row: Row, other: Row, columns: Sequence[str] = tuple(CONTEXT_TASKS)) -> Difference:
    """Mean over `columns` of how much more `row` scores than `other` on the same documents."""
    parts = [_paired(row.samples[COLUMNS[c]], other.samples[COLUMNS[c]]) for c in columns]
    error = math.sqrt(sum(part.error**2 for part in parts)) / len(parts)
    return Difference(fmean(part.mean for part in parts), error)


def _paired(samples: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> Difference:
    """Mean difference with a standard error over clusters, the documents that share a passage."""
    scores = {other["doc_hash"]: other["score"] for other in others}
    assert scores.keys() == {sample["doc_hash"] for sample in samples}
    changes = [sample["score"] - scores[sample["doc_hash"]] for sample in samples]
    mean = fmean(changes)
    sums: dict[str, float] = defaultdict(float)
    for sample, change in zip(samples, changes, strict=True):
        # A needle document is its own cluster.
        sums[sample["doc"].get("passage_id", sample["doc_hash"])] += change - mean
    spread = sum(total**2 for total in sums.values()) * len(sums) / max(len(sums) - 1, 1)
    return Difference(mean, math.sqrt(spread) / len(changes))


def _verdict(cost: Difference) -> str:
    if not cost.clear:
        return "The chat template makes no clear difference to nano-chat's context score"
    verb = "lowers" if cost.mean < 0 else "raises"
    return f"The chat template {verb} nano-chat's context score"


def _setting(arm: Arm) -> str:
    return f"α {arm.alpha} {arm.schedule}"


def _price(row: Row, other: Row) -> Difference:
    return difference(row, other, [BY_HEART])


def _reported(row: Row, task: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.results["results"][task]
    return found


def _count(row: Row, column: str) -> int:
    task = row.task(column)
    assert task is not None
    return int(row.results["n-samples"][task]["effective"])


def _cell(row: Row, column: str, digits: int = 3) -> str:
    task = row.task(column)
    if task is None:
        return "-"
    reported = _reported(row, task)
    return f"{reported['score,none']:.{digits}f} ± {reported['score_stderr,none']:.{digits}f}"
