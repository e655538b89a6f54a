"""The bundled questions on real prose: shapes, answers, and what a model is asked."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from ctx_tasks import prose, reading
from ctx_tasks.errors import UserError
from ctx_tasks.metrics import contains
from ctx_tasks.reading_rows import DROP, QUAC, SQUAD

BENCHMARKS = {"squad": SQUAD, "quac": QUAC, "drop": DROP}


def rows(name: str) -> list[dict[str, Any]]:
    lines = (prose.FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def passages(name: str) -> list[str]:
    return [row.get("context") or row["passage"] for row in rows(name)]


def test_thirty_passages_of_90_to_150_words_are_the_same_in_every_file() -> None:
    texts = set(passages("squad"))
    assert len(texts) == 30
    assert set(passages("quac")) == set(passages("drop")) == texts
    assert all(90 <= len(text.split()) <= 150 for text in texts)
    assert all(text.isascii() and text.endswith(".") for text in texts)
    sentences = Counter(part for text in texts for part in text.split(". "))
    assert max(sentences.values()) == 1


def test_answers_of_squad_and_quac_are_spans_where_they_say() -> None:
    for row in rows("squad"):
        [text], [start] = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(text)] == text
    for row in rows("quac"):
        found = zip(row["answers"]["texts"], row["answers"]["answer_starts"], strict=True)
        for [text], [start] in found:
            assert row["context"][start : start + len(text)] == text


def test_answers_of_drop_are_numbers_half_of_them_in_the_passage() -> None:
    written = 0
    for row in rows("drop"):
        [first, *others] = [row["answer"], *row["validated_answers"]]
        assert int(first["number"]) > 0
        assert len(others) <= 1
        written += contains(row["passage"], [one["number"] for one in (first, *others)])
    assert len(rows("drop")) / 2 <= written < len(rows("drop"))


def test_no_question_gives_its_answer_away() -> None:
    for name in BENCHMARKS:
        [documents] = getattr(prose, name)().values()
        for document in documents:
            asked = document["question"].rpartition("\n")[2]
            assert asked.endswith("?")
            assert not contains(asked, [spans[0] for spans in document["references"]])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_sixty_questions_with_names_of_their_own(name: str) -> None:
    used: dict[str, Any] = {}
    [documents] = getattr(prose, name)(data_used=used).values()
    assert len(set(documents["id"])) == len(documents) == 60
    assert Counter(Counter(documents["passage_id"]).values()) == {2: 30}
    assert used["source"] == "prose (bundled)"
    assert used["sha256"] == documents[0]["data_hash"]
    [first] = getattr(prose, name)(questions=40).values()
    assert first["id"] == documents["id"][:40]


def test_a_later_question_of_a_dialogue_follows_the_earlier_with_its_answer() -> None:
    [documents] = prose.quac().values()
    assert documents[0]["question"] == "Where does the Blue Nile begin?"
    assert documents[1]["question"] == (
        "Where does the Blue Nile begin? Lake Tana.\nIn which country is that lake?"
    )
    assert documents[1]["target"] == "Ethiopia"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_files_are_in_the_benchmarks_own_columns(name: str) -> None:
    files = [str(prose.FOLDER / f"{name}.jsonl")]
    [documents] = reading.load(BENCHMARKS[name], files, None).values()
    assert len(documents) == len(rows(name))


@pytest.mark.parametrize("questions", [0, 61, 2.5, True, "all"])
def test_a_number_of_questions_that_is_not_there_is_refused(questions: Any) -> None:
    with pytest.raises(UserError, match="questions"):
        prose.drop(questions=questions)
