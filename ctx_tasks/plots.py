"""Figures for papers: the needle heatmap (Figure 2 of arXiv 2411.02688) and its recall over length,
changes as bars with their intervals, and the alpha curve of a checkpoint (Table 2 as lines). The
HTML report shows the same, but for the recall over length.

Colours are matplotlib's cividis, which people with and without colour blindness read alike; one
scale, 0 to 1, for every figure, so that figures can be compared. No display is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ctx_tasks.errors import UserError
from ctx_tasks.files import whole_file
from ctx_tasks.leaderboard.curves import Curve
from ctx_tasks.statistics import Difference

# Recalls by depth (percent) and length (tokens).
Cells = dict[tuple[int, int], list[float]]
SUFFIXES = (".png", ".svg")
_MISSING = "lightgrey"
_BAR = "#1d4fa5"
# Colour (told apart with any colour vision) and marker of each of `columns.LINES`.
_LINES = {
    "NIH recall": ("#0069a8", "o"),
    "SQuAD, QuAC": ("#b84a00", "s"),
    "DROP": ("#007358", "^"),
    "MT-Bench ÷ 9": ("#84367a", "D"),
}
# More ticks than this would run into each other.
_MOST_TICKS = 11


def nih_heatmap(samples: Iterable[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the recall of a needle test, document length across and needle depth downwards.

    Args:
        samples: as the harness gives or writes them, each with `recall` and, in `doc`, `length`
            (tokens) and `depth` (percent). Several in one cell are averaged; a cell without any is
            grey.
        path: written whole or not at all; a PNG or an SVG by its suffix. Equal samples write equal
            files.
        title: stands over the figure, followed by the mean recall over all samples and their
            number.

    Raises:
        UserError: another suffix, or no samples.
    """
    check_suffix(path)
    cells = needle_cells(samples)
    if not cells:
        raise UserError(f"{path} cannot be drawn without samples; run a needle test first.")
    every = [recall for recalls in cells.values() for recall in recalls]
    heading = f"{title}\nmean recall {fmean(every):.3f}, n = {len(every)}"
    save_figure(_figure(cells, heading), path)


def recall_curve(arms: Mapping[str, Cells], path: Path, title: str) -> None:
    """Draw the recall of a needle test over the length of its documents, a line an arm.

    Args:
        arms: the cells of each (`needle_cells`). A point is the mean of a length's cells, with the
            standard error over them.
        path: see `nih_heatmap`.
        title: stands over the figure.

    Raises:
        UserError: another suffix.
    """
    check_suffix(path)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, cells), (colour, marker) in zip(arms.items(), cycle(_LINES.values()), strict=False):
        points = _by_length(cells)
        axes.errorbar(
            list(points),
            [np.mean(recalls) for recalls in points.values()],
            [np.std(recalls, ddof=1) / np.sqrt(len(recalls)) for recalls in points.values()],
            color=colour,
            marker=marker,
            capsize=3,
            label=plain(name),
        )
    axes.set_ylim(-0.02, 1.05)
    axes.set_xlabel("document length (tokens)")
    axes.set_ylabel("recall, standard error over depths")
    axes.set_title(plain(title))
    axes.legend()
    save_figure(figure, path)


def _by_length(cells: Cells) -> dict[int, list[float]]:
    """The mean of each cell, by length."""
    found: dict[int, list[float]] = {}
    for (_, length), recalls in sorted(cells.items(), key=lambda cell: cell[0][1]):
        found.setdefault(length, []).append(fmean(recalls))
    return found


