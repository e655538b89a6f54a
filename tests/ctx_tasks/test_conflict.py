"""Knowledge conflict: rows of three shapes, what counts as a conflict, and its two prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctx_tasks import conflict as conflicts
from ctx_tasks.errors import UserError
from tests.ctx_tasks import conflict_data as data
from tests.ctx_tasks.reading_data import write_lines
from tests.ctx_tasks.test_reading_tasks import CONFIGS, scores
from tests.scripted import Scripted

ASK = "\nAnswer the question according to the above passage: "


def load(path: Path, *rows: Any) -> list[dict[str, Any]]:
    file = write_lines(path / "rows.jsonl", list(rows))
    return list(conflicts.conflict(conflict_files=file)["validation"])


def test_the_three_shapes_become_one(tmp_path: Path) -> None:
    plain, confiqa, faitheval = load(tmp_path, *data.ROWS)
    assert plain["context_answers"] == ["Bob Hale"]
    assert plain["memory_answers"] == [["Ada Stone", "A. Stone"]]
    assert (confiqa["context"], confiqa["context_answers"]) == (data.LAMP, ["1999"])
    assert confiqa["memory_answers"] == [["1820", "the year 1820"]]
    assert faitheval["context_answers"] == ["cheese"]
    assert faitheval["memory_answers"] == [["brass"], ["glass"]]
    assert plain["passage_id"] == confiqa["passage_id"] != faitheval["passage_id"]


def test_confiqa_is_read_from_its_json_and_faitheval_from_its_parquet(tmp_path: Path) -> None:
    """As they are published: one list of rows, and one table whose labels may be numbers."""
    (tmp_path / "ConFiQA-QA.json").write_text(json.dumps([data.CONFIQA], indent=4))
    numbered = {"label": ["1", "2", "3"], "text": data.FAITHEVAL["choices"]["text"]}
    rows = [data.FAITHEVAL, {**data.FAITHEVAL, "choices": numbered, "answerKey": "2"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    used: dict[str, Any] = {}
    loaded = conflicts.conflict(conflict_files=str(tmp_path), data_used=used)["validation"]
    assert loaded["context_answers"][:] == [["1999"], ["cheese"], ["cheese"]]
    assert loaded["memory_answers"][0] == [["1820", "the year 1820"]]
    assert loaded["memory_answers"][1] == loaded["memory_answers"][2] == [["brass"], ["glass"]]
    assert used["rows"] == 3


def test_answers_that_hold_each_other_are_left_out(tmp_path: Path) -> None:
    within = {**data.PLAIN, "context_answer": "Ada", "memory_answer": "Ada Stone"}
    choices = {"label": ["A", "B", "C"], "text": ["hard cheese", "cheese", "glass"]}
    kept = load(tmp_path, within, {**data.FAITHEVAL, "choices": choices})
    assert [row["memory_answers"] for row in kept] == [[["glass"]]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "c", "question": "q"}, "has no 'context_answer'"),
        ({"question": "q"}, "or ConFiQA's cf_context, question, cf_answer and orig_answer"),
        ({**data.CONFIQA, "cf_answer": 3}, "has 'cf_answer' is int"),
        ({**data.FAITHEVAL, "answerKey": "D"}, "has the answerKey 'D', but its choices have the"),
        # FaithEval's other two parts have answers, and no choices.
        (
            {"qid": "1", "context": "c", "question": "q", "answers": ["a"]},
            "has no 'context_answer'",
        ),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, row)


def test_without_files_the_task_says_which_it_takes() -> None:
    with pytest.raises(UserError, match="no data of their own; name ConFiQA's or FaithEval's"):
        conflicts.conflict()


DOC = {"context_answers": ["four", "4"], "memory_answers": [["six", "6"], ["nine"]]}
CASES = [
    # with the passage, without it, what is scored
    ("It is four.", "Six, I think", "context_rate"),
    ("6 of them", "six", "memory_rate"),
    ("four, not six", "six", "both"),
    ("I do not know", "six", "neither"),
    # Another answer than the one the model gave from memory is neither.
    ("nine", "six", "neither"),
    ("four", "no idea", None),
    ("four", "four or six", None),
    ("four", "It is sixty. Or six", None),
    ("four", "nine", "context_rate"),
]


@pytest.mark.parametrize(("answer", "without", "expected"), CASES)
def test_only_what_the_model_knows_better_counts(
    answer: str, without: str, expected: str | None
) -> None:
    found = conflicts.conflict_scores(DOC, [answer, without])
    assert found["known"] == (expected is not None)
    rates = {name: found.get(name) for name in ("context_rate", "memory_rate", "both", "neither")}
    assert rates == {name: expected and float(name == expected) for name in rates}
    assert found.get("score") == (expected and float(expected == "context_rate"))


def run(path: Path, task: str, answers: dict[str, str]) -> tuple[dict[str, Any], Scripted]:
    manager = TaskManager(
        include_path=str(CONFIGS),
        include_defaults=False,
        metadata={"conflict_files": data.write_all(path)},
    )
    model = Scripted(answers)
    results = simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0)
    return results, model


def test_every_question_is_asked_with_and_without_its_passage(tmp_path: Path) -> None:
    answers = {
        f"{ASK}Who lit the lamp?": "Bob Hale did",
        f"{ASK}When was the lamp lit?": "In 1820",
        f"{ASK}What is the lamp made of?": "Cheese:",
        "Who lit the lamp?": "It was Ada Stone",
        "When was the lamp lit?": "in 1820",
        "What is the lamp made of?": "I have no idea",
    }
    results, model = run(tmp_path, "conflict_contains", answers)
    assert model.prompts[:2] == [f"{data.LAMP}{ASK}Who lit the lamp?", "Who lit the lamp?"]
    assert len(model.prompts) == 6
    assert scores(results, "conflict_contains") == {
        "known": pytest.approx(2 / 3),
        "empty": 0.0,
        "dangling": 0.0,
        "score": 0.5,
        "context_rate": 0.5,
        "memory_rate": 0.5,
        "both": 0.0,
        "neither": 0.0,
    }
    sample = results["samples"]["conflict_contains"][0]
    assert sample["filtered_resps"] == ["Bob Hale did", "It was Ada Stone"]


def test_the_closed_book_task_asks_the_question_alone(tmp_path: Path) -> None:
    answers = {"Who lit the lamp?": "A Stone", "When was the lamp lit?": "1999", "": "glass: brass"}
    results, model = run(tmp_path, "conflict_closed_book", answers)
    assert model.prompts == [row["question"] for row in data.ROWS]
    found = scores(results, "conflict_closed_book")
    assert found["score"] == found["memory_rate"] == pytest.approx(2 / 3)
    assert found["context_rate"] == pytest.approx(1 / 3)
