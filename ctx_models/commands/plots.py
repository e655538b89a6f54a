"""`ctx-eval plots`: the report's figures as PNG or SVG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctx_models.commands import choice
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from ctx_tasks.leaderboard.board import Board, Change, Row
    from ctx_tasks.statistics import Difference


class Format(str, Enum):
    """What a figure is written as."""

    png = "png"
    svg = "svg"


def command(
    results: Annotated[
        list[Path], typer.Argument(help="Folders lm_eval wrote to (--log_samples), or files.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures.")],
    format: Annotated[Format, typer.Option("--format", help="Kind of file.")] = Format.png,
    force: Annotated[
        bool,
        typer.Option("--force", help="Draw what can be, where settings differ."),
    ] = False,
    metric: choice.Metric = None,
    filter: choice.Filter = None,
) -> None:
    """Draw template tax, gains, alpha curves, needle heatmaps.

    Of a needle test also its recall over the length of the document.

    \b
    Example:
      ctx-eval plots results/ -o figures --format svg
    """
    from ctx_tasks.leaderboard.board import board
    from ctx_tasks.results import read_runs

    runs = read_runs(results, choice.read(metric, filter))
    for path in draw(board(runs, force=force), output, f".{format.value}"):
        typer.echo(f"Wrote {path}")


def draw(made: Board, folder: Path, suffix: str) -> list[Path]:
    """Write every figure a board has the data for; returns their files.

    Raises:
        UserError: no figure can be drawn, or the folder cannot be written.
    """
    names = _Names(folder, suffix)
    for name, write in _figures(made):
        write(names.new(name))
    if not names.taken:
        raise UserError(
            "These results have nothing to draw: needle tests, raw beside chat, or steered runs, "
            "with --log_samples."
        )
    return names.taken


def _figures(made: Board) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Name and writer of each figure."""
    from ctx_tasks import plots
    from ctx_tasks.leaderboard.curves import curves

    taxes = [(row.checkpoint, row.tax) for row in made.rows if row.tax]
    gains = [(_title(row), row.gain) for row in made.rows if row.gain]
    yield from _bars("template tax", "Template tax: raw minus chat", taxes)
    yield from _bars("gains", "Gain: remedy minus chat", gains)
    for curve in curves(made.rows):
        yield f"alpha {curve.checkpoint} {curve.setting}", partial(plots.alpha_curve, curve)
    for row in made.rows:
        yield from _heatmaps(row)
    yield from _recalls(made.rows)


def _bars(
    name: str, title: str, changes: Sequence[tuple[str, Change]]
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """A figure for each set of tasks: bars of other tasks are no comparison."""
    from ctx_tasks import plots

    by_tasks: dict[tuple[str, ...], list[tuple[str, Difference]]] = {}
    for label, change in changes:
        by_tasks.setdefault(change.columns, []).append((label, change.difference))
    for columns, found in by_tasks.items():
        over = f"{name} {' '.join(columns)}" if len(by_tasks) > 1 else name
        heading = f"{title}\nmean over {', '.join(columns)}"
        yield over, partial(plots.change_bars, found, title=heading)


def _heatmaps(row: Row) -> Iterator[tuple[str, Callable[[Path], None]]]:
    from ctx_tasks import plots

    for _, samples in _needles(row):
        yield f"needle {_title(row)}", partial(plots.nih_heatmap, samples, title=_title(row))


def _recalls(rows: Sequence[Row]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """A figure for each checkpoint and needle task that has several lengths and several depths."""
    from ctx_tasks import plots

    found: dict[tuple[str, str], dict[str, plots.Cells]] = {}
    for row in rows:
        for task, samples in _needles(row):
            cells = plots.needle_cells(samples)
            if min(len({cell[axis] for cell in cells}) for axis in (0, 1)) > 1:
                found.setdefault((row.checkpoint, task), {})[row.arm.name] = cells
    for (checkpoint, task), arms in found.items():
        title = f"{checkpoint}: {task}"
        yield f"recall {title}", partial(plots.recall_curve, arms, title=title)


def _needles(row: Row) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Task and samples of each needle test of a row."""
    from ctx_tasks import plots
    from ctx_tasks.columns import is_needle
    from ctx_tasks.results import read_documents

    for result in row.results.values():
        if is_needle(result.task) and result.samples_file is not None:
            samples = list(read_documents(result))
            if plots.needle_cells(samples):
                yield result.task, samples


def _title(row: Row) -> str:
    return f"{row.checkpoint}: {row.arm.name}"


class _Names:
    """File names from names of checkpoints and arms, which are anybody's text; none twice."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder = folder
        self.suffix = suffix
        self.taken: list[Path] = []

    def new(self, name: str) -> Path:
        """A file for a figure of that name."""
        shown = name.replace("α", "alpha")
        kept = "".join(c if c.isalnum() or c == "." else " " for c in shown)
        words = filter(None, (word.strip(".") for word in kept.split()))
        # File systems allow 255 bytes.
        stem = "-".join(words).encode()[:200].decode(errors="ignore")
        number = 1
        while (path := self._path(stem, number)) in self.taken:
            number += 1
        self.taken.append(path)
        return path

    def _path(self, stem: str, number: int) -> Path:
        return self.folder / f"{stem}{f'-{number}' if number > 1 else ''}{self.suffix}"
