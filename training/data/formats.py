"""Raw rows of the public chat formats -> messages of `user`, `assistant` and `system`.

| format | columns |
|---|---|
| messages | `messages`, or `conversations` with `role` and `content` |
| sharegpt | `conversations`: turns of `from` and `value` |
| pairs | `instruction`, `input`, `output` (Alpaca with `history`, WizardLM); `instruction`, |
|       | `context`, `response` (Dolly) |
| tree | `prompt` with `replies` (OpenAssistant's trees): the best ranked reply at every turn |

Each may have a column `system`.
Turns may be a list, columns of lists, or JSON in a string; a content may be a list of text parts.

Nothing that a row says is lost without a word. What changes the meaning of a conversation is read,
or the row is refused with the name of what cannot be: a role such as `tool`, filled `tools` or
`images`, an answer with `weight: 0` or `label: false`. Of the other columns nothing is read, and
`Conversation.unread` names them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
Messages = list[Message]

_USERS = ("user", "human", "prompter", "question")
_ASSISTANTS = ("assistant", "gpt", "chatgpt", "bard", "bing", "claude", "model", "bot", "answer")
_ROLES = {
    **dict.fromkeys(_USERS, "user"),
    **dict.fromkeys(_ASSISTANTS, "assistant"),
    "system": "system",
}
_IDS = ("id", "prompt_id", "message_tree_id")
_TURNS = ("messages", "conversations", "conversation")
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_SYSTEM = ("system", "system_prompt")
# A conversation that has these, filled, is another one without them.
_REFUSED = (
    *("tools", "functions", "tool_calls", "function_call", "tool_call_id"),
    *("image", "images", "video", "videos", "audio", "audios"),
    *("reasoning_content", "thinking"),
)
_REJECTIONS = ("label", "kto_tag")
_NOTHING: tuple[Any, ...] = (None, "", "[]", "{}", [], {})
_SHOWN = 40


class MalformedRow(ValueError):
    """A row that holds no conversation we can read; the text says why."""


@dataclass(frozen=True)
class Conversation:
    """One raw conversation: its id, its messages, and the format (see `FORMATS`) it came in.

    `unread` are the filled columns of the row, and keys of its turns, that are not in the messages.
    """

    id: str
    format: str
    messages: Messages
    unread: tuple[str, ...] = ()


def detect_format(row: Mapping[str, Any]) -> str | None:
    """`messages`, `sharegpt`, `pairs` or `tree` by the columns of `row`; None if it has none."""
    return next((name for name, found in FORMATS.items() if found(row)), None)


FORMATS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "tree": lambda row: isinstance(row.get("prompt"), dict),
    "sharegpt": lambda row: any(name in row for name in _TURNS) and _has_from(row),
    "messages": lambda row: any(name in row for name in _TURNS),
    "pairs": lambda row: bool(_instructions(row)) and _answer(row) is not None,
}


def to_conversation(row: Mapping[str, Any], index: int) -> Conversation:
    """The conversation of one row; a row without an id is called `row-INDEX`.

    Raises MalformedRow.
    """
    found = detect_format(row)
    if found is None:
        raise MalformedRow(_without_format(row))
    _refuse(row, "column")
    messages, read, unread = _READERS[found](row)
    _refuse_rejected(row)
    system, *_ = [name for name in _SYSTEM if _filled(row, name)] or [""]
    if system:
        messages = _with_system(messages, _text(row[system]), system)
    said = {*_IDS, *read, *_SYSTEM, *_REJECTIONS}
    contents = {message["content"] for message in messages}
    unread += tuple(
        str(name)
        for name in row
        if name not in said and _filled(row, name) and not _is_said(row[name], contents)
    )
    return Conversation(identity(row, index), found, messages, tuple(dict.fromkeys(unread)))


def identity(row: Mapping[str, Any], index: int) -> str:
    """What the row calls itself, or `row-INDEX`."""
    names = (row[key] for key in _IDS if row.get(key) is not None)
    return str(next(names, f"row-{index}"))


Reading = tuple[Messages, tuple[str, ...], tuple[str, ...]]  # messages, columns read, unread


def _read_turns(row: Mapping[str, Any]) -> Reading:
    column = _turn_column(row)
    turns = _turn_list(row[column], column)
    unread = (
        f"{column}.{key}"
        for turn in turns
        for key in turn
        if key not in (*_ROLE_KEYS, *_CONTENT_KEYS, "weight", "id") and _filled(turn, key)
    )
    return [_turn(turn) for turn in turns], (column,), tuple(dict.fromkeys(unread))


def _read_pair(row: Mapping[str, Any]) -> Reading:
    instructions, answer = _instructions(row), str(_answer(row))
    asked = "\n".join(part for part in (_text(row[name]) for name in instructions) if part)
    last = [_message("user", asked), _message("assistant", row[answer])]
    return [*_history(row.get("history")), *last], (*instructions, answer, "history"), ()


def _read_tree(row: Mapping[str, Any]) -> Reading:
    """The best ranked replies from the prompt down; the others, where there are any, are unread."""
    messages, node, others = [], row["prompt"], False
    while node is not None:
        if not isinstance(node, dict):
            raise MalformedRow("column `prompt` is no tree of messages")
        messages.append(_message(node.get("role"), node.get("text")))
        replies = [reply for reply in node.get("replies") or [] if not _is_deleted(reply)]
        others |= len(replies) > 1
        node = min(replies, key=_rank, default=None)
    return messages, ("prompt", "tree_state"), ("other replies",) * others


_READERS: dict[str, Callable[[Mapping[str, Any]], Reading]] = {
    "messages": _read_turns,
    "sharegpt": _read_turns,
    "pairs": _read_pair,
    "tree": _read_tree,
}


def _turn_column(row: Mapping[str, Any]) -> str:
    """The first filled column of turns, or the first of them."""
    present = [name for name in _TURNS if name in row]
    return next((name for name in present if _filled(row, name)), present[0])


def _has_from(row: Mapping[str, Any]) -> bool:
    try:
        column = _turn_column(row)
        return any("from" in turn for turn in _turn_list(row[column], column))
    except MalformedRow:
        return False


def _turn_list(turns: Any, column: str) -> list[dict[str, Any]]:
    """Turns as a list of objects, from a list, from columns of lists, or from JSON in a string."""
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError) as error:
            raise MalformedRow(f"column `{column}` is a text, and not JSON") from error
    if isinstance(turns, dict):
        turns = _from_columns(turns)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise MalformedRow(f"column `{column}` is not a list of turns")
    return turns


def _from_columns(columns: dict[str, Any]) -> Any:
    """{"from": [a, b], "value": [c, d]} -> [{"from": a, "value": c}, …]."""
    lists = columns.values()
    if not all(isinstance(column, list) for column in lists) or len(set(map(len, lists))) != 1:
        return columns
    return [dict(zip(columns, turn, strict=True)) for turn in zip(*lists, strict=True)]


def _turn(turn: Mapping[str, Any]) -> Message:
    _refuse(turn, "turn with")
    if turn.get("weight") not in (None, 1):
        raise MalformedRow(f"turn with `weight` {_shown(turn['weight'])}")
    role, content = (
        next((turn[name] for name in names if turn.get(name) is not None), None)
        for names in (_ROLE_KEYS, _CONTENT_KEYS)
    )
    return _message(role, content)


def _history(history: Any) -> Iterator[Message]:
    """Alpaca's earlier rounds: a list of [instruction, answer]."""
    if history in _NOTHING:
        return
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in history
    ):
        raise MalformedRow("column `history` is not a list of [instruction, answer]")
    for asked, answered in history:
        yield _message("user", asked)
        yield _message("assistant", answered)


