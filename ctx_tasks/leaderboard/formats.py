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
from ctx_tasks.leaderboard.board import Board, Cell, Change, Row
from ctx_tasks.tables import Head, Labelled, Table, Value, plain_text, with_error, with_interval

_FIRST = Head("checkpoint, how it is run")
KEY = "Bold: best of its column; ~: tied with it (95 %); [..]: 95 % interval, paired."


def show(board: Board, console: Console | None = None) -> None:
    """Print the scores, then what template and remedies change, then the notes."""
    console = console or tables.terminal()
    tables.show(table(board), console)
    if any(row.tax or row.gain for row in board.rows):
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
    heads = [_head(column) for column in board.columns]
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
    """Template tax and gains with their intervals, and over which tasks."""
    heads = [
        Head("template tax", ("(raw minus chat)",)),
        Head("gain", ("(over chat)",)),
        Head("mean of", words=True),
    ]
    entries = [
        Labelled(
            row.arm.name,
            [_interval(row.tax), _interval(row.gain), Value(_over(change))],
            group=row.checkpoint,
        )
        for row in board.rows
        if (change := row.tax or row.gain)
    ]
    return Table(_FIRST, heads, entries)


def _head(column: str) -> Head:
    """The kind of a benchmark, "(nano)", stands under it."""
    name, *kind = column.split(" (")
    return Head(name, tuple(f"({part}" for part in kind))


def _value(cell: Cell | None) -> Value:
    """ "0.93 ±.03~" """
    if cell is None:
        return Value("-")
    flags = ("~" if cell.tied else "") + ("!" if cell.mark else "")
    return tables.score(cell.value, cell.error, flags=flags, style="bold" if cell.best else "")


def markdown(board: Board) -> str:
    """A table for a README or a pull request."""
    columns = [escape(column) for column in board.columns]
    heads = ["checkpoint", "how it is run", *columns, *_changes(board)]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for row in board.rows:
        cells = [_markdown_cell(row.cells.get(column)) for column in board.columns]
        changes = [_change(row, kind) for kind in _changes(board)]
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
            "cells": {name: dataclasses.asdict(cell) for name, cell in row.cells.items()},
            "tax": row.tax and dataclasses.asdict(row.tax),
            "gain": row.gain and dataclasses.asdict(row.gain),
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


def _changes(board: Board) -> list[str]:
    """The columns of changes that any row has."""
    found = [("template tax", "tax"), ("gain over chat", "gain")]
    return [name for name, kind in found if any(getattr(row, kind) for row in board.rows)]


def _interval(change: Change | None) -> Value:
    if change is None:
        return Value("")
    found = change.difference
    return tables.change(found.mean, found.low, found.high)


def _over(change: Change) -> str:
    """ "4 tasks", or the one: a gain in one task is no gain of the average."""
    return change.columns[0] if len(change.columns) == 1 else f"{len(change.columns)} tasks"


def _change(row: Row, name: str) -> str:
    change = row.tax if name == "template tax" else row.gain
    if change is None:
        return ""
    found = change.difference
    return f"{with_interval(found.mean, found.low, found.high)}, {escape(_over(change))}"


def score(cell: Cell | None) -> str:
    """Value ± standard error, three digits; "-" where there is no score."""
    if cell is None or math.isnan(cell.value):
        return "-"
    shown = with_error(cell.value, cell.error)
    return f"{shown}{' ~' if cell.tied else ''}{' !' if cell.mark else ''}"


def _markdown_cell(cell: Cell | None) -> str:
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
        for part in ("value", "error", "n", "best", "tied"):
            flat[f"{name} {part}"] = "" if cell is None else getattr(cell, part)
        flat[f"{name} mark"] = "" if cell is None else plain_text(cell.mark)
    for kind in ("tax", "gain"):
        change: Change | None = getattr(row, kind)
        for part in ("mean", "error", "low", "high"):
            flat[f"{kind} {part}"] = "" if change is None else getattr(change.difference, part)
    return flat


def finite(value: Any) -> Any:
    """NaN as None, which JSON knows."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value
