"""Prompts that remember what they were made of: the harness hands a model nothing but strings."""

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


class Conversation(str):
    """A prompt of the harness's own `hf` that remembers its messages (also when pickled).

    It is run as the string that it is; its segments are found when someone asks.
    """

    messages: list[dict[str, str]]
    add_generation_prompt: bool

    @classmethod
    def of(
        cls, text: str, messages: list[dict[str, str]], add_generation_prompt: bool
    ) -> Conversation:
        """`text`, which the chat template made of `messages`."""
        found = cls(text)
        found.messages, found.add_generation_prompt = messages, add_generation_prompt
        return found


def clipped(rendered: Rendered, length: int) -> Rendered:
    """The first `length` characters of `rendered`."""
    spans = [span._replace(end=min(span.end, length)) for span in rendered.spans]
    kept = tuple(span for span in spans if span.start < span.end)
    places = tuple(place for place in rendered.indicators if place[1] <= length)
    return replace(rendered, text=rendered.text[:length], spans=kept, indicators=places)
