"""A sentence as a remedy: "Answer from the passage only." put into the prompt, nothing else done.

What steering and `[IND]` must be seen to beat. In the user turn it stands on a line of its own
after the last user message (and before an indicator) and is user text: steering leaves its weight
alone. In the system turn it ends the system message, or is one, and is weighed down as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctx_models.indicator import Message, indicator_turns
from ctx_tasks.prompts import WithoutIndicator


def insert_instruction(
    messages: Sequence[Message], instruction: str, turn: str
) -> list[dict[str, Any]]:
    """A copy of `messages` with the instruction in the last user turn, or in the system turn.

    Raises:
        UserError: a conversation without a user turn.
    """
    told = [dict(message) for message in messages]
    if turn == "user":
        [place] = indicator_turns(told, "last")
    elif told and told[0]["role"] == "system":
        place = 0
    else:
        return [{"role": "system", "content": instruction}, *told]
    content = told[place]["content"]
    # A task's wish to have no indicator is the type of its text.
    kind = WithoutIndicator if isinstance(content, WithoutIndicator) else str
    told[place]["content"] = kind(f"{content}\n{instruction}")
    return told
