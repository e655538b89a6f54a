"""A mask that knows its text: what a model hands from transformers' mask function to attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ctx_tasks.errors import UserError


@dataclass
class Keys:
    """Flags of the keys one attention call sees, each bool [batch, keys]."""

    outside: torch.Tensor | None
    padded: torch.Tensor | None


@dataclass(eq=False)
class Text:
    """The text that one mask was made for, and which of its keys a query sees.

    Args:
        model: the model type, for messages.
        queries: rows of the mask, the last tokens of the text.
        total: tokens of the text, cached ones included.
        keys, first_key: how many keys the mask has, and which token the first one is.
        attention_mask: bool [batch, tokens], False on padding; None where nothing is padded.
        function: transformers' rule `(batch, head, query, key) -> visible` of indices; None where
            every query sees all keys up to its own.
        explicit: whether the marker holds the rule's result instead of its query indices.
    """

    model: str
    queries: int
    total: int
    keys: int
    first_key: int
    attention_mask: torch.Tensor | None
    function: Callable[..., Any] | None
    explicit: bool = False
    row: torch.Tensor | None = None  # what the one query of a decode step sees, for all layers
    flags: dict[tuple[int, torch.device], Keys] = field(default_factory=dict)


# What code between a mask and the attention may do with it: look at it, move it, take rows of it.
_LOOKS = {torch.Tensor.size, torch.Tensor.dim, torch.Tensor.__repr__, torch.Tensor.__len__}
_KEEPS = {torch.Tensor.__getitem__, torch.Tensor.to}


class Marker(torch.Tensor):
    """A mask by its rule, [batch, 1, queries, keys]: each entry is the index of its query token.

    Rows may be sliced away (Gemma-4 does) and still know where they stand. What a model computes
    from it is meaningless, so every other use of it raises UserError.
    """

    text: Text

    @classmethod
    def of(cls, content: torch.Tensor, text: Text) -> Marker:
        """`content` as a marker of `text`."""
        marker = content.as_subclass(cls)
        marker.text = text
        return marker

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what leaves the marker a marker; refuse the rest."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in _LOOKS or func.__name__ == "__get__":
                return func(*args, **(kwargs or {}))
            result = func(*args, **(kwargs or {})) if func in _KEEPS else None
        if result is None or result.dtype != args[0].dtype:
            marker = next(part for part in args if isinstance(part, cls))
            raise unreachable(
                marker.text.model,
                f"it computes with its attention mask ({func.__name__}) before it attends",
            )
        return cls.of(result, args[0].text)

    def last_rows(self, count: int) -> Marker:
        """The marker of the last `count` queries."""
        return Marker.of(self.plain[:, :, -count:], self.text)

    @property
    def plain(self) -> torch.Tensor:
        """The entries as an ordinary tensor."""
        return self.as_subclass(torch.Tensor)


def unreachable(model: str, reason: str) -> UserError:
    """The refusal of a model by name."""
    return UserError(
        f"Attention of {model} cannot be steered or measured because {reason}; use alpha=1 or a "
        "decoder whose layers all have attention."
    )
