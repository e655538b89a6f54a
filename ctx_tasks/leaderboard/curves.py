"""The alpha curve of a checkpoint: what steering gains on needles and passages, what it costs.

Table 2 of arXiv 2411.02688 as lines: against alpha, the paired difference to alpha 1 of the same
checkpoint and arm, on the needle test and on the mean of SQuAD and QuAC (where steering is meant to
help), on DROP and on MT-Bench (what it may cost). A change of an MT-Bench rating is divided by 9,
the width of its scale from 1 to 10, so that all lines are shares of their scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctx_tasks import columns
from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard.board import Row
from ctx_tasks.results import Samples, read_samples
from ctx_tasks.statistics import Difference, mean_difference, paired_difference

Read = Callable[[Row, str], Samples | None]


@dataclass(frozen=True)
class Point:
    """Difference to alpha 1 at an alpha."""

    alpha: float
    difference: Difference


@dataclass(frozen=True)
class Curve:
    """One checkpoint and schedule, one kind of data.

    Attributes:
        setting: all that stays the same along the curve: "compound, prompt only, [IND] (nano)".
        lines: by name, from the largest alpha to the smallest; the undrawn 1.0 is zero.
    """

    checkpoint: str
    setting: str
    lines: dict[str, list[Point]]


def samples_reader() -> Read:
    """A function that gives the samples of a row's column, None without; it reads a file once."""
    kept: dict[Path, Samples] = {}

    def read(row: Row, column: str) -> Samples | None:
        result = row.results.get(column)
        if result is None or result.samples_file is None:
            return None
        if result.samples_file not in kept:
            kept[result.samples_file] = read_samples(result)
        return kept[result.samples_file]

    return read


def curves(rows: Sequence[Row], read: Read | None = None) -> list[Curve]:
    """The alpha curves of all checkpoints, in the rows' order; empty without steered arms.

    Args:
        rows: of a leaderboard.
        read: see `samples_reader`; to share what was read.
    """
    found: dict[tuple[str, str, str], Curve] = {}
    reader = read or samples_reader()
    for row in sorted(rows, key=lambda row: -row.arm.alpha):
        for kind in columns.KINDS:
            base = _unsteered(rows, row)
            lines = _points(base, row, kind, reader) if base is not None else {}
            key = (row.checkpoint, row.arm.setting, kind)
            if lines and key not in found:
                found[key] = Curve(row.checkpoint, key[1] + columns.suffix(kind), {})
            for name, difference in lines.items():
                found[key].lines.setdefault(name, []).append(Point(row.arm.alpha, difference))
    order = list(dict.fromkeys(row.checkpoint for row in rows))
    return sorted(found.values(), key=lambda curve: order.index(curve.checkpoint))


def _unsteered(rows: Sequence[Row], row: Row) -> Row | None:
    """The row at alpha 1 that differs from `row` in nothing but steering."""
    if row.arm.alpha == 1:
        return None
    same = (r for r in rows if r.checkpoint == row.checkpoint)
    return next((r for r in same if r.arm == row.arm.unsteered), None)


def _points(base: Row, row: Row, kind: columns.Kind, read: Read) -> dict[str, Difference]:
    lines = {}
    for name, benchmarks in columns.lines(kind).items():
        parts = [_difference(base, row, one, kind, read) for one in benchmarks]
        known = [part for part in parts if part is not None]
        if known:
            lines[name] = mean_difference(known)
    return lines


def _difference(
    base: Row, row: Row, benchmark: columns.Benchmark, kind: columns.Kind, read: Read
) -> Difference | None:
    """None where samples are missing, differ in documents, or are marked as not comparable."""
    column = benchmark.column(kind)
    before, after = read(base, column), read(row, column)
    if before is None or after is None or base.cells[column].mark or row.cells[column].mark:
        return None
    metric = row.results[column].primary
    if metric != base.results[column].primary:
        return None
    try:
        found = paired_difference(before, after, metric)
    except UserError:
        # No document in both.
        return None
    return found if benchmark.width == 1 else _scaled(found, 1 / benchmark.width)


def _scaled(found: Difference, factor: float) -> Difference:
    mean, error, low, high = (
        value * factor for value in (found.mean, found.error, found.low, found.high)
    )
    return replace(found, mean=mean, error=error, low=low, high=high)
