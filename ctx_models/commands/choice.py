"""`--metric` and `--filter`, the same in every command that reads results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ctx_tasks.scores import Choice

Metric = Annotated[
    list[str] | None,
    typer.Option("--metric", help="TASK=NAME, or NAME for all that have it; may be repeated."),
]
Filter = Annotated[
    list[str] | None,
    typer.Option("--filter", help="The same for the harness's filters, as of gsm8k."),
]


def read(metric: list[str] | None, filter: list[str] | None) -> Choice:
    """What was asked for.

    Raises:
        UserError: an option that names nothing.
    """
    from ctx_tasks.scores import Choice

    return Choice.read(metric, filter)
