"""What a token or a stretch of text is, and a prompt that says it of all its parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Segment(IntEnum):
    """What a token is; the values index the last axis of `segment_mass` and never change."""

    USER = 0
    ASSISTANT = 1
    SYSTEM = 2
    TEMPLATE = 3
    SPECIAL = 4


SEGMENT_OF_ROLE = {
    "user": Segment.USER,
    "assistant": Segment.ASSISTANT,
    "system": Segment.SYSTEM,
    "developer": Segment.SYSTEM,
}


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text are content of message number `message`."""

    start: int
    end: int
    segment: Segment
    message: int


@dataclass(frozen=True)
class Rendered:
    """A prompt text and its content ranges, in order and without overlap.

    What no span covers is template. `indicators` are the ranges (inside user spans) where we put
    the indicator: they may become its token, an indicator string in data may not.
    """

    text: str
    spans: tuple[Span, ...]
    indicators: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Segmented:
    """A prompt as tokens: four lists of equal length beside the text.

    `messages` has the index of the message a content token belongs to, -1 for other tokens;
    `offsets` the characters of the text, [start, end], that a token stands for.
    """

    text: str
    input_ids: list[int]
    segments: list[Segment]
    messages: list[int]
    offsets: list[list[int]]
