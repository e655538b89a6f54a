"""Terminal tables: one box, `0.93 ±.03`, foreign text never markup; and how a number is written.

A table is data: headings, and rows of a label and values. Where it is too wide, its labels are
folded first, then its headings, then its columns are split over several tables; errors are left out
last. Labels and digits never are: on a terminal too narrow for even that, lines are longer than it.
Into a pipe or a file, `WIDTH` characters a line are taken (COLUMNS overrules), and sentences are
not folded.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import IO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

WIDTH = 250
_HEIGHT = 25  # rich's own guess; nothing of ours depends on it
# What labels, headings and words are folded to at most; rich's own edge and gap between columns.
_NARROW = 12
_EDGE, _GAP = 1, 2
# They join letters (Persian, Hindi) and pictures, and steer nothing.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


@dataclass(frozen=True)
class Head:
    """A column: its heading with the lines under it.

    Attributes:
        words: text, set left and folded where there is no room; else numbers, set right and whole.
    """

    text: str
    under: tuple[str, ...] = ()
    words: bool = False


@dataclass(frozen=True)
class Value:
    """What stands in a column: the digits, their error, and signs such as "~" behind both."""

    text: str
    error: str = ""
    flags: str = ""
    style: str = ""


@dataclass(frozen=True)
class Labelled:
    """A row; `group` stands once above the rows that follow each other and share it."""

    label: str
    values: Sequence[Value]
    group: str = ""


@dataclass(frozen=True)
class Table:
    """Rows below headings; `first` is the labels', `title` stands above."""

    first: Head
    heads: Sequence[Head]
    rows: Sequence[Labelled]
    title: str = ""


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """ "0.930" or "+0.930", never "-0.000"; "-" for what is not known."""
    if math.isnan(value):
        return "-"
    rounded = round(float(value), digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}"


def with_error(value: float, error: float, digits: int = 3, *, signed: bool = False) -> str:
    """ "0.930 ± 0.031"; without the error where it is not known."""
    shown = number(value, digits, signed=signed)
    return shown if math.isnan(value) or math.isnan(error) else f"{shown} ± {error:.{digits}f}"


def with_interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """ "+0.229 [+0.192, +0.265]"."""
    return f"{number(mean, digits, signed=True)} {interval(low, high, digits)}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """ "[+0.192, +0.265]", or "[unknown]"."""
    if math.isnan(low) or math.isnan(high):
        return "[unknown]"
    return f"[{number(low, digits, signed=True)}, {number(high, digits, signed=True)}]"


def score(
    value: float, error: float, digits: int = 2, *, flags: str = "", style: str = ""
) -> Value:
    """A value of a table with its error, "0.93 ±.03"."""
    if math.isnan(value):
        return Value("-")
    shown = "" if math.isnan(error) else f"±{error:.{digits}f}".replace("±0.", "±.")
    return Value(number(value, digits), shown, flags, style)


def sizes(found: Iterable[tuple[int, int]]) -> str:
    """Documents and independent clusters of scores, "n = 40 in 8"; "n = 40" where each is its own.

    Scores that differ in either are told by the fewest and the most, "n = 36-40 in 8-36".
    """
    pairs = list(found)
    documents, clusters = (_span(column) for column in zip(*pairs, strict=True))
    each = all(n == groups for n, groups in pairs)
    return f"n = {documents}" if each else f"n = {documents} in {clusters}"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"


def change(mean: float, low: float, high: float, digits: int = 3) -> Value:
    """A difference of a table; its interval, "[+0.192, +0.265]", is what gives way."""
    return Value(number(mean, digits, signed=True), interval(low, high, digits))


def plain_text(text: str) -> str:
    """Foreign text without what steers a terminal: escapes, line breaks, changes of direction.

    Every kind of blank becomes a space, every other control character "\N{REPLACEMENT CHARACTER}".
    """
    return "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in _JOINERS:
        return "\N{REPLACEMENT CHARACTER}"
    return character


def terminal() -> Console:
    """The terminal; in a pipe or a file, lines of `WIDTH` unless COLUMNS says otherwise."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return console_of(shutil.get_terminal_size().columns if known else WIDTH)


def piped(file: IO[str]) -> Console:
    """A file to print to, with lines of `WIDTH`."""
    return console_of(WIDTH, file)


def console_of(width: int, file: IO[str] | None = None) -> Console:
    """Something to print to, by default the standard output, with lines of this width.

    Without a height, rich takes 80 columns for what it holds to be a dumb terminal (TERM=dumb, with
    FORCE_COLOR or TTY_COMPATIBLE even a pipe), whatever width it was told.
    """
    return Console(file=file, width=width, height=_HEIGHT)


