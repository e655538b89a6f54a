"""The column `messages`: what every step after `ctx-train prepare` reads and relies on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.rows import Row, read_rows

Messages = list[dict[str, Any]]


def read_messages(source: str | Path) -> Iterator[Messages]:
    """The conversation of every row; `UserError` names the row that has none."""
    for number, row in enumerate(read_rows(source), start=1):
        yield messages_of(row, f"Row {number} of {source}")


def messages_of(row: Row, name: str) -> Messages:
    """The messages of a row: at least one, each with a role and a content, which are strings.

    Keys that are null are left out: parquet gives every message all keys that any message has.

    Raises:
        UserError: something else, under what `name` calls the row.
    """
    messages = row.get("messages")
    if not (isinstance(messages, list) and messages and all(map(_is_message, messages))):
        raise UserError(
            f"{name} (columns {', '.join(map(str, row))}) has no `messages` with role and content "
            "strings; convert the file with `ctx-train prepare`."
        )
    return [{k: v for k, v in message.items() if v is not None} for message in messages]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )
