"""`ctx-eval gate --plan`: how many documents a gate needs, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctx_models.commands.output import put
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from ctx_tasks.scores import Choice


def show(
    baseline: Path,
    again: Path | None,
    margin: str,
    loss: float,
    flips: float,
    asked: Choice,
    json: Path | None,
) -> None:
    """Print the plan, and write it as JSON where asked for.

    Args:
        again: results of a second run that ought to score as the baseline does.

    Raises:
        UserError: a number that is no share, or as `ctx_tasks.gate.plan.plan`.
    """
    from tqdm import tqdm

    from ctx_tasks import tables
    from ctx_tasks.gate import baseline as baselines
    from ctx_tasks.gate import plan_formats
    from ctx_tasks.gate.decision import named
    from ctx_tasks.gate.margin import Margin
    from ctx_tasks.gate.plan import plan

    if not 0 < flips < 1:
        raise UserError(f"--flips {flips:g} must be a share of the documents, such as 0.05.")
    old = baselines.read(baseline, asked)
    new = [] if again is None else baselines.read(again, asked)
    planned = plan(old, new, Margin.read(margin), loss, flips)
    bar = tqdm(planned, total=len(old[0].tasks), desc="Simulating gates", unit="task", leave=False)
    found, console = list(bar), tables.terminal()
    tables.say(f"Gates against {named(old[0])}", console)
    for table in plan_formats.tables(found, loss):
        tables.show(table, console)
    for said in plan_formats.sentences(found):
        tables.say(said, console)
    if json is not None:
        put(plan_formats.as_json(found, loss), json)
        typer.echo(f"Wrote {json}")
