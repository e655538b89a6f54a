"""Figures from harness samples. The heatmap is Figure 2 of arXiv 2411.02688 (depth by length).

Colours are matplotlib's cividis, which people with and without colour blindness read alike; one
scale, 0 to 1, for every figure, so that figures can be compared. No display is needed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ctx_tasks.errors import UserError

SUFFIXES = (".png", ".svg")
_MISSING = "lightgrey"
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
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} cannot be drawn: end its name in {' or '.join(SUFFIXES)}.")
    cells = needle_cells(samples)
    if not cells:
        raise UserError(f"{path} cannot be drawn without samples; run a needle test first.")
    every = [recall for recalls in cells.values() for recall in recalls]
    heading = f"{title}\nmean recall {fmean(every):.3f}, n = {len(every)}"
    _save(_figure(cells, heading), path)


def needle_cells(samples: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int], list[float]]:
    """Recalls by (depth in percent, length in tokens) of the samples of a needle test.

    Samples without a recall, or of documents without depth and length, are left out.
    """
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for sample in samples:
        recall, doc = sample.get("recall"), sample.get("doc")
        if recall is not None and isinstance(doc, Mapping) and {"depth", "length"} <= doc.keys():
            cells[doc["depth"], doc["length"]].append(recall)
    return dict(cells)


def _figure(cells: Mapping[tuple[int, int], list[float]], heading: str) -> Figure:
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
    axes.set_title(heading)
    figure.colorbar(image, ax=axes, label="recall (share of the needle's keywords)")
    return figure


def _ticks(values: list[int]) -> tuple[list[int], list[str]]:
    """Positions and labels, evenly thinned out from the first on."""
    step = -(-len(values) // _MOST_TICKS)
    shown = list(range(0, len(values), step))
    return shown, [str(values[position]) for position in shown]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # Without a date, and with ids that are not drawn at random, the file depends on the data alone.
    dateless = {"Date": None} if path.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "ctx"}):
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=dateless)
    os.replace(temporary, path)
