"""The pure scores, on cases kept as data (`metric_cases.json`) and on properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_tasks import metrics
from ctx_tasks.errors import UserError

CASES = json.loads((Path(__file__).parent / "metric_cases.json").read_text(encoding="utf-8"))


def cases(group: str) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in CASES[group]])


@cases("keyword_recall")
def test_keyword_recall(case: dict[str, Any]) -> None:
    assert metrics.keyword_recall(case["text"], case["keywords"]) == case["expected"]


def test_the_papers_needle_recalls_five_of_seven() -> None:
    keywords = ["eat", "sandwich", "sit", "dolores", "park", "sunny", "day"]
    output = "Eat a sandwich in Dolores Park one day."
    assert metrics.keyword_recall(output, keywords) == pytest.approx(5 / 7)


@cases("contains")
def test_contains(case: dict[str, Any]) -> None:
    found = metrics.contains(case["prediction"], case["references"])
    as_words = metrics.contains_words(case["prediction"], case["references"])
    assert (found, as_words) == (case["contains"], case["words"])


@cases("answers")
def test_answers_of_several_spans(case: dict[str, Any]) -> None:
    given = case["prediction"], case["answers"]
    assert metrics.contains_all(*given) is case["all"]
    assert metrics.contains_all(*given, whole_words=True) is case["words"]
    assert metrics.contains_verbatim(*given) is case["verbatim"]
    assert metrics.contains_released(*given) is case["released"]


@cases("unanswered")
def test_what_is_no_answer(case: dict[str, Any]) -> None:
    found = metrics.unanswered(case["text"], answered=False)
    assert found == {"empty": case["empty"], "dangling": case["dangling"]}


@given(st.text())
def test_an_answer_that_holds_the_reference_is_never_empty(text: str) -> None:
    assert metrics.unanswered(text, answered=True) == {"empty": 0.0, "dangling": 0.0}


@given(st.text(alphabet="a1:. \n*"))
def test_what_dangles_is_a_part_of_what_is_empty(text: str) -> None:
    found = metrics.unanswered(text, answered=False)
    assert found["empty"] == max(found["dangling"], metrics.is_empty(text))


@cases("first_sentence")
def test_first_sentence(case: dict[str, Any]) -> None:
    assert metrics.first_sentence(case["text"]) == case["expected"]


@given(st.text())
def test_cutting_twice_is_cutting_once(text: str) -> None:
    cut = metrics.first_sentence(text)
    assert metrics.first_sentence(cut) == cut
    assert text.startswith(cut)


@given(
    st.text(alphabet="aAthe1 9.,-/!", max_size=12), st.text(alphabet="aAthe1 9.,-/!", max_size=6)
)
def test_whole_words_are_never_more_than_contained(prediction: str, reference: str) -> None:
    if metrics.contains_words(prediction, [reference]):
        assert metrics.contains(prediction, [reference])


@given(st.text(min_size=1), st.text(), st.text())
def test_a_text_contains_its_own_words(middle: str, before: str, after: str) -> None:
    if metrics.normalise(middle):
        assert metrics.contains(f"{before} {middle} {after}", [middle])


@pytest.mark.parametrize("keywords", [[], ["!"], ["eat", ""]])
def test_keywords_that_nothing_can_recall_are_refused(keywords: list[str]) -> None:
    with pytest.raises(UserError, match="at least one keyword, each with a letter or digit"):
        metrics.keyword_recall("eat", keywords)


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (metrics.keyword_recall, "keywords"),
        (metrics.contains, "references"),
        (metrics.contains_words, "references"),
        (metrics.contains_all, "answers"),
    ],
)
def test_a_bare_string_is_no_list(score: Any, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be a list, but got the string 'Paris'"):
        score("Paris", "Paris")
