"""The leaderboard for a terminal, as Markdown, CSV and JSON.

Names of models and tasks come from files: none of them is taken for markup.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from typing import Any

from rich.console import Console

from ctx_tasks import tables
from ctx_tasks.leaderboard.board import Board, Change, Row, Score
from ctx_tasks.leaderboard.changes import kinds
from ctx_tasks.scores import BESIDE
from ctx_tasks.tables import Head, Labelled, Table, Value, plain_text, with_error, with_interval

_FIRST = Head("checkpoint, how it is run")
# Columns of a change in the CSV.
_PARTS = ("mean", "error", "low", "high", "n", "clusters")
KEY = (
    "Bold: best of its column; ~: tied with it (95 %); [..]: 95 % interval, paired; n = 40 in 8: "
    "40 documents in 8 independent clusters (passages, needles)."
)


def show(board: Board, console: Console | None = None) -> None:
    """Print the scores, then what template and remedies change, then the notes."""
    console = console or tables.terminal()
    tables.show(table(board), console)
    if kinds(board):
        tables.show(changes(board), console)
    for note in [KEY, *board.notes]:
        tables.say(note, console)


def plain(board: Board) -> str:
    """What `show` prints, as text."""
    file = io.StringIO()
    show(board, tables.piped(file))
    return file.getvalue()


def table(board: Board) -> Table:
    """Scores ± standard errors, two digits, the checkpoint above its arms."""
    heads = [_head(column, board.size(column)) for column in board.columns]
    entries = [
        Labelled(
            row.arm.name,
            [_value(row.cells.get(column)) for column in board.columns],
            group=row.checkpoint,
        )
        for row in board.rows
    ]
    return Table(_FIRST, heads, entries)


def changes(board: Board) -> Table:
    """Tax and gains with intervals, n and clusters, shares of empty answers, over which tasks."""
    found = kinds(board)
    heads = [*(Head(kind.name, (kind.under,)) for kind in found), Head("n")]
    heads.append(Head("empty", ("(before, after)",)))
    entries = [
        Labelled(
            row.arm.name,
            [
                *(_interval(change if kind is other else None) for other in found),
                Value(_size(change).removeprefix("n = ")),
                Value(_empty(change)),
                Value(_over(change)),
            ],
            group=row.checkpoint,
        )
        for row in board.rows
        for kind in found
        for change in kind.of(row)
    ]
    return Table(_FIRST, [*heads, Head("mean of", words=True)], entries)


def _head(column: str, size: str) -> Head:
    """The kind of a benchmark, "(nano)", stands under it, and how many documents it has."""
    name, *kind = column.split(" (")
    return Head(name, (*(f"({part}" for part in kind), *([size] if size else [])))


def _value(cell: Score | None) -> Value:
    """ "0.93 ±.03~" """
    if cell is None:
        return Value("-")
    flags = ("~" if cell.tied else "") + cell.signs
    flags += "!" if cell.mark else ""
    return tables.score(cell.value, cell.error, flags=flags, style="bold" if cell.best else "")


def markdown(board: Board) -> str:
    """A table for a README or a pull request."""
    columns = [
        " ".join([escape(column), *filter(None, [board.size(column)])]) for column in board.columns
    ]
    heads = ["checkpoint", "how it is run", *columns]
    heads += [f"{kind.name} {kind.under}" for kind in kinds(board)]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for row in board.rows:
        cells = [_markdown_cell(row.cells.get(column)) for column in board.columns]
        changes = ["; ".join(map(_change, kind.of(row))) for kind in kinds(board)]
        lines.append([escape(row.checkpoint), escape(row.arm.name), *cells, *changes])
    notes = "".join(f"\n{escape(note)}" for note in [KEY, *board.notes])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + notes + "\n"


def comma_separated(board: Board) -> str:
    """One line a row; value, error, n and flags of each column apart."""
    file = io.StringIO()
    rows = [_flat(row, board) for row in board.rows]
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_json(board: Board) -> str:
    """Everything the board holds, numbers unrounded, NaN as null."""
    rows = [
        {
            "checkpoint": row.checkpoint,
            "arm": {"name": row.arm.name, **row.arm.record()},
            "cells": {
                name: {**dataclasses.asdict(cell), "unanswered": cell.unanswered}
                for name, cell in row.cells.items()
            },
            "tax": row.tax and dataclasses.asdict(row.tax),
            "unbegun_tax": row.unbegun_tax and dataclasses.asdict(row.unbegun_tax),
            "gain": row.gain and dataclasses.asdict(row.gain),
            "others": {
                name: [dataclasses.asdict(change) for change in changes]
                for name, changes in row.others.items()
            },
            "files": sorted({str(run.path) for run in row.runs}),
        }
        for row in board.rows
    ]
    content = {"columns": board.columns, "rows": rows, "notes": board.notes}
    return json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n"


def escape(text: str) -> str:
    """Foreign text as plain text in a Markdown table."""
    marked = "".join("\\" + c if c in "\\`*_[]|#<>&!~" else c for c in plain_text(text))
    return " ".join(marked.split())


def _interval(change: Change | None) -> Value:
    if change is None:
        return Value("")
    found = change.difference
    return tables.change(found.mean, found.low, found.high)


def _over(change: Change) -> str:
    """ "4 tasks", or the one: a gain in one task is no gain of the average."""
    return change.columns[0] if len(change.columns) == 1 else f"{len(change.columns)} tasks"


def _change(change: Change) -> str:
    found = change.difference
    shown = with_interval(found.mean, found.low, found.high)
    empty = "" if math.isnan(sum(change.empty)) else f", empty {_empty(change)}"
    return f"{shown}, {_size(change)}{empty}, {escape(_over(change))}"


def _size(change: Change) -> str:
    return tables.sizes([(change.difference.n, change.difference.clusters)])


def _empty(change: Change) -> str:
    """Shares of empty answers before and after, chat before raw and before its remedy."""
    return "-" if math.isnan(sum(change.empty)) else "{:.2f}, {:.2f}".format(*change.empty)


def score(cell: Score | None) -> str:
    """Value ± standard error, three digits; "-" where there is no score."""
    if cell is None or math.isnan(cell.value):
        return "-"
    shown = with_error(cell.value, cell.error)
    flags = [*("~" if cell.tied else ""), *cell.signs, *("!" if cell.mark else "")]
    return shown + "".join(f" {sign}" for sign in flags)


def _markdown_cell(cell: Score | None) -> str:
    text = score(cell).replace("~", "\\~")
    mark = f" ({escape(cell.mark)})" if cell is not None and cell.mark else ""
    return f"**{text}**{mark}" if cell is not None and cell.best else text + mark


def _flat(row: Row, board: Board) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "checkpoint": plain_text(row.checkpoint),
        "arm": plain_text(row.arm.name),
    }
    for column in board.columns:
        cell, name = row.cells.get(column), plain_text(column)
        for part in ("value", "error", "n", *BESIDE, "unanswered", "best", "tied"):
            flat[f"{name} {part}"] = "" if cell is None else getattr(cell, part)
        estimate = None if cell is None else cell.estimate
        flat[f"{name} clusters"] = "" if estimate is None else estimate.clusters
        flat[f"{name} mark"] = "" if cell is None else plain_text(cell.mark)
    for kind in ("tax", "unbegun_tax", "gain"):
        change: Change | None = getattr(row, kind)
        for part in _PARTS:
            flat[f"{kind} {part}"] = "" if change is None else getattr(change.difference, part)
        empty = ("", "") if change is None else change.empty
        flat.update(zip((f"{kind} empty before", f"{kind} empty after"), empty, strict=True))
        flat.update(_flat_others(row, board, kind))
    return flat


def _flat_others(row: Row, board: Board, kind: str) -> dict[str, Any]:
    """The changes of tasks that are not ours, under the same names in every row."""
    changed = {one.columns[0] for other in board.rows for one in other.others[kind]}
    own = {one.columns[0]: one.difference for one in row.others[kind]}
    return {
        f"{plain_text(column)} {kind} {part}": getattr(own.get(column), part, "")
        for column in board.columns
        if column in changed
        for part in _PARTS
    }


def finite(value: Any) -> Any:
    """NaN as None, which JSON knows."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value