def _instructions(row: Mapping[str, Any]) -> list[str]:
    """Columns that make the instruction: Alpaca's, or Dolly's with its passage."""
    second = "context" if "response" in row else "input"
    return [name for name in ("instruction", second) if name in row]


def _answer(row: Mapping[str, Any]) -> str | None:
    return next((name for name in ("output", "response") if name in row), None)


def _is_deleted(reply: Any) -> bool:
    return isinstance(reply, dict) and bool(reply.get("deleted"))


def _rank(reply: Any) -> float:
    rank = reply.get("rank") if isinstance(reply, dict) else None
    return float("inf") if rank is None else rank


def _with_system(messages: Messages, text: str, column: str) -> Messages:
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == text:
            return messages
        raise MalformedRow(f"column `{column}` beside another system turn")
    return [_message("system", text), *messages]


def _refuse_rejected(row: Mapping[str, Any]) -> None:
    for name in _REJECTIONS:
        if row.get(name) is False:
            raise MalformedRow(f"column `{name}` is false: a rejected answer")


def _refuse(values: Mapping[str, Any], what: str) -> None:
    for name in _REFUSED:
        if _filled(values, name):
            raise MalformedRow(f"{what} `{name}`")


def _without_format(row: Mapping[str, Any]) -> str:
    if "parent_id" in row and "text" in row:
        return "column `parent_id`: one message a row; give the dataset's file of trees"
    return "no known columns"


def _filled(values: Mapping[str, Any], name: str) -> bool:
    return values.get(name) not in _NOTHING


def _is_said(value: Any, contents: set[str]) -> bool:
    return isinstance(value, str) and value in contents


def _message(role: object, content: object) -> Message:
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise MalformedRow("turn without a role" if role is None else f"role {_shown(role)}")
    return {"role": known, "content": _text(content)}


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(map(_part, content))
    if not isinstance(content, str):
        raise MalformedRow(f"content is a {type(content).__name__} and not text")
    return content


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise MalformedRow(f"content part {_shown(kind)} is not text")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
