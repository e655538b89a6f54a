"""Conversations -> token ids and labels, for any chat template.

The labels come from `ctx_models.segment`, not from `{% generation %}` marks in the template (which
TRL's `assistant_only_loss` needs, and which fail quietly where they are missing). The ids are those
the harness feeds the model for the same conversation. Special-token strings inside a message stay
text; the indicator that `ctx-train select` appended to a user turn becomes its one token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctx_models.spans import Rendered, Segment, Segmented, render, tokenize

IGNORED = -100


def example(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    indicator: str | None = None,
    assistant_only: bool = False,
) -> dict[str, list[int]]:
    """One conversation as `input_ids` and `labels`, two lists of the same length.

    With `assistant_only` the loss is on assistant content and the special token that closes the
    turn; otherwise on every token, user turns included, as the paper's released code has it.

    Raises:
        UserError: a conversation the template refuses or rewrites, see `ctx_models.spans.render`.
    """
    rendered = render(tokenizer, messages)
    if indicator is not None:
        places = tuple(_indicator_places(rendered, messages, indicator))
        rendered = dataclasses.replace(rendered, indicators=places)
    segmented = tokenize(tokenizer, rendered)
    ids = segmented.input_ids
    if not assistant_only:
        return {"input_ids": ids, "labels": list(ids)}
    mask = assistant_mask(segmented)
    labels = [token if kept else IGNORED for token, kept in zip(ids, mask, strict=True)]
    return {"input_ids": ids, "labels": labels}


def assistant_mask(segmented: Segmented) -> list[bool]:
    """For each token: assistant content, or the special token right after it (the end of turn)."""
    segments = segmented.segments
    before = [None, *segments[:-1]]
    return [
        segment is Segment.ASSISTANT
        or (segment is Segment.SPECIAL and previous is Segment.ASSISTANT)
        for segment, previous in zip(segments, before, strict=True)
    ]


def _indicator_places(
    rendered: Rendered, messages: Sequence[Mapping[str, Any]], indicator: str
) -> Iterator[tuple[int, int]]:
    """Ranges of the indicators that end a user turn (the last span of a message ends it)."""
    ends = {span.message: span.end for span in rendered.spans if span.segment is Segment.USER}
    for message, end in ends.items():
        content = messages[message]["content"]
        marked = isinstance(content, str) and _is_marked(content, indicator)
        if marked and rendered.text[:end].endswith(indicator):
            yield end - len(indicator), end


def _is_marked(content: str, indicator: str) -> bool:
    return content == indicator or content.endswith(f" {indicator}")
