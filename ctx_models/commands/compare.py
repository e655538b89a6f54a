"""`ctx-eval compare`: two runs on the same documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ctx_tasks.comparison import Flip, TaskComparison

_LONGEST = 300


def command(
    a: Annotated[Path, typer.Argument(help="Results file or folder of the first run.")],
    b: Annotated[Path, typer.Argument(help="The same of the second.")],
    flips: Annotated[
        int, typer.Option(help="Show so many flipped documents of each task; -1 for all.")
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Compare in spite of different settings, marked.")
    ] = False,
) -> None:
    """Compare two runs document by document.

    Paired differences (B minus A), intervals, flipped documents.

    \b
    Example:
      ctx-eval compare results/chat results/steered --flips 3
    """
    from itertools import islice

    from rich.console import Console

    from ctx_tasks import comparison
    from ctx_tasks.results import read_runs

    first, second = (comparison.one_run(read_runs([path]), str(path)) for path in (a, b))
    found = comparison.compare(first, second, force=force)
    console = Console()
    for letter, run in (("A", first), ("B", second)):
        console.print(f"{letter}: {run.checkpoint}, {run.arm.name}", markup=False, highlight=False)
    _show(found, console)
    for task in comparison.shared_tasks(first, second) if flips else ():
        for flip in islice(comparison.flips(first, second, task), None if flips < 0 else flips):
            _show_flip(flip, console)


def _show(found: list[TaskComparison], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    for head in ("n", "A", "B", "B - A", "95 %", "up", "down", "p (Holm)"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in found:
        d = one.difference
        interval = f"{d.low:+.3f} {d.high:+.3f}"
        counts = [str(one.gained), str(one.lost), f"{one.p:.3g}"]
        scores = [f"{one.before:.3f}", f"{one.after:.3f}", f"{d.mean:+.3f}"]
        name = f"{one.task} ! {one.mark}" if one.mark else one.task
        table.add_row(Text(name), str(d.n), *scores, interval, *counts)
    console.print(table)
    if any(one.mark for one in found):
        console.print("!: not comparable, the settings named differ.", markup=False)


def _show_flip(flip: Flip, console: Console) -> None:
    lines = [
        f"{flip.task}  {flip.before:.2f} -> {flip.after:.2f}  {flip.doc_hash[:12]}",
        f"  question: {_short(flip.question)}",
        f"  expected: {_short(flip.target)}",
        f"  A: {_short(flip.output_before)}",
        f"  B: {_short(flip.output_after)}",
    ]
    console.print("\n".join(lines), markup=False, highlight=False)


def _short(text: str) -> str:
    """One line of foreign text, without what could steer a terminal."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
