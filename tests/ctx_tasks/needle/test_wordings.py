"""Several wordings of the needle's prompt: every document in each, their mean and their spread."""

from __future__ import annotations

import logging
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctx_tasks.errors import UserError
from ctx_tasks.needle import wordings
from tests.ctx_tasks.needle.test_nih_tasks import (
    SMALL,
    documents,
    evaluate,
    tokenizer_folder,
)
from tests.scripted import Scripted

__all__ = ["tokenizer_folder"]


def test_the_four_are_our_own_and_hold_document_and_question_once() -> None:
    assert len({one.id for one in wordings.FOUR}) == len({one.prompt for one in wordings.FOUR}) == 4
    for one in wordings.FOUR:
        assert one.prompt.count("{context}") == one.prompt.count("{question}") == 1
        assert "provided document" not in one.prompt


def test_braces_in_a_document_stay_what_they_are() -> None:
    doc = {
        "context": "a {question} {0} {{x}}",
        "question": "Who?",
        "prompt": "{context}|{question}",
    }
    assert wordings.prompt(doc) == "a {question} {0} {{x}}|Who?"


def test_every_document_is_asked_in_each_wording(tokenizer_folder: str) -> None:
    # Wordings are told apart by how well they do: 7, 2, 0 and 0 of the seven keywords.
    model = Scripted(["eat a sandwich, sit, Dolores Park, sunny day", "a sunny day", "", "no"])
    metadata = {"tokenizer": tokenizer_folder, **SMALL, "prompts": "four"}
    results = evaluate("nih_recall", model, metadata)
    rows = documents(results, "nih_recall")
    assert [row["prompt_id"] for row in rows] == [one.id for one in wordings.FOUR] * 4
    assert len({row["context"] for row in rows}) == 4
    assert len({row["passage_id"] for row in rows[:4]}) == 1
    assert model.prompts[0] == f"{rows[0]['context']}\n\nGoing by the document above: " + (
        "What is the best thing to do in San Francisco?"
    )
    found = results["results"]["nih_recall"]
    assert found["recall,none"] == pytest.approx((1 + 2 / 7) / 4)
    assert found["prompt_spread,none"] == pytest.approx(statistics.stdev([1, 2 / 7, 0, 0]))


def test_wordings_and_answer_tokens_of_ones_own(tokenizer_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    own = [{"prompt": "{question} {context}"}, {"id": "b", "prompt": "{context} {question}"}]
    file.write_text(yaml.safe_dump(own))
    model = Scripted(["x"])
    metadata = {"tokenizer": tokenizer_folder, **SMALL, "prompts": str(file), "answer_tokens": 7}
    results = evaluate("nih_recall", model, metadata)
    assert {row["prompt_id"] for row in documents(results, "nih_recall")} == {"1", "b"}
    assert model.prompts[0].startswith("What is the best thing to do in San Francisco? ")
    assert all(settings["max_gen_toks"] == 7 for settings in model.settings)
    used = results["configs"]["nih_recall"]["metadata"]["data_used"]
    assert used["prompts"] == {"1": "{question} {context}", "b": "{context} {question}"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x", "must hold a list of mappings with prompt"),
        (
            "[{prompt: 'a {context}'}, {prompt: '{context} {question} {question}'}]",
            "prompt 1 .*prompt 2",
        ),
        (
            "[{prompt: '{context} {question}', id: 2}, {prompt: '{question} {context}'}]",
            "an id twice",
        ),
        ("{", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        wordings.load_wordings(str(file))


@pytest.mark.parametrize("limit", [None, 2])
def test_a_limit_says_that_it_takes_the_shortest_documents(
    tokenizer_folder: str, limit: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    metadata: dict[str, Any] = {"tokenizer": tokenizer_folder, **SMALL}
    with caplog.at_level(logging.WARNING):
        evaluate("nih_recall", Scripted(["x"]), metadata, limit=limit)
    said = [record.message for record in caplog.records if "--limit" in record.message]
    assert len(said) == (limit is not None)
    assert all("shortest" in text and '"lengths": 4, "depths": 4' in text for text in said)
