"""A rendered prompt that remembers its segments: the harness hands a model nothing but strings."""

from __future__ import annotations

from dataclasses import replace

from .spans import Rendered


class PromptText(str):
    """A rendered prompt that remembers its segments (and keeps them when pickled)."""

    rendered: Rendered
    prefix: str

    @classmethod
    def of(cls, rendered: Rendered, prefix: str = "") -> PromptText:
        """The text of `rendered`, carrying it along.

        `prefix` begins the answer, but after a thought: it is no part of the text.
        """
        text = cls(rendered.text)
        text.rendered, text.prefix = rendered, prefix
        return text


def clipped(rendered: Rendered, length: int) -> Rendered:
    """The first `length` characters of `rendered`."""
    spans = [span._replace(end=min(span.end, length)) for span in rendered.spans]
    kept = tuple(span for span in spans if span.start < span.end)
    places = tuple(place for place in rendered.indicators if place[1] <= length)
    return replace(rendered, text=rendered.text[:length], spans=kept, indicators=places)
