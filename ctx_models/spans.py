"""Which token of a prompt is user, assistant or system content, template, or special.

Two pure steps. `render` writes a conversation with the tokenizer's chat template and finds the
character range of every message's content in it; `tokenize` turns such a text into token ids with
one `Segment` each. `segment` is both.

**How content is found.** Searching for it fails on trimmed, repeated or quoted text. Here every
content is framed by private-use characters that occur in no message, the template is rendered with
them, and they are taken out again: what stood between them is content, wherever the template put
it. The result is kept only if it equals the unmarked render to the character. A template that
looks into the content (trims it, cuts at `</think>`) is met by framing the pieces around what it
looks for (`_TEXT_GAPS`); one that still renders differently is refused.

**Special-token strings in content stay text**: see `controls`. Without such strings the ids are
those of `tokenizer(text)`.

Divergence from the released code of arXiv 2411.02688: it searches the content in the rendered text
and marks one token too many after each turn; here a turn ends with its content.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

import jinja2
import numpy as np

from ctx_models.control_tokens import PRIVATE_USE, Content, Encoded, encode, overlapping
from ctx_models.indicator import Message, append_indicator, indicator_turns
from ctx_tasks.arm import Turns
from ctx_tasks.errors import UserError


class Segment(IntEnum):
    """What a token is; the values index the last axis of `segment_mass` and never change."""

    USER = 0
    ASSISTANT = 1
    SYSTEM = 2
    TEMPLATE = 3
    SPECIAL = 4


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
    """A prompt as tokens: three lists of equal length beside the text.

    `messages` has the index of the message a content token belongs to, -1 for other tokens.
    """

    text: str
    input_ids: list[int]
    segments: list[Segment]
    messages: list[int]


_SEGMENT_OF_ROLE = {
    "user": Segment.USER,
    "assistant": Segment.ASSISTANT,
    "system": Segment.SYSTEM,
    "developer": Segment.SYSTEM,
}


def segment(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    indicator: str | None = None,
    indicator_turns: Turns = "last",
) -> Segmented:
    """Render `messages` with the chat template and say for every token what it is.

    Special tokens are added as the harness does (see `tokenize`): one BOS where the tokenizer adds
    one, none where the template wrote it. Arguments and errors: `render`, `tokenize`.
    """
    rendered = render(
        tokenizer,
        messages,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        indicator=indicator,
        indicator_turns=indicator_turns,
    )
    return tokenize(tokenizer, rendered)


class _Field(NamedTuple):
    """One text of a message: its content, or one part of a content that is a list."""

    message: int
    part: int | None
    role: str
    text: str
    indicated: bool


class _Piece(NamedTuple):
    """Characters `start` to `end` of a field, framed by marks."""

    field: _Field
    start: int
    end: int


# What a template may cut away or look for in content, left outside the marks. Tried in this order
# until the marked render equals the plain one; the earlier, the less is left to recognise by
# comparison. The first two suit a whole role, since templates trim by role; the others (think tags,
# a tag at the start or the end, a switch of thinking) only the texts that need them.
# Runs of spaces are entered at their start only: from every position it would take n * n steps.
_ROLE_GAPS = (None, r"\A\s+|(?<!\s)\s+\Z")
_TEXT_GAPS = (
    *_ROLE_GAPS,
    r"\A\s+|(?<!\s)\s+\Z|</?think>",
    r"\A\s+|(?:(?<!\s)\s+)?</?think>\s*|(?<!\s)\s+\Z",
    r"\A\s*(?:<\w+>\s*)?|(?:(?<!\s)\s+)?(?:</\w+>\s*)?\Z",
    r"\A\s+|(?:(?<!\s)\s+)?(?<!<)/(?:no_)?think\b\s*|(?<!\s)\s+\Z",
)
_Gaps = Mapping[_Field, "str | None"]


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    indicator: str | None = None,
    indicator_turns: Turns = "last",
    template_args: Mapping[str, Any] | None = None,
) -> Rendered:
    """The text `tokenizer.apply_chat_template(..., tokenize=False)` writes, with content ranges.

    `messages` have `role` user, assistant, system or developer (counted as system) and `content`, a
    string or a list of text parts; other keys (reasoning, tool calls) reach the template and count
    as template, and so do messages of the role tool. With `continue_final_message` the last message
    is an open response prefix. With `indicator`, ` [IND]` is appended to the last, or every, user
    turn and counts as user text.
    `template_args` are further variables of the template. Whitespace at the edge of content that a
    template rewrites (trims and writes anew) counts as template.

    Raises UserError: no messages, no template, a template that refuses the conversation (the jinja
    error is its `__cause__`), content that is not text, or a template that drops the user's content
    or rewrites content beyond recognition.
    """
    _require_template(tokenizer)
    fields = _fields(messages, indicator, indicator_turns)
    draw = functools.partial(
        _draw,
        tokenizer,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        **(template_args or {}),
    )
    rendered = _found(draw, messages, fields, indicator or "")
    if indicator and not rendered.indicators:
        raise UserError(
            f"the chat template drops the indicator {indicator!r} from the user turn: use another "
            "template or run without the indicator."
        )
    _require_user(rendered, fields)
    return rendered


def raw(text: str, indicator: str | None = None) -> Rendered:
    """A prompt without chat template: all of it is user text, the indicator (if any) at its end."""
    if not indicator:
        return Rendered(text, (Span(0, len(text), Segment.USER, 0),))
    full = append_indicator(text, indicator)
    place = (len(full) - len(indicator), len(full))
    return Rendered(full, (Span(0, len(full), Segment.USER, 0),), (place,))


def with_response(rendered: Rendered, response: str) -> Rendered:
    """`rendered` with `response` after it as assistant content (a continuation to be scored)."""
    start = len(rendered.text)
    message = max((span.message for span in rendered.spans), default=-1) + 1
    span = Span(start, start + len(response), Segment.ASSISTANT, message)
    return replace(rendered, text=rendered.text + response, spans=(*rendered.spans, span))


def _require_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')!r} has no chat template: run "
            "without --apply_chat_template, or set tokenizer.chat_template to one."
        )


def _require_user(rendered: Rendered, fields: Sequence[_Field]) -> None:
    said = [field for field in fields if field.role == "user" and field.text.strip()]
    if said and all(span.segment is not Segment.USER for span in rendered.spans):
        form = (
            'a list of {"type": "text", "text": ...} parts' if said[0].part is None else "strings"
        )
        raise UserError(
            f"the chat template writes nothing of the user's content, {said[0].text[:40]!r}: "
            f"perhaps it reads {form} only, so give the content so, or use another template."
        )


def _fields(messages: Sequence[Message], indicator: str | None, turns: Turns) -> list[_Field]:
    """Every text of the conversation, in order; the last one of an indicated turn is flagged."""
    if not messages:
        raise UserError('there are no messages: give at least one {"role": ..., "content": ...}.')
    indicated = set(indicator_turns(messages, turns)) if indicator else set()
    fields: list[_Field] = []
    for index, message in enumerate(messages):
        texts = list(_texts(index, message))
        for part, text in texts:
            last = (part, text) == texts[-1]
            fields.append(_Field(index, part, message["role"], text, last and index in indicated))
    return fields


def _texts(index: int, message: Message) -> Iterator[tuple[int | None, str]]:
    role, content = message.get("role"), message.get("content")
    if role == "tool" or (content is None and message.get("tool_calls")):
        return
    if role not in _SEGMENT_OF_ROLE:
        raise UserError(
            f"message {index} has the role {role!r}: use {', '.join(_SEGMENT_OF_ROLE)}, tool."
        )
    if isinstance(content, str):
        yield None, content
        return
    if not isinstance(content, list) or not content:
        raise UserError(
            f"message {index} has a content of type {type(content).__name__}: give a string, or a "
            'list of {"type": "text", "text": ...} parts.'
        )
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise UserError(
                f"message {index}, part {number} is not text: only text can be segmented, so "
                'give {"type": "text", "text": ...} parts.'
            )
        yield number, part["text"]


def _draw(tokenizer: Any, messages: list[dict[str, Any]], **arguments: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **arguments))
    except jinja2.TemplateError as error:
        raise UserError(
            f"the chat template refuses this conversation of {len(messages)} message(s) with "
            f"roles {[message['role'] for message in messages]}: {error}; change the messages or "
            "use another template."
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the chat template cannot render this conversation of {len(messages)} message(s): "
            f"{str(error).splitlines()[0]}; change the messages or use another template."
        ) from error


_Draw = Callable[[list[dict[str, Any]]], str]
_Attempt = Callable[[_Gaps], "Rendered | None"]


class _Rewritten(UserError):
    """A template that changes content beyond recognition, or seems to."""

    def __init__(self, roles: str) -> None:
        super().__init__(
            f"the chat template rewrites the {roles} content, so its tokens cannot be told from "
            "the template's: use a template that writes content as it is, or run without "
            "--apply_chat_template."
        )


def _found(
    draw: _Draw, messages: Sequence[Message], fields: Sequence[_Field], indicator: str
) -> Rendered:
    """The rendering with its content; once more where the template's clock has moved meanwhile."""
    write = functools.partial(_plain, indicator=indicator)
    for _ in range(2):
        plain = draw(_filled(messages, fields, write))
        attempt = functools.partial(_attempt, draw, messages, fields, indicator, plain)
        try:
            return _search(attempt, fields)
        except _Rewritten:
            if draw(_filled(messages, fields, write)) == plain:
                raise
    raise UserError(
        "the chat template writes another text each time, as with a clock (strftime_now) of "
        "fractions of a second, so its content cannot be found by comparison: take that out of "
        "the template."
    )


