"""Where lines, bars and cells of the report's figures go; the template only writes them out.

Bars are placed in percent of their cell, so that they follow the page's width and their text does
not shrink; curves and heatmaps are small enough for a telephone and have fixed pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import matplotlib
from matplotlib.colors import to_hex

from ctx_tasks import tables
from ctx_tasks.leaderboard.board import Change
from ctx_tasks.leaderboard.curves import Curve
from ctx_tasks.statistics import Difference

# Width and height of a curve or heatmap, and where its axes are: left, top, right, bottom.
WIDTH, HEIGHT = 340, 230
LEFT, TOP, RIGHT, BOTTOM = 48, 10, 330, 190
# Class and marker of each line of a curve, by the names in `columns.LINES`.
STYLES = {
    "NIH recall": ("nih", "circle"),
    "SQuAD, QuAC": ("qa", "square"),
    "DROP": ("drop", "triangle"),
    "MT-Bench ÷ 9": ("mt", "diamond"),
}
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_MOST_TICKS = 7


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: percent or pixels, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A change as a bar from zero with its interval; positions in percent of the axis."""

    checkpoint: str
    arm: str
    change: Change
    start: float
    width: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bars:
    """Bars on one axis."""

    bars: list[Bar]
    ticks: list[Tick]
    zero: float


Changed = tuple[str, str, Change]


def bars(changes: Mapping[str, Sequence[Changed]]) -> dict[str, Bars]:
    """Bars of (checkpoint, arm, change) by kind, on the smallest axis that holds zero and all."""
    every = [change.difference for found in changes.values() for _, _, change in found]
    ends = [end for difference in every for end in _ends(difference)]
    axis = ticks(min([0.0, *ends]), max([0.0, *ends]))
    return {name: _bars(found, axis) for name, found in changes.items()}


