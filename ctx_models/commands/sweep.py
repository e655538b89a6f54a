"""`ctx-eval sweep`: checkpoints x arms x tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="YAML with checkpoints, arms and tasks.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; instead of the file's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells, run nothing.")
    ] = False,
) -> None:
    """Run every checkpoint in every arm.

    Killed or failed, the same command goes on. What happened in a cell is in its log.txt.

    \b
    Examples:
      ctx-eval sweep sweep.yaml --dry-run
      ctx-eval sweep sweep.yaml && ctx-eval leaderboard sweep/
      accelerate launch --num_processes 4 --no_python ctx-eval sweep sweep.yaml
    """
    from ctx_models.registry import check_model
    from ctx_models.sweep import plan as sweep_plan
    from ctx_models.sweep import run as sweep

    plan = sweep_plan.read(file, output)
    for one in plan.checkpoints:
        check_model(one.model, one.model_args.get("pretrained"))
    sweep.check(plan)
    if dry_run:
        _list(plan)
        return
    failed = sweep.run(plan)
    for name, error in failed.items():
        typer.echo(f"failed: {name}: {error}", err=True)
    typer.echo(f"Results: {plan.output} (ctx-eval leaderboard {plan.output})")
    raise typer.Exit(1 if failed else 0)


def _list(plan: object) -> None:
    from ctx_models.sweep import run as sweep
    from ctx_models.sweep.plan import Plan, cells

    assert isinstance(plan, Plan)
    records = [(cell, sweep.finished(cell)) for cell in cells(plan)]
    count: dict[tuple[str, ...], int] = {}
    left, done, seconds = 0, 0, 0.0
    for cell, record in records:
        tasks = (cell.checkpoint.name, *cell.tasks)
        if tasks not in count:
            count[tasks] = sweep.documents(cell)
        if record is None:
            left += count[tasks]
        else:
            done, seconds = done + count[tasks], seconds + record["seconds"]
        state = "to do" if record is None else f"finished in {record['seconds']:.0f} s"
        typer.echo(
            f"{sweep.title(cell)}: {', '.join(cell.tasks)}, {count[tasks]} documents ({state})"
        )
        typer.echo(f"  {cell.command}")
    todo = sum(record is None for _, record in records)
    time = (
        f"about {left * seconds / done / 60:.0f} min at the pace of the finished cells"
        if done
        else "how long a document takes is known once a cell is finished"
    )
    typer.echo(f"{len(records)} cells, {todo} to do, {left} documents; {time}.")