def _plain(field: _Field, indicator: str) -> str:
    return append_indicator(field.text, indicator) if field.indicated else field.text


def _search(attempt: _Attempt, fields: Sequence[_Field]) -> Rendered:
    """The first choice of gaps under which the marks change nothing, role by role."""
    whole = attempt(dict.fromkeys(fields))
    if whole is not None:
        return whole
    chosen: dict[_Field, str | None] = {}
    for role in dict.fromkeys(field.role for field in fields):
        chosen |= _role_gaps(attempt, [field for field in fields if field.role == role])
    rendered = attempt(chosen)
    if rendered is None:
        raise _Rewritten(" and ".join(dict.fromkeys(field.role for field in fields)))
    return rendered


def _role_gaps(attempt: _Attempt, fields: Sequence[_Field]) -> dict[_Field, str | None]:
    """Gaps for the texts of one role, the others unmarked: one for all, or one for each kind."""
    for gap in _ROLE_GAPS:
        if attempt(dict.fromkeys(fields, gap)) is not None:
            return dict.fromkeys(fields, gap)
    kinds: dict[tuple[bool, ...], list[_Field]] = {}
    for field in fields:
        # Templates often treat the last turn otherwise.
        kind = (field is fields[-1], *(bool(_matches(gap, field.text)) for gap in _TEXT_GAPS))
        kinds.setdefault(kind, []).append(field)
    gaps = [_text_gaps(attempt, alike) for alike in kinds.values()]
    return {field: gap for found in gaps for field, gap in found.items()}


