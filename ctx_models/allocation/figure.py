"""What the chat template does to attention: the change from raw to chat (Figures 3 and 4).

The paper draws both conditions as well; where a head gives the user's text nearly all its
attention, two full bars hide the change between them. Both are in the numbers beside the figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from ctx_models.allocation.shares import ABSOLUTE, CHANGE, CONDITIONS, RELATIVE, SEGMENTS, Line
from ctx_tasks.plots import check_suffix, plain, save_figure

_SERIES = {ABSOLUTE: "share of attention", RELATIVE: f"share {RELATIVE}"}


def draw(lines: Sequence[Line], path: Path) -> None:
    """The change of each segment's share from raw to chat, a panel a model, in one row.

    A segment that no prompt has (a system message) is left out.

    Raises:
        UserError: another suffix than .png or .svg.
    """
    check_suffix(path)
    names = list(dict.fromkeys(line.name for line in lines))
    shown = [one for one in SEGMENTS if any(x.mean for x in lines if x.segment == one)]
    figure = Figure(figsize=(1.5 + 3.2 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for panel, name in zip(panels, names, strict=True):
        _draw_model(panel, [line for line in lines if line.name == name], shown)
    panels[0].set_ylabel("change, chat - raw", fontsize=9)
    named = panels[0].get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", ncols=len(_SERIES), fontsize=8)
    save_figure(figure, path)


def _draw_model(panel: Any, lines: Sequence[Line], shown: Sequence[str]) -> None:
    """Bars with standard errors; a segment that a share leaves out has none."""
    for (share, label), middle, color in zip(_SERIES.items(), (-0.2, 0.2), (0.3, 0.7), strict=True):
        own = [x for x in lines if x.condition == CHANGE and x.share == share]
        changes = [line for line in own if line.segment in shown]
        panel.bar(
            [shown.index(line.segment) + middle for line in changes],
            [line.mean for line in changes],
            0.4,
            yerr=[line.error for line in changes],
            label=label,
            color=colormaps["cividis"](color),
        )
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xticks(range(len(shown)), shown, rotation=30, ha="right", fontsize=9)
    panel.set_title(_title(lines), fontsize=10)


def _title(lines: Sequence[Line]) -> str:
    """The arguments of a model, a line each, its user's shares, and the number of its prompts."""
    user = {x.condition: x.mean for x in lines if (x.segment, x.share) == ("user", ABSOLUTE)}
    shares = " → ".join(f"{user[condition]:.3f}" for condition in CONDITIONS)
    return "\n".join(
        [*map(plain, lines[0].name.split(",")), f"user {shares}, n = {lines[0].n} prompts"]
    )
