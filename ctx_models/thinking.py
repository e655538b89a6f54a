"""Models that think before they answer: the thought by itself first, then the answer to it.

Stop strings end an answer, and inside a thought ". " or a line break would end it at its first
sentence. So there are two generations. The first has no stop string but the closing tag, and a
budget of its own (`think_tokens`). The second continues prompt, thought and tag, as any answer is
generated: the task's stop strings, the task's token limit, the task's response prefix in front.
A thought that does not close within its budget has no answer: it is empty and `unfinished`.

Divergences: blanks after the tag belong to the thought (an answer's leading blanks would meet the
stop strings); the first token after them is generated again, by greedy decoding the same one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from ctx_tasks.errors import UserError

# Blank tokens after the tag that are still looked at.
BLANKS = 8


@dataclass(frozen=True)
class Thinking:
    """How a model thinks.

    Attributes:
        tokenizer: of the model.
        tag: what ends a thought, a string or a token id.
        tokens: the longest thought, tag included.
    """

    tokenizer: Any
    tag: str | int
    tokens: int

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise UserError(f"think_tokens={self.tokens!r}: give a whole number above 0.")

    @property
    def longest_tag(self) -> int:
        """Tokens within which the tag and the blanks after it lie."""
        words = 1 if isinstance(self.tag, int) else len(self._encode(self.tag))
        return words + 2 + BLANKS

    def after(self, ids: Sequence[int]) -> str | None:
        """The text after the first tag; None without one."""
        if isinstance(self.tag, int):
            found = list(ids)
            return self._decode(found[found.index(self.tag) + 1 :]) if self.tag in found else None
        _, tag, rest = self._decode(ids).partition(self.tag)
        return rest if tag else None

    def closed(self, ids: Sequence[int]) -> int | None:
        """How many generated tokens are the thought, its tag and blanks; None if unclosed."""
        if self.after(ids) is None:
            return None
        places = range(1, len(ids) + 1)
        end = 1 + bisect_left(places, True, key=lambda n: self.after(ids[:n]) is not None)
        special = set(self.tokenizer.all_special_ids)
        while end < len(ids) and ids[end] not in special and not self._decode([ids[end]]).strip():
            end += 1
        return end

    def prefix(self, text: str) -> list[int]:
        """Tokens of a response prefix, which follows the thought."""
        return self._encode(text)

    def record(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {"think_end_token": self.tag, "think_tokens": self.tokens}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


class Closed(StoppingCriteria):
    """Ends each row once its thought is closed and something follows."""

    def __init__(self, thinking: Thinking, begin: int) -> None:
        self._thinking, self._begin = thinking, begin

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        # Only what was generated: a prompt may well mention the tag.
        rows = input_ids[:, self._begin :][:, -self._thinking.longest_tag :].tolist()
        ended = [bool((self._thinking.after(row) or "").strip()) for row in rows]
        return torch.tensor(ended, device=input_ids.device)


@dataclass(frozen=True)
class Continued:
    """Prompts with their thoughts, padded on the left: each [batch, tokens]."""

    ids: torch.Tensor
    mask: torch.Tensor
    user: torch.Tensor


def continued(
    prompts: Sequence[tuple[list[int], list[bool]]],
    thoughts: Sequence[list[int]],
    prefixes: Sequence[list[int]],
    *,
    pad: int,
    kept: bool,
) -> Continued:
    """Prompts followed by their closed thoughts and response prefixes.

    Args:
        prompts: tokens, and which of them are the user's.
        kept: whether thoughts keep their weight (`steer_generated` is false).
    """
    rows = [
        (ids + thought + prefix, user + [kept] * len(thought) + [False] * len(prefix))
        for (ids, user), thought, prefix in zip(prompts, thoughts, prefixes, strict=True)
    ]
    width = max(len(ids) for ids, _ in rows)
    padded = [(width - len(ids), ids, user) for ids, user in rows]
    return Continued(
        torch.tensor([[pad] * n + ids for n, ids, _ in padded]),
        torch.tensor([[0] * n + [1] * len(ids) for n, ids, _ in padded]),
        torch.tensor([[False] * n + user for n, _, user in padded]),
    )