def _text_gaps(attempt: _Attempt, fields: Sequence[_Field]) -> dict[_Field, str | None]:
    """The first gap that suits texts which look alike; for each half, where none suits all.

    A conversation of many turns takes as many renderings as one of few.
    """
    for gap in _TEXT_GAPS:
        if attempt(dict.fromkeys(fields, gap)) is not None:
            return dict.fromkeys(fields, gap)
    if len(fields) == 1:
        raise _Rewritten(fields[0].role)
    middle = len(fields) // 2
    return {**_text_gaps(attempt, fields[:middle]), **_text_gaps(attempt, fields[middle:])}


def _attempt(
    draw: _Draw,
    messages: Sequence[Message],
    fields: Sequence[_Field],
    indicator: str,
    plain: str,
    gaps: _Gaps,
) -> Rendered | None:
    """Render with marks on the texts in `gaps`; None where that changes more than the marks."""
    marks = _Marks(fields, indicator)
    try:
        marked = draw(_filled(messages, fields, lambda field: marks.frame(field, gaps)))
    except UserError:
        return None
    rendered = marks.read(marked)
    return rendered if rendered is not None and rendered.text == plain else None


def _filled(
    messages: Sequence[Message], fields: Sequence[_Field], write: Callable[[_Field], str]
) -> list[dict[str, Any]]:
    """A copy of the messages with `write(field)` in place of each text."""
    filled = [dict(message) for message in messages]
    for field in fields:
        if field.part is None:
            filled[field.message]["content"] = write(field)
        else:
            parts = list(filled[field.message]["content"])
            parts[field.part] = {**parts[field.part], "text": write(field)}
            filled[field.message]["content"] = parts
    return filled


class _Marks:
    """Private-use characters that no message contains, and what each stands for."""

    def __init__(self, fields: Sequence[_Field], indicator: str) -> None:
        used = {char for field in fields for char in PRIVATE_USE.findall(field.text)}
        self._free = (chr(code) for code in range(0xF0000, 0x10FFFE) if chr(code) not in used)
        self._indicator = indicator
        self._indicator_open, self._indicator_close = next(self._free), next(self._free)
        self._opens: dict[str, _Piece] = {}
        self._closes: dict[str, _Piece] = {}

    def frame(self, field: _Field, gaps: _Gaps) -> str:
        """The field with every stretch between gaps in marks of its own."""
        if field not in gaps:
            return _plain(field, self._indicator)
        # One character for the indicator, so that no gap pattern can match in or before it.
        token = self._indicator_open
        text = append_indicator(field.text, token) if field.indicated else field.text
        ends = [(0, 0), *_matches(gaps[field], text), (len(text), len(text))]
        framed = ""
        for (_, start), (end, following) in itertools.pairwise(ends):
            framed += self._framed(field, text, start, end) + text[end:following]
        return framed.replace(token, token + self._indicator + self._indicator_close)

    def _framed(self, field: _Field, text: str, start: int, end: int) -> str:
        if start == end:
            return ""
        opening, closing = next(self._free, ""), next(self._free, "")
        if not closing:
            raise _Rewritten(field.role)
        self._opens[opening] = self._closes[closing] = _Piece(field, start, end)
        return opening + text[start:end] + closing

    def read(self, marked: str) -> Rendered | None:
        """Take the marks out; None where a pair of marks is torn or two pairs overlap."""
        marks = {self._indicator_open, self._indicator_close, *self._opens, *self._closes}
        places = [match for match in PRIVATE_USE.finditer(marked) if match.group() in marks]
        found: list[tuple[_Piece, int, int]] = []
        indicators: list[tuple[int, int]] = []
        current: _Piece | None = None
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


