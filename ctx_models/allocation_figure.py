"""Figures 3 and 4: attention shares with and without the chat template, and their change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from ctx_tasks.errors import UserError
from ctx_tasks.plots import SUFFIXES

from .allocation import CONDITIONS, SEGMENTS, Line


def draw(lines: Sequence[Line], path: Path) -> None:
    """Bars of absolute and of renormalised shares, and of chat minus raw; a column a model.

    Raises:
        UserError: another suffix than .png or .svg.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} cannot be drawn: end its name in {' or '.join(SUFFIXES)}.")
    names = list(dict.fromkeys(line.name for line in lines))
    figure = Figure(figsize=(1.5 + 4.5 * len(names), 9), layout="constrained")
    axes = figure.subplots(3, len(names), squeeze=False, sharey="row", sharex=True)
    for column, name in enumerate(names):
        own = [line for line in lines if line.name == name]
        absolute = [line for line in own if line.share == "absolute"]
        relative = [line for line in own if line.share != "absolute"]
        _bars(axes[0, column], absolute, CONDITIONS)
        _bars(axes[1, column], relative, CONDITIONS)
        _bars(axes[2, column], absolute, ("chat - raw",))
        axes[0, column].set_title(_title(name, own[0].n), fontsize=10)
        axes[2, column].axhline(0, color="black", linewidth=0.8)
        axes[2, column].tick_params(axis="x", rotation=30)
    axes[0, 0].set_ylabel("share of attention")
    axes[1, 0].set_ylabel("share of user, response and BOS")
    axes[2, 0].set_ylabel("change, chat minus raw")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    temporary.replace(path)


def _title(name: str, n: int) -> str:
    """The arguments of a model, a line each, and the number of its prompts."""
    return "\n".join([*name.split(","), f"n = {n} prompts"])


def _bars(axes: Any, lines: Sequence[Line], conditions: Sequence[str]) -> None:
    """Bars with standard errors; a segment that `lines` leave out has none."""
    width = 0.8 / len(conditions)
    for number, condition in enumerate(conditions):
        own = [line for line in lines if line.condition == condition]
        middle = (number - (len(conditions) - 1) / 2) * width
        axes.bar(
            [list(SEGMENTS).index(line.segment) + middle for line in own],
            [line.mean for line in own],
            width,
            yerr=[line.error for line in own],
            label=condition,
            color=colormaps["cividis"]((0.25, 0.75)[number] if len(conditions) > 1 else 0.5),
        )
    axes.set_xticks(range(len(SEGMENTS)), list(SEGMENTS))
    axes.legend()
