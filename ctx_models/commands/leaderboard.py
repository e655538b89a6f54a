"""`ctx-eval leaderboard`: checkpoints and arms side by side."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ctx_models.commands import choice
from ctx_models.commands.output import put
from ctx_tasks.errors import UserError


class Format(str, Enum):
    """How a leaderboard is shown."""

    terminal = "terminal"
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"


def command(
    results: Annotated[
        list[Path], typer.Argument(help="Folders lm_eval wrote to (--log_samples), or files.")
    ],
    format: Annotated[Format, typer.Option("--format", help="html needs --output.")] = (
        Format.terminal
    ),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: the terminal.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Mark what cannot be compared, do not refuse it.")
    ] = False,
    metric: choice.Metric = None,
    filter: choice.Filter = None,
    unbegun_tax: Annotated[
        bool,
        typer.Option(
            "--unbegun-tax", help="Also raw minus chat of arms that begin their answers themselves."
        ),
    ] = False,
) -> None:
    """Compare checkpoints and arms: scores, template tax, gains.

    \b
    Examples:
      ctx-eval leaderboard results/
      ctx-eval leaderboard results/ --format html -o leaderboard.html
    """
    from ctx_tasks.leaderboard import formats
    from ctx_tasks.leaderboard.board import board
    from ctx_tasks.results import read_runs

    if format is Format.html and output is None:
        raise UserError("--format html is a page: name its file, such as --output report.html.")
    runs = read_runs(results, choice.read(metric, filter))
    made = board(runs, force=force, unbegun_tax=unbegun_tax)
    if format is Format.html:
        from ctx_tasks.report.page import write

        assert output is not None
        write(made, output)
    elif format is Format.terminal and output is None:
        formats.show(made)
    else:
        texts = {
            Format.terminal: formats.plain,
            Format.md: formats.markdown,
            Format.csv: formats.comma_separated,
            Format.json: formats.as_json,
        }
        put(texts[format](made), output)
    if output is not None:
        typer.echo(f"Wrote {output}")
