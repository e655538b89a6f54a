"""`ctx-eval ls`: our tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from ctx_tasks.catalogue import tasks


def command(
    paths: Annotated[bool, typer.Option(help="Also print each task's YAML file.")] = False,
) -> None:
    """List our tasks, one line each.

    `lm_eval ls tasks` lists the harness's too.

    \b
    Example:
      ctx-eval ls --paths
    """
    found = tasks()
    width = max(len(task.name) for task in found)
    for task in found:
        typer.echo(f"{task.name:<{width}}  {task.summary}" + (f"  [{task.path}]" if paths else ""))