def say(text: str, console: Console) -> None:
    """Print a sentence: folded between words on a terminal, else on one line."""
    line = Text(plain_text(text).rstrip())
    if console.is_terminal:
        for part in line.wrap(console, console.width):
            part.rstrip()
            console.print(part, soft_wrap=True)
    else:
        console.print(line, soft_wrap=True)


def show(table: Table, console: Console) -> None:
    """Print a table, or the tables its columns are split over."""
    layout = _layout(table, console.width)
    for part in layout.parts:
        drawn = _draw(table, layout, part)
        console.print(_Trimmed(drawn, layout.width(part)), crop=False)


@dataclass(frozen=True)
class _Layout:
    """How a table is drawn: widths of labels and columns, columns of each part, and errors."""

    label: int
    widths: Sequence[int]
    parts: Sequence[Sequence[int]]
    errors: bool

    def width(self, part: Sequence[int]) -> int:
        return _EDGE + self.label + sum(_GAP + self.widths[column] for column in part)


def _layout(table: Table, width: int) -> _Layout:
    """The fewest parts that fit; of those the one that folds least."""
    labels = _label_width(table)
    narrow = min(labels, _NARROW)
    for errors in (True, False):
        found = [
            _Layout(label, widths, _parts(widths, width - _EDGE - label), errors)
            for widths in (_widths(table, errors), _widths(table, errors, _NARROW))
            for label in range(labels, narrow - 1, -1)
            if _EDGE + label + _GAP + max(widths) <= width
        ]
        if found:
            return min(found, key=lambda layout: len(layout.parts))
    widths = _widths(table, False, _NARROW)
    return _Layout(narrow, widths, _parts(widths, 0), False)


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns in their order, as many in a part as there is room for, at least one."""
    parts: list[list[int]] = []
    left = 0
    for column, width in enumerate(widths):
        left -= _GAP + width
        if not parts or left < 0:
            parts.append([])
            left = room - _GAP - width
        parts[-1].append(column)
    return parts


def _label_width(table: Table) -> int:
    first = [*_lines(table.first), *(_line(row.group) for row in table.rows)]
    labels = (bool(row.group) + cell_len(_line(row.label)) for row in table.rows)
    return max([*map(cell_len, first), *labels])


def _widths(table: Table, errors: bool, most: int = sys.maxsize) -> list[int]:
    """Of each column; `most` folds headings and words, not numbers."""
    widths = []
    for column, head in enumerate(table.heads):
        heading = max(map(cell_len, _lines(head)))
        cells = max(map(cell_len, _column(table, column, errors)), default=0)
        widths.append(max(1, min(heading, most), min(cells, most) if head.words else cells))
    return widths


def _line(text: str) -> str:
    """Foreign text with single blanks, so that folding it leaves no line empty."""
    return " ".join(plain_text(text).split())


def _lines(head: Head) -> list[str]:
    return [_line(line) for line in (head.text, *head.under)]


def _column(table: Table, column: int, errors: bool) -> list[str]:
    """Texts of a column; digits stand below each other whether or not a flag follows."""
    values = [row.values[column] for row in table.rows]
    flags = max((len(value.flags) for value in values), default=0)
    return [
        _line(f"{v.text} {v.error}" if v.error and errors else v.text) + v.flags.ljust(flags)
        for v in values
    ]


def _draw(table: Table, layout: _Layout, part: Sequence[int]) -> RichTable:
    title = Text(_line(table.title)) if table.title and part[0] == 0 else None
    drawn = RichTable(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column(_heading(table.first), width=layout.label, overflow="fold")
    texts = {column: _column(table, column, layout.errors) for column in part}
    for column in part:
        head, width = table.heads[column], layout.widths[column]
        justify: JustifyMethod = "left" if head.words else "right"
        drawn.add_column(_heading(head), justify=justify, width=width, overflow="fold")
    for group, rows in groupby(enumerate(table.rows), key=lambda one: one[1].group):
        if group:
            drawn.add_row(Text(_line(group), style="bold"))
        for place, row in rows:
            label = Padding(Text(_line(row.label)), (0, 0, 0, bool(group)))
            cells = [Text(texts[column][place], style=row.values[column].style) for column in part]
            drawn.add_row(label, *cells)
    return drawn


def _heading(head: Head) -> Text:
    return Text("\n".join(_lines(head)))


@dataclass(frozen=True)
class _Trimmed:
    """Something drawn `width` wide, without the blanks at the end of its lines."""

    inner: RenderableType
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        # Rich puts a gap behind the last column too, and its rule is as long.
        wider = options.update(width=self.width + _GAP)
        for line in console.render_lines(self.inner, wider, pad=False):
            line = Segment.adjust_line_length(line, self.width)
            while line and not line[-1].text.rstrip():
                line.pop()
            yield from line[:-1]
            if line:
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()
