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
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ctx_models.demo.families import Family, Setup
from ctx_models.demo.run import Outcome
from ctx_tasks import columns, tables
from ctx_tasks.files import write_text
from ctx_tasks.results import Samples, samples_of
from ctx_tasks.statistics import (
    Difference,
    Estimate,
    estimate_samples,
    mean_difference,
    paired_difference,
)
from ctx_tasks.tables import Head, Labelled, Table, score, sizes, with_error


def tell(family: Family, rows: Sequence[Outcome], output: Path) -> None:
    """Show the table and the sentence, and write both to `table.md`."""
    said = sentence(family, rows)
    write_text(output / "table.md", f"{markdown(family, rows)}\n{said}\n")
    console = tables.terminal()
    tables.show(table(family, rows), console)
    tables.say(said, console)
    tables.say(f"Results, heatmaps and commands: {output}", console)


def table(family: Family, rows: Sequence[Outcome]) -> Table:
    """Scores ± standard errors over clusters, n in the heads, in 80 characters."""
    tasks = family.columns
    heads = [Head(name, (_sizes(rows, task),)) for name, task in tasks.items()]
    entries = [
        Labelled(
            row.setup.arm.name,
            [score(*_score(row, task)) for task in tasks.values()],
            group=row.setup.checkpoint,
        )
        for row in rows
    ]
    return Table(Head("model, how it is run"), heads, entries, family.title)


def markdown(family: Family, rows: Sequence[Outcome]) -> str:
    """The table as Markdown."""
    tasks = family.columns
    heads = [f"{name} ({_sizes(rows, task)})" for name, task in tasks.items()]
    lines = [["model", "how it is run", *heads], ["---"] * 2 + ["---:"] * len(heads)]
    for row in rows:
        cells = [with_error(*_score(row, task)) for task in tasks.values()]
        lines.append([row.setup.checkpoint, row.setup.arm.name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sentence(family: Family, rows: Sequence[Outcome]) -> str:
    """One sentence on what the chat template costs and what the remedies win back, as measured."""
    found = _Comparison(family, {row.setup: row for row in rows})
    raw, chat = family.raw.begun, family.chat.begun
    cost = found.difference(chat, raw)
    remedies = [
        f"a sentence changes it by {_both(found.gains(family.told, family.chat))}",
        found.steering(),
        *found.marking(),
    ]
    return (
        f"{_verdict(cost, family.chat.checkpoint)}, the answer begun ({found.score(raw):.3f} "
        f"without, {found.score(chat):.3f} with it: {_shown(cost)}); over chat, begun and unbegun, "
        f"{', '.join(remedies[:-1])}, and {remedies[-1]}."
    )


@dataclass(frozen=True)
class _Comparison:
    """The outcomes of a family, compared."""

    family: Family
    rows: Mapping[Setup, Outcome]

    def score(self, setup: Setup) -> float:
        return context_score(self.family, self.rows[setup])

    def difference(self, setup: Setup, other: Setup) -> Difference:
        tasks = list(self.family.context_tasks.values())
        return difference(self.rows[setup], self.rows[other], tasks)

    def gains(self, remedy: Setup, over: Setup) -> tuple[Difference, Difference]:
        """What a remedy changes with the answer begun, and without."""
        return self.difference(remedy.begun, over.begun), self.difference(remedy, over)

    def price(self, remedy: Setup, over: Setup) -> str:
        """What it changes where no document is; empty where that was not asked."""
        if not self.family.by_heart:
            return ""
        task = columns.BY_HEART.named(self.family.kind)
        found = difference(self.rows[remedy], self.rows[over], [task])
        return f"{columns.BY_HEART.heading}: {_shown(found)}"

    def steering(self) -> str:
        family = self.family
        gains = {one: self.gains(one, family.chat) for one in family.steered}
        best = max(gains, key=lambda one: gains[one][0].mean)
        notes = [f"{_setting(best)} of {len(gains)} settings", self.price(best, family.chat)]
        said = "; ".join(note for note in notes if note)
        return f"steering by {_both(gains[best])} at best ({said})"

    def marking(self) -> list[str]:
        if self.family.marked is None:
            return []
        marked, plain = self.family.marked
        begun, unbegun = self.score(plain.begun), self.score(plain)
        price = self.price(marked, plain)
        return [
            f"{marked.arm.indicator} {marked.checkpoint}'s {begun:.3f} and {unbegun:.3f} by "
            f"{_both(self.gains(marked, plain))}{f' ({price})' if price else ''}"
        ]


def context_score(family: Family, row: Outcome) -> float:
    """Mean of the four context tasks, each counting once."""
    reported = (_reported(row, _task(row, task)) for task in family.context_tasks.values())
    return fmean(one["score,none"] for one in reported)


def difference(row: Outcome, other: Outcome, tasks: Sequence[str]) -> Difference:
    """Mean over tasks of how much more `row` scores than `other` on the same documents."""
    return mean_difference([_paired(row, other, task) for task in tasks])


def _paired(row: Outcome, other: Outcome, plain: str) -> Difference:
    task = _task(row, plain)
    # A begun answer is compared with a begun one alone.
    assert task == other.task(plain)
    before, after = (_samples(one, task) for one in (other, row))
    assert set(before.doc_hashes) == set(after.doc_hashes)
    return paired_difference(before, after, "score")


def _both(gains: tuple[Difference, Difference]) -> str:
    return " and ".join(map(_shown, gains))


def _shown(found: Difference) -> str:
    shown = with_error(found.mean, found.error, signed=True)
    return shown + ("" if found.clear else " [unclear]")


def _verdict(cost: Difference, checkpoint: str) -> str:
    if not cost.clear:
        return f"The chat template makes no clear difference to {checkpoint}'s context score"
    verb = "lowers" if cost.mean < 0 else "raises"
    return f"The chat template {verb} {checkpoint}'s context score"


def _setting(setup: Setup) -> str:
    return f"α {setup.arm.alpha:g} {setup.arm.setting}"


def _task(row: Outcome, plain: str) -> str:
    task = row.task(plain)
    assert task is not None
    return task


def _reported(row: Outcome, task: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.results["results"][task]
    return found


def _sizes(rows: Sequence[Outcome], plain: str) -> str:
    found = [_estimate(row, plain) for row in rows]
    return sizes((one.n, one.clusters) for one in found if one is not None)


def _score(row: Outcome, plain: str) -> tuple[float, float]:
    """Score and standard error; NaN where the arm has no such task."""
    found = _estimate(row, plain)
    return (math.nan, math.nan) if found is None else (found.mean, found.error)


def _estimate(row: Outcome, plain: str) -> Estimate | None:
    task = row.task(plain)
    return None if task is None else estimate_samples(_samples(row, task), "score")


def _samples(row: Outcome, task: str) -> Samples:
    return samples_of(row.samples[task], "score")
