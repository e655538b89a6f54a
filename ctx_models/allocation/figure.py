"""Figures 3 and 4: attention shares with and without the chat template, and their change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from ctx_models.allocation.shares import ABSOLUTE, CHANGE, CONDITIONS, RELATIVE, SEGMENTS, Line
from ctx_tasks.plots import check_suffix, plain, save_figure


def draw(lines: Sequence[Line], path: Path) -> None:
    """Absolute and renormalised shares, and the change of both from raw to chat; a column a model.

    Raises:
        UserError: another suffix than .png or .svg.
    """
    check_suffix(path)
    names = list(dict.fromkeys(line.name for line in lines))
    figure = Figure(figsize=(1.5 + 3.2 * len(names), 8), layout="constrained")
    axes = figure.subplots(3, len(names), squeeze=False, sharey="row", sharex=True)
    for column, name in enumerate(names):
        _draw_model(axes[:, column], [line for line in lines if line.name == name])
    for row, label in enumerate(("share of attention", f"share {RELATIVE}", "change, chat - raw")):
        axes[row, 0].set_ylabel(label, fontsize=9)
        axes[row, -1].legend(fontsize=8)
    save_figure(figure, path)


def _draw_model(axes: Any, lines: Sequence[Line]) -> None:
    """The three panels of one model."""
    for panel, share in zip(axes, (ABSOLUTE, RELATIVE), strict=False):
        own = [line for line in lines if line.share == share]
        _bars(panel, {c: [x for x in own if x.condition == c] for c in CONDITIONS}, "cividis")
    changes = [line for line in lines if line.condition == CHANGE]
    _bars(axes[2], {s: [x for x in changes if x.share == s] for s in (ABSOLUTE, RELATIVE)}, "gray")
    axes[2].axhline(0, color="black", linewidth=0.8)
    axes[2].set_xticks(range(len(SEGMENTS)), list(SEGMENTS), rotation=30, ha="right", fontsize=9)
    axes[0].set_title(_title(lines[0].name, lines[0].n), fontsize=10)


def _title(name: str, n: int) -> str:
    """The arguments of a model, a line each, and the number of its prompts."""
    return "\n".join([*map(plain, name.split(",")), f"n = {n} prompts"])


def _bars(axes: Any, series: dict[str, list[Line]], colors: str) -> None:
    """Two series of bars with standard errors; a segment that a series leaves out has none."""
    for (label, lines), middle, color in zip(series.items(), (-0.2, 0.2), (0.3, 0.7), strict=True):
        axes.bar(
            [list(SEGMENTS).index(line.segment) + middle for line in lines],
            [line.mean for line in lines],
            0.4,
            yerr=[line.error for line in lines],
            label=label,
            color=colormaps[colors](color),
        )
