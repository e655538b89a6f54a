"""Every public form of a conversation is read right, or refused with the name of what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from training.data.formats import MalformedRow, Messages, to_conversation

ASKED, ANSWERED = "Which bird?", "A heron."
SHAREGPT = [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]
OPENAI = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
SYSTEM = {"role": "system", "content": "Answer from the book."}


def messages(row: dict[str, Any]) -> Messages:
    return to_conversation(row, 0).messages


TREE = {
    "message_tree_id": "7",
    "tree_state": "ready_for_export",
    "prompt": {
        "text": ASKED,
        "role": "prompter",
        "replies": [
            {"text": "A stork.", "role": "assistant", "rank": 1, "replies": []},
            {"text": "Spam.", "role": "assistant", "rank": 0, "deleted": True, "replies": []},
            {"text": ANSWERED, "role": "assistant", "rank": 0},
        ],
    },
}


@pytest.mark.parametrize(
    ("row", "format_"),
    [
        ({"id": 7, "conversations": SHAREGPT}, "sharegpt"),
        ({"id": 7, "conversations": OPENAI}, "messages"),
        ({"id": 7, "messages": SHAREGPT}, "sharegpt"),
        ({"id": 7, "conversation": OPENAI}, "messages"),
        ({"prompt_id": "7", "prompt": ASKED, "messages": OPENAI}, "messages"),
        ({"id": 7, "messages": None, "conversations": SHAREGPT}, "sharegpt"),
        ({"id": 7, "messages": [], "conversations": OPENAI}, "messages"),
        ({"id": 7, "conversations": json.dumps(SHAREGPT)}, "sharegpt"),
        (
            {"id": 7, "messages": {"role": ["user", "assistant"], "content": [ASKED, ANSWERED]}},
            "messages",
        ),
        (
            {"id": 7, "conversations": {"from": ["human", "gpt"], "value": [ASKED, ANSWERED]}},
            "sharegpt",
        ),
        ({"id": "7", "instruction": ASKED, "output": ANSWERED}, "pairs"),
        ({"id": "7", "instruction": ASKED, "input": "", "output": ANSWERED}, "pairs"),
        ({"id": "7", "input": ASKED, "output": ANSWERED}, "pairs"),
        ({"id": "7", "instruction": ASKED, "context": "", "response": ANSWERED}, "pairs"),
        (TREE, "tree"),
    ],
)
def test_every_format_becomes_the_same_messages(row: dict[str, Any], format_: str) -> None:
    found = to_conversation(row, 0)
    assert (found.id, found.format, found.messages) == ("7", format_, OPENAI)
    assert found.unread == (("other replies",) if format_ == "tree" else ())


@pytest.mark.parametrize(
    ("asks", "answers"),
    [
        ("human", "chatgpt"),
        ("user", "bing"),
        ("Human", "bard"),
        ("USER", "ASSISTANT"),
        ("prompter", "assistant"),
        ("human", "model"),
        ("human", "claude"),
        ("question", "answer"),
        ("human", "bot"),
    ],
)
def test_roles_go_by_many_names(asks: str, answers: str) -> None:
    turns = [{"from": asks, "value": ASKED}, {"from": answers, "value": ANSWERED}]
    assert messages({"conversations": turns}) == OPENAI


def test_a_passage_follows_its_instruction() -> None:
    alpaca = {"instruction": "Translate.", "input": "Reiher", "output": "heron"}
    dolly = {"instruction": "Translate.", "context": "Reiher", "response": "heron"}
    assert to_conversation(alpaca, 3).id == "row-3"
    for row in (alpaca, dolly):
        assert [m["content"] for m in messages(row)] == ["Translate.\nReiher", "heron"]


def test_a_system_column_comes_first() -> None:
    for row in (
        {"conversations": SHAREGPT},
        {"messages": OPENAI},
        {"messages": [SYSTEM, *OPENAI]},
        {"instruction": ASKED, "output": ANSWERED},
    ):
        assert messages({**row, "system": SYSTEM["content"]}) == [SYSTEM, *OPENAI]
        if SYSTEM not in row.get("messages", []):
            assert messages({**row, "system": ""}) == OPENAI


def test_alpacas_history_comes_before_the_instruction() -> None:
    row = {"instruction": "And?", "output": "So.", "history": [[ASKED, ANSWERED]]}
    assert messages(row) == [
        *OPENAI,
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "So."},
    ]


def test_a_list_of_text_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "Which "}, "bird?"]
    assert messages({"messages": [{"role": "user", "content": parts}, OPENAI[1]]}) == OPENAI


def test_a_missing_value_is_an_empty_turn() -> None:
    row = {"conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "x"}]}
    assert [m["content"] for m in messages(row)] == ["", "x"]


def test_what_was_left_aside_is_named() -> None:
    named = [{**OPENAI[0], "name": "Ann"}, OPENAI[1]]
    row = {"messages": named, "prompt": ASKED, "lang": "en", "score": 0, "empty": None}
    assert to_conversation(row, 0).unread == ("messages.name", "lang", "score")


def turn(**more: Any) -> dict[str, Any]:
    return {"messages": [OPENAI[0], {**OPENAI[1], **more}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x"}, "no known columns"),
        ({"messages": None}, "column `messages` is not a list of turns"),
        ({"messages": ["x"]}, "column `messages` is not a list of turns"),
        ({"conversations": "hello"}, "column `conversations` is a text, and not JSON"),
        ({"conversations": "[" * 100_000}, "column `conversations` is a text, and not JSON"),
        ({"messages": {"role": ["user"], "content": []}}, "column `messages` is not a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "role 'observation'"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, r"role \['human'\]"),
        ({"conversations": [{"from": {"x": 1}, "value": "x"}]}, "role {'x': 1}"),
        ({"messages": [{"content": "x"}]}, "turn without a role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "part 'image' is not"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "content is a dict and not text"),
        ({"conversations": SHAREGPT, "tools": '[{"name": "f"}]'}, "column `tools`"),
        ({"messages": OPENAI, "images": ["a.png"]}, "column `images`"),
        ({"messages": OPENAI, "label": False}, "column `label` is false"),
        ({"conversations": SHAREGPT, "kto_tag": False}, "column `kto_tag` is false"),
        ({"messages": [SYSTEM, *OPENAI], "system": "Other."}, "column `system` beside another"),
        (turn(weight=0), "turn with `weight` 0"),
        (turn(tool_calls=[{"id": "1"}]), "turn with `tool_calls`"),
        (turn(reasoning_content="Hm."), "turn with `reasoning_content`"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "column `history` is not a list"),
        ({"message_id": "1", "parent_id": "0", "text": "a", "role": "prompter"}, "`parent_id`"),
    ],
)
def test_a_row_that_cannot_be_read_right_names_what_cannot(
    row: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MalformedRow, match=reason):
        to_conversation(row, 0)


@pytest.mark.parametrize(
    "harmless",
    [{"tools": "[]"}, {"images": None}, {"images": []}, {"label": True}, {"system": None}],
)
def test_columns_that_say_nothing_refuse_nothing(harmless: dict[str, Any]) -> None:
    assert messages({"messages": OPENAI, **harmless}) == OPENAI
