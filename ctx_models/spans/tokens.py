"""A rendered prompt as tokens, each with its segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctx_models.control_tokens import Content, Encoded, encode, overlapping
from ctx_models.indicator import Message
from ctx_tasks.arm import Turns
from ctx_tasks.errors import UserError

from .rendering import render
from .segments import Rendered, Segment, Segmented


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
    offsets = encoded.offsets.tolist()
    return Segmented(rendered.text, encoded.ids, segments, messages.tolist(), offsets)
