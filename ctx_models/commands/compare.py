"""`ctx-eval compare`: two runs on the same documents."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctx_models.commands import choice
from ctx_models.commands.output import put
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ctx_tasks.comparison import Flip, TaskComparison
    from ctx_tasks.results import Run
    from ctx_tasks.tables import Labelled

_LONGEST = 300


class Format(str, Enum):
    """How a comparison is shown."""

    terminal = "terminal"
    csv = "csv"
    json = "json"


def command(
    a: Annotated[Path, typer.Argument(help="Results file or folder of the first run.")],
    b: Annotated[Path, typer.Argument(help="The same of the second.")],
    flips: Annotated[
        int, typer.Option(help="Show so many flipped documents of each task; -1 for all.")
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Compare in spite of different settings, marked.")
    ] = False,
    metric: choice.Metric = None,
    filter: choice.Filter = None,
    format: Annotated[Format, typer.Option("--format", help="Numbers unrounded.")] = (
        Format.terminal
    ),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; of csv and json.")
    ] = None,
) -> None:
    """Compare two runs document by document.

    Paired differences (B minus A), intervals, flipped documents.

    \b
    Examples:
      ctx-eval compare results/chat results/steered --flips 3
      ctx-eval compare results/chat results/steered --format json -o steered.json
    """
    from ctx_tasks import comparison
    from ctx_tasks.results import read_runs

    if format is Format.terminal and output is not None:
        raise UserError(f"--output {output} is of --format csv and json; name one of them.")
    if format is not Format.terminal and flips:
        raise UserError(f"--flips {flips} is of the terminal; leave --format {format.value} out.")
    asked = choice.read(metric, filter)
    first, second = (comparison.one_run(read_runs([path], asked), str(path)) for path in (a, b))
    second = comparison.aligned(first, second)
    found = comparison.compare(first, second, force=force)
    if format is Format.json:
        put(comparison.as_json(first, second, found), output)
    elif format is Format.csv:
        put(comparison.comma_separated(found), output)
    else:
        _print(first, second, found, flips)


def _print(first: Run, second: Run, found: list[TaskComparison], flips: int) -> None:
    from itertools import islice

    from ctx_tasks import comparison, settings, tables

    console = tables.terminal()
    for letter, run in (("A", first), ("B", second)):
        tables.say(f"{letter}: {run.checkpoint}, {run.arm.name}", console)
    differing = first.arm.differences(second.arm)
    if differing:
        tables.say(f"What is compared (A, B): {'; '.join(differing)}.", console)
    executed = (settings.executed(run.config) for run in (first, second))
    apart = settings.executed_apart(*executed)
    if apart:
        tables.say(apart, console)
    _show(found, console)
    for note in comparison.notes(first, second, found):
        tables.say(note, console)
    for task in [one.task for one in found] if flips else ():
        for flip in islice(comparison.flips(first, second, task), None if flips < 0 else flips):
            _show_flip(flip, console)


def _show(found: list[TaskComparison], console: Console) -> None:
    from ctx_tasks import tables

    heads = ("n / clusters", "A", "B", "B - A, 95 %", "up", "down", "p (Holm)")
    rows = [_row(one) for one in found]
    table = tables.Table(tables.Head("task"), [tables.Head(text) for text in heads], rows)
    tables.show(table, console)
    for one in found:
        if one.cut:
            tables.say(
                f"{one.task}: the two runs cut the prompts of different documents; compared are "
                f"the {one.difference.n} that neither cut, {one.cut} are left out.",
                console,
            )
    if any(one.mark for one in found):
        tables.say("!: not comparable, the settings named differ.", console)


def _row(one: TaskComparison) -> Labelled:
    from ctx_tasks.tables import Labelled, Value, change, number

    d = one.difference
    values = [
        Value(f"{d.n} / {d.clusters}"),
        Value(number(one.before)),
        Value(number(one.after)),
        change(d.mean, d.low, d.high),
        Value(str(one.gained)),
        Value(str(one.lost)),
        Value(f"{one.p:.3g}"),
    ]
    return Labelled(f"{one.task} ! {one.mark}" if one.mark else one.task, values)


def _show_flip(flip: Flip, console: Console) -> None:
    from ctx_tasks.tables import number, say

    lines = [
        f"{flip.task}  {number(flip.before, 2)} -> {number(flip.after, 2)}  {flip.doc_hash[:12]}",
        f"  question: {_short(flip.question)}",
        f"  expected: {_short(flip.target)}",
        f"  A: {_short(flip.output_before)}",
        f"  B: {_short(flip.output_after)}",
    ]
    for line in lines:
        say(line, console)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
