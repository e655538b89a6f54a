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

**Special-token strings in content stay text**: see `control_tokens`. Without such strings the ids
are those of `tokenizer(text)`.

Divergence from the released code of arXiv 2411.02688: it searches the content in the rendered text
and marks one token too many after each turn; here a turn ends with its content.
"""

from __future__ import annotations

from .rendering import raw, render, with_response
from .segments import Rendered, Segment, Segmented, Span
from .tokens import segment, tokenize

__all__ = [
    "Rendered",
    "Segment",
    "Segmented",
    "Span",
    "raw",
    "render",
    "segment",
    "tokenize",
    "with_response",
]
