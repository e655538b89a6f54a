"""The leaderboard for a terminal, as Markdown, CSV and JSON.

Names of models and tasks come from files: none of them is taken for markup.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctx_tasks.leaderboard.board import Board, Cell, Change, Row

KEY = "Bold: best of its column; ~: tied with it (95 %); [..]: 95 % interval, paired."


def show(board: Board, console: Console | None = None) -> None:
    """Print the scores, then what template and remedies change, then the notes."""
    console = console or Console()
    console.print(table(board))
    if any(row.tax or row.gain for row in board.rows):
        console.print(changes(board))
    for note in [KEY, *board.notes]:
        console.print(note, markup=False, highlight=False)


def plain(board: Board) -> str:
    """What `show` prints, as text."""
    file = io.StringIO()
    show(board, Console(file=file, width=250))
    return file.getvalue()


def table(board: Board) -> Table:
    """Scores ± standard errors, two digits, the checkpoint above its arms."""
    shown = _table()
    for column in board.columns:
        head = Text(column.replace(" (", "\n("))
        shown.add_column(head, justify="right", no_wrap=True)
    for checkpoint, rows in groupby(board.rows, key=lambda row: row.checkpoint):
        shown.add_row(Text(checkpoint, style="bold"))
        for row in rows:
            cells = [_short(row.cells.get(column)) for column in board.columns]
            shown.add_row(Text(f" {row.arm.name}"), *cells)
    return shown


def changes(board: Board) -> Table:
    """Template tax and gains with their intervals, and over which tasks."""
    shown = _table()
    shown.add_column("template tax\n(raw minus chat)", justify="right", no_wrap=True)
    shown.add_column("gain\n(over chat)", justify="right", no_wrap=True)
    shown.add_column("mean of")
    for checkpoint, rows in groupby(board.rows, key=lambda row: row.checkpoint):
        changed = [row for row in rows if row.tax or row.gain]
        if changed:
            shown.add_row(Text(checkpoint, style="bold"))
        for row in changed:
            change = row.tax or row.gain
            assert change is not None
            cells = [Text(_interval(row.tax)), Text(_interval(row.gain))]
            shown.add_row(Text(f" {row.arm.name}"), *cells, Text(_over(change)))
    return shown


def _table() -> Table:
    shown = Table(box=SIMPLE_HEAD)
    shown.padding = (0, 1, 0, 0)
    shown.add_column("checkpoint, how it is run")
    return shown


def _short(cell: Cell | None) -> Text:
    """ "0.93 ±.03 ~" """
    if cell is None or math.isnan(cell.value):
        return Text("-")
    error = "" if math.isnan(cell.error) else f" ±{cell.error:.2f}".replace("±0.", "±.")
    flags = ("~" if cell.tied else "") + ("!" if cell.mark else "")
    return Text(f"{cell.value:.2f}{error}{flags:<1}", style="bold" if cell.best else "")


def markdown(board: Board) -> str:
    """A table for a README or a pull request."""
    heads = ["checkpoint", "how it is run", *board.columns, *_changes(board)]
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
    return json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n"


def escape(text: str) -> str:
    """Foreign text as plain text in a Markdown table."""
    marked = "".join("\\" + c if c in "\\`*_[]|#<>&!~" else c for c in text)
    return " ".join(marked.split())


def _changes(board: Board) -> list[str]:
    """The columns of changes that any row has."""
    found = [("template tax", "tax"), ("gain over chat", "gain")]
    return [name for name, kind in found if any(getattr(row, kind) for row in board.rows)]


def _interval(change: Change | None) -> str:
    if change is None:
        return ""
    found = change.difference
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _over(change: Change) -> str:
    """ "4 tasks", or the one: a gain in one task is no gain of the average."""
    return change.columns[0] if len(change.columns) == 1 else f"{len(change.columns)} tasks"


def _change(row: Row, name: str) -> str:
    change = row.tax if name == "template tax" else row.gain
    return "" if change is None else f"{_interval(change)}, {_over(change)}"


def score(cell: Cell | None) -> str:
    """Value ± standard error, three digits; "-" where there is no score."""
    if cell is None or math.isnan(cell.value):
        return "-"
    error = "" if math.isnan(cell.error) else f" ± {cell.error:.3f}"
    return f"{cell.value:.3f}{error}{' ~' if cell.tied else ''}{' !' if cell.mark else ''}"


def _markdown_cell(cell: Cell | None) -> str:
    text = score(cell).replace("~", "\\~")
    mark = f" ({escape(cell.mark)})" if cell is not None and cell.mark else ""
    return f"**{text}**{mark}" if cell is not None and cell.best else text + mark


def _flat(row: Row, board: Board) -> dict[str, Any]:
    flat: dict[str, Any] = {"checkpoint": row.checkpoint, "arm": row.arm.name}
    for column in board.columns:
        cell = row.cells.get(column)
        for part in ("value", "error", "n", "best", "tied", "mark"):
            flat[f"{column} {part}"] = "" if cell is None else getattr(cell, part)
    for kind in ("tax", "gain"):
        change: Change | None = getattr(row, kind)
        for part in ("mean", "error", "low", "high"):
            flat[f"{kind} {part}"] = "" if change is None else getattr(change.difference, part)
    return flat


def _finite(value: Any) -> Any:
    """NaN as None, which JSON knows."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
