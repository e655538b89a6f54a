"""Logits of the tokens that a log-likelihood reads, and not of the whole prompt before them.

They are a product with the vocabulary, and a softmax over it, for each token. Only steered batches
leave them out: a product of fewer rows may be rounded otherwise, and without steering
log-likelihoods are `hf`'s to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .decoding import forward_arguments

_NAME = "logits_to_keep"


def needed(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], window: int) -> int:
    """How many of the last columns of a batch hold all its continuations.

    Args:
        pairs: token ids of context and continuation of each row; rows are padded on the right, and
            neither run their last token nor what lies before the window.
    """
    lengths = [min(len(context) + len(behind) - 1, window) for context, behind in pairs]
    first = min(length - len(pair[1]) for length, pair in zip(lengths, pairs, strict=True))
    return max(lengths) - max(0, first)


@contextmanager
def only(model: Any, last: int) -> Iterator[None]:
    """Inside, the model gives the logits of so many last columns, if it can leave out others."""
    if _NAME not in forward_arguments(model):
        yield
        return
    hook = model.register_forward_pre_hook(
        lambda _, given, named: (given, {**named, _NAME: last}), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()
