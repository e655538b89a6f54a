"""Prompts that are longer than the window: what is done with them, and what a cut leaves.

The harness cuts the oldest tokens, and with them the beginning of the chat template (BOS, system,
the user marker): what is left is no chat prompt. `cut=frame` takes the tokens out of the middle of
what the user wrote instead, since instructions stand at its beginning and questions at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

from ctx_tasks.errors import UserError

from .spans import Segment, Segmented

logger = logging.getLogger(__name__)

Overlength = Literal["mark", "skip", "refuse"]
Cut = Literal["left", "frame"]


def read_overlength(value: Any) -> Overlength:
    """Check the model argument `overlength`; a `UserError` says what it may be."""
    _check("overlength", value, get_args(Overlength))
    found: Overlength = value
    return found


def read_cut(value: Any) -> Cut:
    """Check the model argument `cut`; a `UserError` says what it may be."""
    _check("cut", value, get_args(Cut))
    found: Cut = value
    return found


def _check(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}={value!r}: choose {' or '.join(allowed)}.")


def shortened(tokens: Segmented, limit: int, cut: Cut) -> tuple[list[int], list[Segment]]:
    """Ids and segments of the tokens of a prompt that are left within `limit`.

    Raises:
        UserError: `cut` is "frame", and the frame alone is longer.
    """
    excess = len(tokens.input_ids) - limit
    if excess <= 0:
        return tokens.input_ids, tokens.segments
    if cut == "left":
        return tokens.input_ids[excess:], tokens.segments[excess:]
    kept = frame(tokens.segments, limit)
    return [tokens.input_ids[place] for place in kept], [tokens.segments[place] for place in kept]


def frame(segments: Sequence[Segment], limit: int) -> list[int]:
    """Places of the tokens left when the middle of the user's is taken out.

    Raises:
        UserError: all but the user's tokens are more than `limit`.
    """
    user = [place for place, segment in enumerate(segments) if segment == Segment.USER]
    excess = len(segments) - limit
    if excess > len(user):
        raise UserError(
            f"cut=frame keeps all but the user's text, {len(segments) - len(user)} tokens, but "
            f"there is room for {limit}: raise max_length, or leave cut out."
        )
    first = (len(user) - excess) // 2
    lost = set(user[first : first + excess])
    return [place for place in range(len(segments)) if place not in lost]


def overlong(
    requests: Sequence[Any], excess: Sequence[int], overlength: Overlength
) -> dict[int, int]:
    """The requests to leave out, by place, and how many tokens each has too many.

    Args:
        requests: the harness's, which know their task and document.
        excess: tokens that each has more than there is room for.

    Raises:
        UserError: `overlength` is "refuse" and there is one; names the longest document.
    """
    found = {place: tokens for place, tokens in enumerate(excess) if tokens > 0}
    if found and overlength == "refuse":
        longest = max(found, key=found.__getitem__)
        one = requests[longest]
        raise UserError(
            f"overlength=refuse: {len(found)} of {len(requests)} prompts do not fit; the longest, "
            f"document {one.doc_id} of {one.task_name}, has {found[longest]} tokens too many. "
            "Raise max_length, or give overlength=mark or skip."
        )
    if found:
        logger.warning(
            "overlength=skip: %d of %d prompts are too long and left out.",
            *(len(found), len(requests)),
        )
    return found
