"""`ctx-eval export`: results in the formats of other people's tools."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ctx_models.commands import choice


class Format(str, Enum):
    """What results are written as."""

    every_eval_ever = "every-eval-ever"
    hub = "hub"


class Relationship(str, Enum):
    """Who evaluates, to who made the model."""

    first_party = "first_party"
    third_party = "third_party"
    collaborative = "collaborative"
    other = "other"


def command(
    results: Annotated[
        list[Path], typer.Argument(help="Folders lm_eval wrote to (--log_samples), or files.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new, or empty.")],
    format: Annotated[
        Format,
        typer.Option("--format", help="A log a cell; or YAML for the hub's model cards."),
    ] = Format.every_eval_ever,
    model_id: Annotated[
        list[str] | None,
        typer.Option(
            "--model-id", help="CHECKPOINT=OWNER/NAME, of one loaded from a folder; repeatable."
        ),
    ] = None,
    organization: Annotated[
        str, typer.Option("--organization", help="Who ran the evaluation.")
    ] = "unknown",
    relationship: Annotated[
        Relationship, typer.Option("--relationship", help="Theirs to who made the model.")
    ] = Relationship.other,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark", help="hub: TASK=OWNER/DATASET:TASK_ID, the hub's own; repeatable."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="hub: link to what shows the evaluation.")
    ] = None,
    metric: choice.Metric = None,
    filter: choice.Filter = None,
) -> None:
    """Write results for other tools: Every Eval Ever, or the hub.

    \b
    Examples:
      ctx-eval export results/ -o out --organization "My lab"
      ctx-eval export results/ -o out --format hub --benchmark my_gpqa=Idavidrein/gpqa:gpqa_diamond
    """
    from ctx_tasks.exchange import every_eval_ever, hub_results
    from ctx_tasks.exchange.cells import by_name, cells
    from ctx_tasks.results import read_runs

    names = by_name(model_id or (), "--model-id", "my-model=me/my-model")
    tasks = by_name(benchmark or (), "--benchmark", "my_gpqa=Idavidrein/gpqa:gpqa_diamond")
    named = hub_results.benchmarks(tasks)
    found = list(cells(read_runs(results, choice.read(metric, filter)), names))
    if format is Format.hub:
        written, left = hub_results.write(found, output, named, source)
        typer.echo(f"Wrote {len(written)} files below {output}")
        if left:
            typer.echo(f"Left out, of no data set of the hub (--benchmark): {', '.join(left)}")
        return
    publisher = every_eval_ever.Publisher(organization, relationship.value)
    logs = every_eval_ever.write(found, output, publisher)
    typer.echo(f"Wrote {len(logs)} logs below {output}")
