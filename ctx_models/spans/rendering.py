"""A conversation written by a chat template, with the place of every content in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2

from ctx_models.indicator import Message, append_indicator, indicator_turns
from ctx_tasks.arm import Turns
from ctx_tasks.errors import UserError

from .marks import Field, Gaps, Marks, Rewritten, matches, plain_text
from .segments import SEGMENT_OF_ROLE, Rendered, Segment, Span

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


def _require_user(rendered: Rendered, fields: Sequence[Field]) -> None:
    said = [field for field in fields if field.role == "user" and field.text.strip()]
    if said and all(span.segment is not Segment.USER for span in rendered.spans):
        form = (
            'a list of {"type": "text", "text": ...} parts' if said[0].part is None else "strings"
        )
        raise UserError(
            f"the chat template writes nothing of the user's content, {said[0].text[:40]!r}: "
            f"perhaps it reads {form} only, so give the content so, or use another template."
        )


def _fields(messages: Sequence[Message], indicator: str | None, turns: Turns) -> list[Field]:
    """Every text of the conversation, in order; the last one of an indicated turn is flagged."""
    if not messages:
        raise UserError('there are no messages: give at least one {"role": ..., "content": ...}.')
    indicated = set(indicator_turns(messages, turns)) if indicator else set()
    fields: list[Field] = []
    for index, message in enumerate(messages):
        texts = list(_texts(index, message))
        for part, text in texts:
            last = (part, text) == texts[-1]
            fields.append(Field(index, part, message["role"], text, last and index in indicated))
    return fields


def _texts(index: int, message: Message) -> Iterator[tuple[int | None, str]]:
    role, content = message.get("role"), message.get("content")
    if role == "tool" or (content is None and message.get("tool_calls")):
        return
    if role not in SEGMENT_OF_ROLE:
        raise UserError(
            f"message {index} has the role {role!r}: use {', '.join(SEGMENT_OF_ROLE)}, tool."
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


_Attempt = Callable[[Gaps], "Rendered | None"]


def _found(
    draw: _Draw, messages: Sequence[Message], fields: Sequence[Field], indicator: str
) -> Rendered:
    """The rendering with its content; once more where the template's clock has moved meanwhile."""
    write = functools.partial(plain_text, indicator=indicator)
    for _ in range(2):
        plain = draw(_filled(messages, fields, write))
        attempt = functools.partial(_attempt, draw, messages, fields, indicator, plain)
        try:
            return _search(attempt, fields)
        except Rewritten:
            if draw(_filled(messages, fields, write)) == plain:
                raise
    raise UserError(
        "the chat template writes another text each time, as with a clock (strftime_now) of "
        "fractions of a second, so its content cannot be found by comparison: take that out of "
        "the template."
    )


def _search(attempt: _Attempt, fields: Sequence[Field]) -> Rendered:
    """The first choice of gaps under which the marks change nothing, role by role."""
    whole = attempt(dict.fromkeys(fields))
    if whole is not None:
        return whole
    chosen: dict[Field, str | None] = {}
    for role in dict.fromkeys(field.role for field in fields):
        chosen |= _role_gaps(attempt, [field for field in fields if field.role == role])
    rendered = attempt(chosen)
    if rendered is None:
        raise Rewritten(" and ".join(dict.fromkeys(field.role for field in fields)))
    return rendered


def _role_gaps(attempt: _Attempt, fields: Sequence[Field]) -> dict[Field, str | None]:
    """Gaps for the texts of one role, the others unmarked: one for all, or one for each kind."""
    for gap in _ROLE_GAPS:
        if attempt(dict.fromkeys(fields, gap)) is not None:
            return dict.fromkeys(fields, gap)
    kinds: dict[tuple[bool, ...], list[Field]] = {}
    for field in fields:
        # Templates often treat the last turn otherwise.
        kind = (field is fields[-1], *(bool(matches(gap, field.text)) for gap in _TEXT_GAPS))
        kinds.setdefault(kind, []).append(field)
    gaps = [_text_gaps(attempt, alike) for alike in kinds.values()]
    return {field: gap for found in gaps for field, gap in found.items()}


def _text_gaps(attempt: _Attempt, fields: Sequence[Field]) -> dict[Field, str | None]:
    """The first gap that suits texts which look alike; for each half, where none suits all.

    A conversation of many turns takes as many renderings as one of few.
    """
    for gap in _TEXT_GAPS:
        if attempt(dict.fromkeys(fields, gap)) is not None:
            return dict.fromkeys(fields, gap)
    if len(fields) == 1:
        raise Rewritten(fields[0].role)
    middle = len(fields) // 2
    return {**_text_gaps(attempt, fields[:middle]), **_text_gaps(attempt, fields[middle:])}


def _attempt(
    draw: _Draw,
    messages: Sequence[Message],
    fields: Sequence[Field],
    indicator: str,
    plain: str,
    gaps: Gaps,
) -> Rendered | None:
    """Render with marks on the texts in `gaps`; None where that changes more than the marks."""
    marks = Marks(fields, indicator)
    try:
        marked = draw(_filled(messages, fields, lambda field: marks.frame(field, gaps)))
    except UserError:
        return None
    rendered = marks.read(marked)
    return rendered if rendered is not None and rendered.text == plain else None


def _filled(
    messages: Sequence[Message], fields: Sequence[Field], write: Callable[[Field], str]
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
