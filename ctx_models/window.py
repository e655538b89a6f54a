"""Prompts that are longer than the window: what is done with them, and what a cut leaves.

The harness cuts the oldest tokens, and with them the beginning of the chat template (BOS, system,
the user marker): what is left is no chat prompt. `cut=frame` takes the tokens out of the middle of
what the user wrote instead, since instructions stand at its beginning and questions at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
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
    requests: Sequence[Any],
    excess: Sequence[int],
    overlength: Overlength,
    everyone: Callable[[list[Any]], list[Any]] = list,
) -> dict[int, int]:
    """The requests to leave out, by place, and how many tokens each has too many.

    Args:
        requests: the harness's, which know their task and document.
        excess: tokens that each has more than there is room for.
        everyone: joins the lists of all processes, which end alike or not at all.

    Raises:
        UserError: `overlength` is "refuse" and there is one, and it names the longest document;
            "skip" leaves a process nothing of a task of which another has something.
    """
    found = {place: tokens for place, tokens in enumerate(excess) if tokens > 0}
    asked = [requests[place] for place in found]
    long = everyone(
        [(n, one.doc_id, one.task_name) for n, one in zip(found.values(), asked, strict=True)]
    )
    every = sum(everyone([len(requests)]))
    if long and overlength == "refuse":
        tokens, document, task = max(long, key=lambda one: one[0])
        raise UserError(
            f"overlength=refuse: {len(long)} of {every} prompts do not fit; the longest, "
            f"document {document} of {task}, has {tokens} tokens too many. "
            "Raise max_length, or give overlength=mark or skip."
        )
    if long:
        _check_shares(everyone([_kept(requests, found)]))
        logger.warning(
            "overlength=skip: %d of %d prompts are too long and left out.", len(long), every
        )
    return found


def _kept(requests: Sequence[Any], found: Mapping[int, int]) -> dict[str, int]:
    """How many documents of each task are left."""
    lost = {(requests[place].task_name, requests[place].doc_id) for place in found}
    left = {(one.task_name, one.doc_id) for one in requests} - lost
    return {
        task: sum(task == one for one, _ in left) for task in {one.task_name for one in requests}
    }


def _check_shares(kept: Sequence[Mapping[str, int]]) -> None:
    """The harness joins the scores of all processes by name: none may have none."""
    for task in sorted({task for one in kept for task in one}):
        counts = [one.get(task, 0) for one in kept]
        if any(counts) and 0 in counts:
            raise UserError(
                f"overlength=skip leaves process {counts.index(0)} no document of {task}: start "
                "fewer processes, raise max_length, or give overlength=mark."
            )
