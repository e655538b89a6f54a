"""`ctx-eval rescore`: new scores from saved samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[list[Path], typer.Argument(help="Results files, or folders of them.")],
) -> None:
    """Score saved samples again, without a model.

    After a change of a metric or a filter.

    \b
    Example:
      ctx-eval rescore results/
    """
    from ctx_models.logs import recorded
    from ctx_models.rescore import rescore
    from ctx_tasks.results import read_runs

    for run in read_runs(results):
        typer.echo(f"{run.checkpoint}, {run.arm.name}")
        warnings: dict[str, None] = {}
        with recorded(None, warnings.setdefault):
            found = rescore(run)
        for warning in warnings:
            typer.echo(f"  {warning}", err=True)
        for one in found:
            change = f"{one.before:.3f} -> {one.after:.3f}"
            typer.echo(f"  {one.task}: {one.metric} {change} (n = {one.n})")
        typer.echo(f"  wrote {found[0].path}")
