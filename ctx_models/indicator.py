"""The indicator token `[IND]`: put into a tokenizer, appended to user turns, checked.

Section 4 of arXiv 2411.02688: a token of its own at the end of every user instruction that depends
on the context. Training data and evaluation prompts both get it from `insert_indicator`, so they
cannot differ by a space.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

from ctx_tasks.arm import Turns
from ctx_tasks.errors import UserError

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
INDICATOR = "[IND]"


def add_indicator(tokenizer: Any, indicator: str = INDICATOR) -> int:
    """Make `indicator` one special token of `tokenizer` (in place) and return its id.

    Does nothing but look the id up where the token is there already. The model's embedding has to
    be resized by the caller. Raises UserError for an empty or space-padded indicator.
    """
    if not indicator or indicator != indicator.strip():
        raise UserError(
            f"indicator={indicator!r} cannot be a token: give a word without spaces around it, "
            f"such as {INDICATOR}."
        )
    if not _is_special(tokenizer, indicator):
        token = AddedToken(indicator, special=True, normalized=False)
        tokenizer.add_tokens([token], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(indicator))


def _is_special(tokenizer: Any, token: str) -> bool:
    known = tokenizer.added_tokens_decoder.values()
    return any(added.content == token and added.special for added in known)


def append_indicator(text: str, indicator: str = INDICATOR) -> str:
    """`text` with ` [IND]` after it; the indicator alone where the text is empty."""
    return f"{text} {indicator}" if text else indicator


def indicator_turns(messages: Sequence[Message], turns: Turns = "last") -> list[int]:
    """Indices of the user messages that carry the indicator: the last one, or all of them.

    Raises UserError for another value of `turns` and for a conversation without a user turn.
    """
    if turns not in ("last", "all"):
        raise UserError(f"indicator_turns={turns!r} is not known: write last or all.")
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    if not users:
        raise UserError(
            f"the indicator has no user turn to go to among {len(messages)} message(s): add a "
            "user message or run without the indicator."
        )
    return users if turns == "all" else users[-1:]


def insert_indicator(
    messages: Sequence[Message], indicator: str = INDICATOR, turns: Turns = "last"
) -> list[dict[str, Any]]:
    """A copy of `messages` with ` [IND]` appended to the last, or to every, user turn.

    Content that is a list of text parts gets it in its last part. The messages are not changed.
    """
    marked = [dict(message) for message in messages]
    for index in indicator_turns(messages, turns):
        marked[index]["content"] = _appended(marked[index]["content"], indicator)
    return marked


def _appended(content: Any, indicator: str) -> Any:
    if isinstance(content, str):
        return append_indicator(content, indicator)
    *before, last = content
    return [*before, {**last, "text": append_indicator(last["text"], indicator)}]


def check_indicator(tokenizer: Any, indicator: str = INDICATOR, strict: bool = True) -> None:
    """Refuse (or, where not `strict`, warn about) an indicator that is not a token of its own.

    Raises UserError: a tokenizer that cuts the indicator into pieces belongs to a model that never
    learned it.
    """
    pieces = tokenizer.tokenize(indicator)
    if pieces == [indicator] and indicator in tokenizer.get_added_vocab():
        return
    problem = f"indicator={indicator!r} is not one added token of this tokenizer but {pieces}"
    if strict:
        raise UserError(
            f"{problem}: use a checkpoint tuned with it (ctx-train sft adds it), or set "
            "indicator_strict=false to append it as plain text."
        )
    logger.warning("%s; it is appended as plain text.", problem)