def _matches(pattern: str | None, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(pattern, text)] if pattern else []


def _joined(text: str, found: Sequence[tuple[_Piece, int, int]]) -> Iterator[Span]:
    """Spans of the pieces; pieces with the same text between them as in the content are one.

    A tag before the first or after the last piece belongs to the content where the template wrote
    it there too. Whitespace alone does not: the template may have written its own.
    """
    pending: tuple[_Piece, int, int] | None = None
    floor = 0
    for piece, start, end in found:
        if pending is not None and _adjacent(text, pending, (piece, start)):
            pending = (_Piece(piece.field, pending[0].start, piece.end), pending[1], end)
            continue
        if pending is not None:
            span = _span(text, pending, floor, start)
            floor = span.end
            yield span
        pending = (piece, start, end)
    if pending is not None:
        yield _span(text, pending, floor, len(text))


def _adjacent(text: str, before: tuple[_Piece, int, int], after: tuple[_Piece, int]) -> bool:
    piece, _, end = before
    following, start = after
    gap = following.field.text[piece.end : following.start]
    return (
        piece.field is following.field and piece.end <= following.start and (text[end:start] == gap)
    )


def _span(text: str, piece: tuple[_Piece, int, int], floor: int, ceiling: int) -> Span:
    (field, source_start, source_end), start, end = piece
    before, after = field.text[:source_start], field.text[source_end:]
    if before.strip() and text[floor:start].endswith(before):
        start -= len(before)
    if after.strip() and text[end:ceiling].startswith(after):
        end += len(after)
    return Span(start, end, _SEGMENT_OF_ROLE[field.role], field.message)


def tokenize(
    tokenizer: Any, rendered: Rendered, *, add_special_tokens: bool | None = None
) -> Segmented:
    """Token ids of a rendered prompt and the segment of each.

    The ids equal `tokenizer(text)` unless a content contains a control token's string, which then
    stays text. A token that holds characters of both template and content is content. SPECIAL are
    control tokens written by the template or added by the tokenizer; the indicator is USER.

    `add_special_tokens` as the harness: where the template wrote BOS none is added; otherwise the
    value given, None meaning the tokenizer's own default.

    Raises UserError: a slow tokenizer (no character offsets), or text that is not valid Unicode.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer without character offsets, so its "
            "tokens cannot be assigned to turns: convert it to a fast one (tokenizer.json)."
        )
    _require_unicode(rendered.text)
    bos = getattr(tokenizer, "bos_token", None)
    if bos and rendered.text.startswith(bos) and not _is_content(rendered, 0):
        add_special_tokens = False
    encoded = encode(
        tokenizer,
        rendered.text,
        [Content(s.start, s.end, s.segment is Segment.ASSISTANT) for s in rendered.spans],
        rendered.indicators,
        add_special_tokens is not False,
    )
    return _assigned(rendered, encoded)


def _require_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the prompt has half a character (a lone surrogate, {text[error.start]!r}) at "
            f"position {error.start}: repair the text, for example with errors='replace'."
        ) from error


def _is_content(rendered: Rendered, position: int) -> bool:
    return any(span.start <= position < span.end for span in rendered.spans)


def _assigned(rendered: Rendered, encoded: Encoded) -> Segmented:
    number = overlapping(encoded.offsets, rendered.spans)
    number[encoded.special] = -1
    # One more row for the tokens outside every span, found by the index -1.
    kinds = np.array([*(span.segment for span in rendered.spans), Segment.TEMPLATE])[number]
    messages = np.array([*(span.message for span in rendered.spans), -1])[number]
    kinds[encoded.special] = Segment.SPECIAL
    known = list(Segment)
    segments = [known[kind] for kind in kinds.tolist()]
    return Segmented(rendered.text, encoded.ids, segments, messages.tolist())