def _bars(changes: Sequence[Changed], axis: Sequence[float]) -> Bars:
    low, high = axis[0], axis[-1]

    def percent(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def bar(checkpoint: str, arm: str, change: Change) -> Bar:
        found = change.difference
        first, last = sorted((percent(0.0), percent(found.mean)))
        known = not math.isnan(found.low)
        reach = (percent(found.low), percent(found.high)) if known else (None, None)
        return Bar(checkpoint, arm, change, first, round(last - first, 2), *reach)

    marks = [Tick(percent(value), _signed(value)) for value in axis]
    return Bars([bar(*one) for one in changes], marks, percent(0.0))


def usual(changes: Mapping[str, Sequence[Changed]]) -> tuple[str, ...]:
    """The columns that most changes are means over; none without a change."""
    numbers = Counter(change.columns for found in changes.values() for _, _, change in found)
    return max(numbers, key=numbers.__getitem__, default=())


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at least two, zero kept exact."""
    fitting = (s for s in _STEPS if math.ceil(high / s) - math.floor(low / s) < _MOST_TICKS)
    step = next(fitting, _STEPS[-1])
    first, last = math.floor(round(low / step, 6)), math.ceil(round(high / step, 6))
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _ends(found: Difference) -> list[float]:
    return [value for value in (found.mean, found.low, found.high) if not math.isnan(value)]


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-9 else tables.number(value, 2, signed=True).replace("-", "−")


@dataclass(frozen=True)
class Spot:
    """A point of a line in pixels; `low` and `high` are the ends of its interval, None without."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """One line of a curve: its name, its class, marker, and points."""

    name: str
    style: str
    marker: str
    spots: list[Spot]


@dataclass(frozen=True)
class CurveFigure:
    """A curve laid out."""

    curve: Curve
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]
    zero: float


def curve_figures(curves: Sequence[Curve]) -> list[CurveFigure]:
    """All curves on one pair of axes, so that they can be compared by eye."""
    points = [point for curve in curves for line in curve.lines.values() for point in line]
    if not points:
        return []
    ends = [end for point in points for end in _ends(point.difference)]
    values = ticks(min([0.0, *ends]), max([0.0, *ends]))
    alphas = sorted({1.0, *(point.alpha for point in points)}, reverse=True)
    last = alphas[-1]

    def x(alpha: float) -> float:
        return round(LEFT + 12 + (1 - alpha) / (1 - last) * (RIGHT - LEFT - 24), 1)

    def y(value: float) -> float:
        share = (value - values[0]) / (values[-1] - values[0])
        return round(BOTTOM - share * (BOTTOM - TOP), 1)

    across = _apart([Tick(x(alpha), f"{alpha:g}") for alpha in alphas])
    up = [Tick(y(value), _signed(value)) for value in values]
    return [CurveFigure(curve, _lines(curve, x, y), across, up, y(0.0)) for curve in curves]


def _apart(marks: Sequence[Tick]) -> list[Tick]:
    """Ticks without those whose label would touch the one before."""
    kept: list[Tick] = []
    for mark in marks:
        if not kept or mark.at - kept[-1].at >= 26:
            kept.append(mark)
    return kept


def _lines(curve: Curve, x: Callable[[float], float], y: Callable[[float], float]) -> list[Line]:
    lines = []
    for number, (name, points) in enumerate(curve.lines.items()):
        style, marker = STYLES[name]
        # Lines side by side, so that one interval does not hide another.
        aside = 3 * number
        spots = [Spot(x(1.0), y(0.0), None, None)]
        for point in points:
            found = point.difference
            known = not math.isnan(found.low)
            reach = (y(found.low), y(found.high)) if known else (None, None)
            spots.append(Spot(x(point.alpha) + aside, y(found.mean), *reach))
        lines.append(Line(name, style, marker, spots))
    return lines


@dataclass(frozen=True)
class Heatmap:
    """A needle grid laid out.

    Attributes:
        mean, n: over all documents.
        paths: a colour and the SVG path of its cells.
        by_length, by_depth: mean recalls, for readers and tables.
    """

    checkpoint: str
    arm: str
    column: str
    mean: float
    n: int
    paths: dict[str, str]
    across: list[Tick]
    down: list[Tick]
    by_length: dict[int, float]
    by_depth: dict[int, float]


def heatmap(
    checkpoint: str, arm: str, column: str, cells: Mapping[tuple[int, int], list[float]]
) -> Heatmap:
    """Lay out recalls by (depth in percent, length in tokens); one colour scale, 0 to 1."""
    depths, lengths = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    wide, high = (RIGHT - LEFT) / len(lengths), (BOTTOM - TOP) / len(depths)
    paths: dict[str, str] = {}
    for (depth, length), values in sorted(cells.items()):
        x, y = LEFT + wide * lengths.index(length), TOP + high * depths.index(depth)
        # A hair wider than the cell, so that no seam shows.
        box = f"M{x:.1f} {y:.1f}h{wide + 0.2:.1f}v{high + 0.2:.1f}h-{wide + 0.2:.1f}z"
        paths[colour(fmean(values))] = paths.get(colour(fmean(values)), "") + box
    every = [value for values in cells.values() for value in values]
    across = [Tick(LEFT + wide * (n + 0.5), str(value)) for n, value in enumerate(lengths)]
    down = [Tick(TOP + high * (n + 0.5), str(value)) for n, value in enumerate(depths)]
    by_length = {v: fmean(_at(cells, 1, v)) for v in lengths}
    by_depth = {v: fmean(_at(cells, 0, v)) for v in depths}
    return Heatmap(
        checkpoint,
        arm,
        column,
        fmean(every),
        len(every),
        paths,
        _thin(across, 6),
        _thin(down, 6),
        by_length,
        by_depth,
    )


def colour(recall: float) -> str:
    """Of matplotlib's cividis, for a recall from 0 to 1."""
    return _hundredth(round(100 * recall))


@cache
def _hundredth(percent: int) -> str:
    return to_hex(matplotlib.colormaps["cividis"](percent / 100))


def _at(cells: Mapping[tuple[int, int], list[float]], axis: int, value: int) -> list[float]:
    return [one for cell, values in cells.items() if cell[axis] == value for one in values]


def _thin(marks: Sequence[Tick], most: int) -> list[Tick]:
    return list(marks[:: -(-len(marks) // most)])
