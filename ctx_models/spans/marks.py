"""Private-use characters around content: put in before a template is rendered, read after it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ctx_models.control_tokens import PRIVATE_USE
from ctx_models.indicator import append_indicator
from ctx_tasks.errors import UserError

from .segments import SEGMENT_OF_ROLE, Rendered, Span


class Field(NamedTuple):
    """One text of a message: its content, or one part of a content that is a list."""

    message: int
    part: int | None
    role: str
    text: str
    indicated: bool


class Piece(NamedTuple):
    """Characters `start` to `end` of a field, framed by marks."""

    field: Field
    start: int
    end: int


Gaps = Mapping[Field, "str | None"]


class Rewritten(UserError):
    """A template that changes content beyond recognition, or seems to."""

    def __init__(self, roles: str) -> None:
        super().__init__(
            f"the chat template rewrites the {roles} content, so its tokens cannot be told from "
            "the template's: use a template that writes content as it is, or run without "
            "--apply_chat_template."
        )


def plain_text(field: Field, indicator: str) -> str:
    return append_indicator(field.text, indicator) if field.indicated else field.text


class Marks:
    """Private-use characters that no message contains, and what each stands for."""

    def __init__(self, fields: Sequence[Field], indicator: str) -> None:
        used = {char for field in fields for char in PRIVATE_USE.findall(field.text)}
        self._free = (chr(code) for code in range(0xF0000, 0x10FFFE) if chr(code) not in used)
        self._indicator = indicator
        self._indicator_open, self._indicator_close = next(self._free), next(self._free)
        self._opens: dict[str, Piece] = {}
        self._closes: dict[str, Piece] = {}

    def frame(self, field: Field, gaps: Gaps) -> str:
        """The field with every stretch between gaps in marks of its own."""
        if field not in gaps:
            return plain_text(field, self._indicator)
        # One character for the indicator, so that no gap pattern can match in or before it.
        token = self._indicator_open
        text = append_indicator(field.text, token) if field.indicated else field.text
        ends = [(0, 0), *matches(gaps[field], text), (len(text), len(text))]
        framed = ""
        for (_, start), (end, following) in itertools.pairwise(ends):
            framed += self._framed(field, text, start, end) + text[end:following]
        return framed.replace(token, token + self._indicator + self._indicator_close)

    def _framed(self, field: Field, text: str, start: int, end: int) -> str:
        if start == end:
            return ""
        opening, closing = next(self._free, ""), next(self._free, "")
        if not closing:
            raise Rewritten(field.role)
        self._opens[opening] = self._closes[closing] = Piece(field, start, end)
        return opening + text[start:end] + closing

    def read(self, marked: str) -> Rendered | None:
        """Take the marks out; None where a pair of marks is torn or two pairs overlap."""
        marks = {self._indicator_open, self._indicator_close, *self._opens, *self._closes}
        places = [match for match in PRIVATE_USE.finditer(marked) if match.group() in marks]
        found: list[tuple[Piece, int, int]] = []
        indicators: list[tuple[int, int]] = []
        current: Piece | None = None
        start = indicator_start = 0
        for seen, match in enumerate(places):
            char, position = match.group(), match.start() - seen
            if char == self._indicator_open:
                indicator_start = position
            elif char == self._indicator_close:
                indicators.append((indicator_start, position))
            elif char in self._opens and current is None:
                current, start = self._opens[char], position
            elif current is not None and self._closes.get(char) is current:
                found.append((current, start, position))
                current = None
            else:
                return None
        if current is not None:
            return None
        text = marked.translate(dict.fromkeys(map(ord, marks)))
        return Rendered(text, tuple(_joined(text, found)), tuple(indicators))


def matches(pattern: str | None, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(pattern, text)] if pattern else []


def _joined(text: str, found: Sequence[tuple[Piece, int, int]]) -> Iterator[Span]:
    """Spans of the pieces; pieces with the same text between them as in the content are one.

    A tag before the first or after the last piece belongs to the content where the template wrote
    it there too. Whitespace alone does not: the template may have written its own.
    """
    pending: tuple[Piece, int, int] | None = None
    floor = 0
    for piece, start, end in found:
        if pending is not None and _adjacent(text, pending, (piece, start)):
            pending = (Piece(piece.field, pending[0].start, piece.end), pending[1], end)
            continue
        if pending is not None:
            span = _span(text, pending, floor, start)
            floor = span.end
            yield span
        pending = (piece, start, end)
    if pending is not None:
        yield _span(text, pending, floor, len(text))


def _adjacent(text: str, before: tuple[Piece, int, int], after: tuple[Piece, int]) -> bool:
    piece, _, end = before
    following, start = after
    gap = following.field.text[piece.end : following.start]
    return (
        piece.field is following.field and piece.end <= following.start and (text[end:start] == gap)
    )


def _span(text: str, piece: tuple[Piece, int, int], floor: int, ceiling: int) -> Span:
    (field, source_start, source_end), start, end = piece
    before, after = field.text[:source_start], field.text[source_end:]
    if before.strip() and text[floor:start].endswith(before):
        start -= len(before)
    if after.strip() and text[end:ceiling].startswith(after):
        end += len(after)
    return Span(start, end, SEGMENT_OF_ROLE[field.role], field.message)