def change_bars(changes: Sequence[tuple[str, Difference]], path: Path, title: str) -> None:
    """Draw changes as bars from zero with their 95 % intervals, pale where the interval holds zero.

    Args:
        changes: a label and a difference each, drawn from the top.
        path: see `nih_heatmap`.
        title: stands over the figure.

    Raises:
        UserError: another suffix, or no changes.
    """
    check_suffix(path)
    if not changes:
        raise UserError(
            f"{path} cannot be drawn without a change; run a checkpoint raw and with its template."
        )
    figure = Figure(figsize=(6.4, 1.0 + 0.35 * len(changes)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, found) in enumerate(changes):
        axes.barh(place, found.mean, height=0.6, color=_BAR, alpha=1.0 if found.clear else 0.35)
        axes.plot([found.low, found.high], [place, place], "|-", color="black", linewidth=1.2)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(changes)), [plain(f"{label}, n = {d.n}") for label, d in changes])
    axes.invert_yaxis()
    axes.set_xlabel("difference of scores, 95 % interval")
    axes.set_title(plain(title))
    save_figure(figure, path)


def alpha_curve(curve: Curve, path: Path) -> None:
    """Draw what steering gains on needles and passages against what it costs on DROP and MT-Bench.

    Args:
        curve: of one checkpoint; its lines are differences to alpha 1 with 95 % intervals.
        path: see `nih_heatmap`.

    Raises:
        UserError: another suffix.
    """
    check_suffix(path)
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0.0, color="black", linewidth=0.8)
    for number, (name, points) in enumerate(curve.lines.items()):
        # Side by side, so that one interval does not hide another.
        aside = 0.004 * number
        colour, marker = _LINES[name]
        alphas = [1.0, *(point.alpha - aside for point in points)]
        axes.plot(
            alphas,
            [0.0, *(p.difference.mean for p in points)],
            color=colour,
            marker=marker,
            label=f"{name}, n = {points[0].difference.n}",
        )
        for point in points:
            reach = [point.difference.low, point.difference.high]
            axes.plot([point.alpha - aside] * 2, reach, color=colour, linewidth=1)
    axes.invert_xaxis()
    axes.set_xlabel("alpha (smaller steers more)")
    axes.set_ylabel("difference to alpha 1, 95 % interval")
    axes.set_title(plain(f"{curve.checkpoint}: {curve.setting}"))
    axes.legend()
    save_figure(figure, path)


def check_suffix(path: Path) -> None:
    """Raise UserError unless `path` ends in .png or .svg."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} cannot be drawn: end its name in {' or '.join(SUFFIXES)}.")


def plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def needle_cells(samples: Iterable[Mapping[str, Any]]) -> Cells:
    """Recalls by (depth in percent, length in tokens) of the samples of a needle test.

    Samples without a recall, or of documents without depth and length, are left out.
    """
    cells: Cells = defaultdict(list)
    for sample in samples:
        recall, doc = sample.get("recall"), sample.get("doc")
        if recall is not None and isinstance(doc, Mapping) and {"depth", "length"} <= doc.keys():
            cells[doc["depth"], doc["length"]].append(recall)
    return dict(cells)


def _figure(cells: Cells, heading: str) -> Figure:
    depths, lengths = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    recalls = np.full((len(depths), len(lengths)), np.nan)
    for (depth, length), values in cells.items():
        recalls[depths.index(depth), lengths.index(length)] = fmean(values)
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(_MISSING)
    image = axes.imshow(recalls, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(*_ticks(lengths), rotation=45)
    axes.set_yticks(*_ticks(depths))
    axes.set_xlabel("document length (tokens)")
    axes.set_ylabel("needle depth (% of the document)")
    axes.set_title(plain(heading))
    figure.colorbar(image, ax=axes, label="recall (share of the needle's keywords)")
    return figure


def _ticks(values: list[int]) -> tuple[list[int], list[str]]:
    """Positions and labels, evenly thinned out from the first on."""
    step = -(-len(values) // _MOST_TICKS)
    shown = list(range(0, len(values), step))
    return shown, [str(values[position]) for position in shown]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; equal figures write equal files."""
    # Without a date, and with ids that are not drawn at random, the file depends on the data alone.
    dateless = {"Date": None} if path.suffix == ".svg" else {}
    with whole_file(path) as partial, rc_context({"svg.hashsalt": "ctx"}):
        figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata=dateless)
