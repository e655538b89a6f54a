"""Figures 3 and 4: attention shares with and without the chat template, and their change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from ctx_tasks.errors import UserError
from ctx_tasks.plots import SUFFIXES

from .allocation import SEGMENTS, Line


def draw(lines: Sequence[Line], path: Path) -> None:
    """Bars of absolute shares (above) and of chat minus raw (below), a column a model.

    Raises:
        UserError: another suffix than .png or .svg.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} cannot be drawn: end its name in {' or '.join(SUFFIXES)}.")
    absolute = [line for line in lines if line.share == "absolute"]
    names = list(dict.fromkeys(line.name for line in absolute))
    figure = Figure(figsize=(1.5 + 4.5 * len(names), 6), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharey="row", sharex=True)
    for column, name in enumerate(names):
        own = [line for line in absolute if line.name == name]
        _bars(axes[0, column], own, ("raw", "chat"))
        _bars(axes[1, column], own, ("chat - raw",))
        axes[0, column].set_title(f"{name}\nn = {own[0].n} prompts")
        axes[1, column].axhline(0, color="black", linewidth=0.8)
        axes[1, column].tick_params(axis="x", rotation=30)
    axes[0, 0].set_ylabel("share of attention")
    axes[1, 0].set_ylabel("change, chat minus raw")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    temporary.replace(path)


def _bars(axes: Any, lines: Sequence[Line], conditions: Sequence[str]) -> None:
    width = 0.8 / len(conditions)
    for number, condition in enumerate(conditions):
        found = {line.segment: line for line in lines if line.condition == condition}
        places = [
            place + (number - (len(conditions) - 1) / 2) * width for place in range(len(SEGMENTS))
        ]
        axes.bar(
            places,
            [found[name].mean for name in SEGMENTS],
            width,
            yerr=[found[name].error for name in SEGMENTS],
            label=condition,
            color=colormaps["cividis"]((0.25, 0.75)[number] if len(conditions) > 1 else 0.5),
        )
    axes.set_xticks(range(len(SEGMENTS)), list(SEGMENTS))
    axes.legend()
