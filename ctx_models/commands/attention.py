"""`ctx-eval attention`: what the chat template does to the attention on the user's text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctx_models.commands.output import put
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable

if TYPE_CHECKING:
    from ctx_models.allocation.shares import Allocation, Line
    from ctx_tasks.tables import Table, Value


class HeadBy(str, Enum):
    """Whose mean user share chooses the head that is shown."""

    both = "both"
    raw = "raw"
    chat = "chat"


def command(
    model_args: Annotated[
        list[str] | None,
        typer.Option("--model_args", help="As for hf-ctx; repeat it for another model."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("attention"),
    max_length: Annotated[
        int | None,
        typer.Option(help="Tokens of the longest document."),
    ] = None,
    lengths: Annotated[int, typer.Option(help="Document lengths of the grid.")] = 20,
    depths: Annotated[int, typer.Option(help="Needle depths of the grid.")] = 20,
    haystack: Annotated[
        str, typer.Option(help="builtin, essays, nano (with its own needles), or a path.")
    ] = "builtin",
    needles: Annotated[str, typer.Option(help="paper, several, or a YAML file.")] = "paper",
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Also layers.csv, means over heads.")
    ] = False,
    per_head: Annotated[bool, typer.Option("--per-head", help="Also heads.csv.")] = False,
    by_head: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also rank the heads by attention on the needle, and write the so many "
            "strongest to heads.json, for hf-ctx heads=.",
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Take the head from this layer (from 0) alone.")
    ] = None,
    head_by: Annotated[
        HeadBy, typer.Option("--head-by", help="Whose user share chooses the head.")
    ] = HeadBy.both,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
) -> None:
    """Show where attention goes, raw and in the chat template.

    Figures 3 and 4 of the paper.

    A killed run goes on where it was when the same command is given again.

    \b
    Examples:
      ctx-eval attention --model_args pretrained=M --max-length 4000
      ctx-eval attention --model_args pretrained=M --model_args pretrained=M,alpha=0.9
      ctx-eval attention --model_args pretrained=M --by-head 8
      ctx-eval attention --model_args pretrained=M --layer 15 --head-by raw   # the later version
    """
    from ctx_models.allocation import run as allocation_run
    from ctx_models.allocation import shares as allocation
    from ctx_models.allocation.figure import draw

    names = model_args or [""]
    if by_head is not None and len(names) > 1:
        raise UserError("--by-head ranks the heads of one model: give one --model_args.")
    require_writable(output / "attention.json")
    grid: dict[str, Any] = {"lengths": lengths, "depths": depths}
    grid.update(haystack=haystack, needles=needles)
    if max_length is not None:
        grid["max_length"] = max_length
    jobs = allocation_run.plan(names, grid, device)
    allocation_run.require_layer(jobs, layer)
    results = allocation_run.run(jobs, output / ".measured", by_head=by_head is not None)
    by = None if head_by is HeadBy.both else head_by.value
    measured = [dataclasses.replace(one, layer=layer, head_by=by) for one, _ in results]
    found = [line for one in measured for line in allocation.lines(one)]
    if by_head is not None:
        [(_, ranking)] = results
        put(allocation.heads_json(ranking, by_head), output / "heads.json")
        _table([dataclasses.asdict(rank) for rank in ranking], output / "needle_heads.csv")
    _write(found, measured, output)
    if per_layer:
        _table(
            [row for one in measured for row in allocation.per_layer(one)], output / "layers.csv"
        )
    if per_head:
        _table([row for one in measured for row in allocation.per_head(one)], output / "heads.csv")
    draw(found, output / "attention.png")
    draw(found, output / "attention.svg")
    _show(found, measured, output)


def _write(found: list[Line], measured: list[Allocation], output: Path) -> None:
    rows = [dataclasses.asdict(line) for line in found]
    models = [{"name": one.name, "head": one.head, "data": one.data} for one in measured]
    put(json.dumps({"models": models, "shares": rows}, indent=1) + "\n", output / "attention.json")
    _table(rows, output / "attention.csv")


def _table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows of the same columns as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    put(file.getvalue(), path)


def _show(found: list[Line], measured: list[Allocation], output: Path) -> None:
    """Every segment of one model, or the user's and the template's shares of several."""
    from ctx_models.allocation.shares import ABSOLUTE
    from ctx_tasks import tables

    console = tables.terminal()
    shares = {(x.name, x.condition, x.segment): x for x in found if x.share == ABSOLUTE}
    if len(measured) == 1:
        [one] = measured
        title = f"{one.name}: layer {one.head[0]}, head {one.head[1]}, {_prompts(one, shares)}"
        tables.say(title, console)
        tables.show(_segments(one, shares), console)
    else:
        tables.show(_models(measured, shares), console)
        prompts = dict.fromkeys(_prompts(one, shares) for one in measured)
        tables.say("; ".join(prompts), console)
    tables.say(f"Figures and numbers: {output}", console)


def _prompts(one: Allocation, shares: dict[tuple[str, str, str], Line]) -> str:
    return f"n = {shares[one.name, 'chat', 'user'].n} prompts, {one.data['source']}"


def _segments(one: Allocation, shares: dict[tuple[str, str, str], Line]) -> Table:
    from ctx_models.allocation.shares import CHANGE, CONDITIONS, SEGMENTS
    from ctx_tasks.tables import Head, Labelled, Table

    columns = (*CONDITIONS, CHANGE)
    rows = [
        Labelled(segment, [_value(shares[one.name, condition, segment]) for condition in columns])
        for segment in SEGMENTS
    ]
    return Table(Head("attention on"), [Head(column) for column in columns], rows)


def _models(measured: list[Allocation], shares: dict[tuple[str, str, str], Line]) -> Table:
    from ctx_models.allocation.shares import CHANGE
    from ctx_tasks.tables import Head, Labelled, Table, Value

    columns = {
        "user, raw": ("raw", "user"),
        "user, chat": ("chat", "user"),
        CHANGE: (CHANGE, "user"),
        "template": ("chat", "template"),
    }
    rows = []
    for one in measured:
        label = one.name.removeprefix("pretrained=").replace(",", ", ")
        values = [_value(shares[(one.name, *key)]) for key in columns.values()]
        rows.append(Labelled(label, [*values, Value(f"{one.head[0]}, {one.head[1]}")]))
    heads = [Head(column) for column in (*columns, "layer, head")]
    return Table(Head("attention on"), heads, rows)


def _value(line: Line) -> Value:
    from ctx_tasks.tables import score

    return score(line.mean, line.error, 3)
