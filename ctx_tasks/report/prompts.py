"""Which part of a saved prompt is the user's text, and what of a long one is shown.

A sample file holds the prompt as the model saw it, without saying where the template ends and the
user begins. The same document's prompt in a run without template is exactly the user's text: where
it occurs once in the templated prompt, that is the segment. Without such a run the document's own
fields (context, question) are looked for, which the reader is told. Where neither is found, or more
than once, nothing is highlighted: better nothing than the wrong half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A prompt's kinds of piece, as the page's script knows them.
USER, TEMPLATE, PLAIN, CUT = "u", "t", "p", "c"
# How the user's text was found.
BY_RAW_RUN, BY_FIELDS, NOT_FOUND = "raw", "fields", "none"

_FIELDS = ("context", "question", "turns")
# Characters kept at each end of a long text, and around what is asked for.
_END, _AROUND = 700, 300

Piece = tuple[str, str]


@dataclass(frozen=True)
class Prompt:
    """A prompt in pieces, in order; joined they are the prompt."""

    pieces: list[Piece]
    found: str


def segment(
    prompt: str, *, chat: bool, raw: str | None, indicator: str | None, doc: Mapping[str, Any]
) -> Prompt:
    """Tell user text from template.

    Args:
        prompt: as the model saw it.
        chat: whether a template was applied; without one all of it is the user's.
        raw: the prompt of the same document in a run without template or response prefix.
        indicator: a token that stands at the end of the user's turn, and belongs to it.
        doc: the document, whose fields are looked for where there is no `raw`.
    """
    if not chat and raw in (None, prompt):
        return Prompt([(USER, prompt)], BY_RAW_RUN)
    # Templates trim what they are given.
    user = raw.strip() if raw else ""
    if user and prompt.count(user) == 1:
        start = prompt.index(user)
        end = start + len(user)
        added = f" {indicator}" if indicator else ""
        end += len(added) if added and prompt.startswith(added, end) else 0
        return Prompt(_pieces(prompt, [(start, end)]), BY_RAW_RUN)
    if not chat:
        return Prompt([(USER, prompt)], BY_RAW_RUN)
    spans = _field_spans(prompt, doc)
    if spans and not user:
        return Prompt(_pieces(prompt, spans), BY_FIELDS)
    return Prompt([(PLAIN, prompt)], NOT_FOUND)


def _pieces(prompt: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces, at = [], 0
    for start, end in spans:
        pieces += [(TEMPLATE, prompt[at:start]), (USER, prompt[start:end])]
        at = end
    return [piece for piece in [*pieces, (TEMPLATE, prompt[at:])] if piece[1]]


def _field_spans(prompt: str, doc: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Where fields of the document stand, once each and not within another; sorted."""
    texts = [text.strip() for name in _FIELDS for text in _strings(doc.get(name))]
    spans: list[tuple[int, int]] = []
    for text in sorted(texts, key=len, reverse=True):
        start = prompt.find(text)
        if not text or start < 0 or prompt.count(text) != 1:
            continue
        if all(start >= end or start + len(text) <= begun for begun, end in spans):
            spans.append((start, start + len(text)))
    return sorted(spans)


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def shorten(pieces: Sequence[Piece], keep: Sequence[str] = ()) -> list[Piece]:
    """Pieces with the middle of long ones left out; a `CUT` piece says how many characters.

    Args:
        keep: texts (needle, references); around the first occurrence of one, some stays.
    """
    whole = "".join(text for _, text in pieces)
    return [
        (kind, f"{end - start:,} characters left out" if kind == CUT else whole[start:end])
        for kind, start, end in shortened(pieces, keep)
    ]


def shortened(pieces: Sequence[Piece], keep: Sequence[str] = ()) -> list[tuple[str, int, int]]:
    """Kind, start and end of what `shorten` gives, in characters of the joined pieces."""
    found, at = [], 0
    for piece in pieces:
        found += [(kind, at + start, at + end) for kind, start, end in _short(piece, keep)]
        at += len(piece[1])
    return found


def _short(piece: Piece, keep: Sequence[str]) -> list[tuple[str, int, int]]:
    kind, text = piece
    size = len(text)
    spans = [(0, min(_END, size)), *_kept(text, keep), (size - _END, size)]
    shown, at = [], 0
    for start, end in spans:
        # A cut shorter than the sentence about it saves nothing.
        if start > at + 60:
            shown += [(CUT, at, start)]
            at = start
        shown += [(kind, at, end)] if end > at else []
        at = max(at, end)
    return _joined(shown)


def _kept(text: str, keep: Sequence[str]) -> list[tuple[int, int]]:
    places = [(text.find(wanted), len(wanted)) for wanted in keep if wanted]
    spans = [
        (max(place - _AROUND, 0), min(place + min(length, _END) + _AROUND, len(text)))
        for place, length in places
        if place >= 0
    ]
    return sorted(spans)[:1]


def _joined(spans: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Neighbours of one kind as one span."""
    joined: list[tuple[str, int, int]] = []
    for kind, start, end in spans:
        if joined and joined[-1][0] == kind != CUT:
            joined[-1] = (kind, joined[-1][1], end)
        else:
            joined.append((kind, start, end))
    return joined
