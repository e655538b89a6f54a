"""`ctx-eval leaderboard --format html`: one page that explains itself, alone in its file.

Table, template tax, alpha curves, needle heatmaps and single documents, without any network. The
table and figures are written by a template that escapes every text; documents are data, which the
page's script shows as text only. A content security policy names the hashes of that script and that
style: whatever a model or a data set says, no browser runs it.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ctx_tasks.columns import is_needle
from ctx_tasks.files import write_text
from ctx_tasks.leaderboard.board import Board, Row
from ctx_tasks.leaderboard.changes import Kind, kinds
from ctx_tasks.leaderboard.curves import curves, samples_reader
from ctx_tasks.plots import needle_cells
from ctx_tasks.report import documents as report_documents
from ctx_tasks.report import figures as report_figures
from ctx_tasks.report.figures import Changed, Heatmap
from ctx_tasks.results import read_documents
from ctx_tasks.statistics import Difference
from ctx_tasks.tables import number, sizes

PARTS = Path(__file__).parent / "template"


def write(board: Board, path: Path) -> None:
    """Write a leaderboard as one HTML file, whole or not at all.

    Raises:
        UserError: the file cannot be written, or a sample file cannot be read.
    """
    write_text(path, page(board))


def page(board: Board) -> str:
    """The page's HTML; equal results give equal pages."""
    read = samples_reader()
    style, script = (_part(name) for name in ("page.css", "page.js"))
    shown = kinds(board)
    taxes = _changed(board, [kind for kind in shown if kind.field != "gain"])
    gains = _changed(board, [kind for kind in shown if kind.field == "gain"])
    documents = report_documents.collect(board.rows, _with_samples(board), read)
    data = {
        "rows": [
            {"checkpoint": row.checkpoint, "arm": row.arm.name, "begun": row.arm.prefix}
            for row in board.rows
        ],
        **documents,
    }
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            board=board,
            kinds=shown,
            marked=any(cell.mark for row in board.rows for cell in row.cells.values()),
            taxes=report_figures.bars(taxes),
            gains=report_figures.bars(gains),
            usual=report_figures.usual({**taxes, **gains}),
            curves=report_figures.curve_figures(curves(board.rows, read)),
            heatmaps=_heatmaps(board.rows),
            layout=report_figures,
            version=version("lm-eval-ctx"),
            newest=_day(max(run.date for row in board.rows for run in row.runs)),
            style=Markup(style),
            script=Markup(script),
            # Our own escaping: what HTML escapes would do to it, a script element does not undo.
            data=Markup(report_documents.escaped(data)),
            style_hash=_hash(style),
            script_hash=_hash(script),
            documents=any(group["documents"] for group in documents["groups"]),
        )
    )


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(number=_number, signed=_signed, day=_day, known=_known, size=_size)
    return found


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(value: float) -> str:
    """Three decimals, or a dash for what is not known."""
    return "–" if math.isnan(value) else number(value).replace("-", "−")


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else number(value, signed=True).replace("-", "−")


def _known(value: float) -> bool:
    return not math.isnan(value)


def _size(found: Difference) -> str:
    return sizes([(found.n, found.clusters)])


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")


def _changed(board: Board, shown: Sequence[Kind]) -> dict[str, list[Changed]]:
    """The changes of the context tasks by the name of their kind."""
    changed = {
        f"{kind.name} {kind.under}": [
            (row.checkpoint, row.arm.name, change)
            for row in board.rows
            for change in [kind.own(row)]
            if change is not None
        ]
        for kind in shown
    }
    return {name: found for name, found in changed.items() if found}


def _with_samples(board: Board) -> list[str]:
    """Columns that stand for a task with saved answers."""
    return [
        column
        for column in board.columns
        if any(row.results[column].samples_file for row in board.rows if column in row.results)
    ]


def _heatmaps(rows: Sequence[Row]) -> list[Heatmap]:
    found = []
    for row in rows:
        for column, result in row.results.items():
            if is_needle(result.task) and result.samples_file is not None:
                cells = needle_cells(read_documents(result))
                if cells:
                    figure = report_figures.heatmap(row.checkpoint, row.arm.name, column, cells)
                    found.append(figure)
    return found
