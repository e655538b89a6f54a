"""Needle documents: the grid, exact lengths, where the needle stands, the longest that fits."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ctx_tasks.errors import UserError
from ctx_tasks.metrics import keyword_recall
from ctx_tasks.needle import task as needle
from ctx_tasks.needle import wordings
from ctx_tasks.needle.inputs import (
    Haystack,
    load_haystack,
    load_needles,
)
from tests import tiny

PAPER = load_needles("paper")
SEVERAL = load_needles("several")
BUILTIN = load_haystack("builtin")
SHORT = Haystack("short", ("One hen ran. Two cats hid in a box! Why? The rain fell all night.",))


def rows(
    cells: list[tuple[int, int]], haystack: Haystack = BUILTIN, seed: int = 42
) -> list[dict[str, Any]]:
    return needle.build(tiny.tokenizer(), haystack, PAPER, cells, seed)


def tokens(text: str) -> int:
    return len(tiny.tokenizer()(text, add_special_tokens=False)["input_ids"])


def around(row: dict[str, Any]) -> tuple[str, str]:
    """The document before and after its only needle."""
    before, after = row["context"].split(row["needle"])
    return before, after


def test_the_papers_grid_has_400_cells_with_both_ends() -> None:
    cells = needle.grid(200, 4000)
    assert len(set(cells)) == 400
    assert cells[0] == (200, 0)
    assert cells[-1] == (4000, 100)
    assert [length for length, _ in cells[::20]][:4] == [200, 400, 600, 800]
    assert [percent for _, percent in cells[:20]][:5] == [0, 5, 11, 16, 21]


def test_grid_runs_through_depths_within_lengths() -> None:
    expected = [(200, 0), (200, 50), (200, 100), (400, 0), (400, 50), (400, 100)]
    assert needle.grid(200, 400, 2, 3) == expected


def test_a_single_length_is_the_longest_and_a_single_depth_the_middle() -> None:
    assert needle.grid(200, 900, 1, 1) == [(900, 50)]
    assert needle.grid(300, 300, 1, 2) == [(300, 0), (300, 100)]


@given(st.integers(1, 5000), st.integers(0, 9000), st.integers(1, 40), st.integers(1, 101))
def test_grid_is_uniform_and_never_repeats_a_cell(
    shortest: int, more: int, lengths: int, depths: int
) -> None:
    cells = needle.grid(shortest, shortest + more + lengths, lengths, depths)
    assert len(set(cells)) == lengths * depths
    steps = sorted({length for length, _ in cells})
    gaps = [b - a for a, b in pairwise(steps)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


BAD_GRIDS = [
    ((0, 400, 2, 2), "min_length must be a whole number of at least 1, but got 0"),
    ((200, -4, 2, 2), "max_length must be a whole number of at least 1, but got -4"),
    ((200, "4k", 2, 2), "max_length must be a whole number of at least 1, but got '4k'"),
    ((200, 400.5, 2, 2), "max_length must be a whole number of at least 1, but got 400.5"),
    ((200, 400, True, 2), "lengths must be a whole number of at least 1, but got True"),
    ((200, 400, 2, 0), "depths must be a whole number of at least 1, but got 0"),
    ((200, 100, 2, 2), "min_length 200 is more than the longest document, 100 tokens"),
    ((200, 203, 5, 2), "lengths 5 is more than there are from 200 to 203 tokens"),
    ((200, 400, 2, 102), "depths 102 is more than the 101 whole percents"),
]


@pytest.mark.parametrize(("values", "message"), BAD_GRIDS)
def test_bad_grids_are_refused(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        needle.grid(*values)


def test_all_faults_of_a_grid_are_told_at_once() -> None:
    with pytest.raises(UserError) as raised:
        needle.grid(0, -1, 0, -1)
    assert all(name in str(raised.value) for name in ("min_length", "max_length", "depths"))


@pytest.mark.parametrize("needles", [PAPER, SEVERAL], ids=["one needle", "several"])
def test_documents_have_the_cells_length(needles: Any) -> None:
    cells = needle.grid(200, 1500, 6, 7)
    built = needle.build(tiny.tokenizer(), BUILTIN, needles, cells)
    assert [(row["length"], row["depth"]) for row in built] == cells
    for row in built:
        assert row["n_tokens"] == tokens(row["context"])
        assert abs(row["n_tokens"] - row["length"]) <= 2
        assert row["context"].count(row["needle"]) == 1


def test_needle_is_first_at_0_and_last_at_100_percent() -> None:
    for row in rows(needle.grid(200, 900, 8, 2)):
        before, after = around(row)
        assert (before == "") == (row["depth"] == 0)
        assert (after == "") == (row["depth"] == 100)
        assert row["placed"] == row["depth"]


def test_needle_follows_a_whole_sentence_and_nothing_else_is_changed() -> None:
    text = "\n\n".join(BUILTIN.texts * 2)
    for row in rows(needle.grid(200, 2000, 5, 11)):
        before, after = around(row)
        assert before == "" or re.search(r"[.!?] $", before)
        assert before.rstrip() + after in text if before else after.strip() in text


def test_needle_is_at_the_sentence_end_nearest_to_its_depth() -> None:
    (row,) = rows([(900, 40)])
    before, after = around(row)
    filler = before.rstrip() + after
    wanted = 0.40 * tokens(filler)
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s)", filler)]
    nearest = min(ends, key=lambda end: abs(tokens(filler[:end]) - wanted))
    assert len(before.rstrip()) == nearest
    assert row["placed"] == pytest.approx(100 * tokens(filler[:nearest]) / tokens(filler), abs=0.5)


def test_every_document_of_a_run_begins_alike() -> None:
    first = {row["context"][:60] for row in rows([(300, 60), (600, 70), (900, 90)])}
    assert len(first) == 1


def test_seed_chooses_the_text_that_comes_first() -> None:
    starts = {rows([(300, 60)], seed=seed)[0]["context"][:40] for seed in range(12)}
    titles = [text[:40] for text in BUILTIN.texts]
    assert len(starts) > 3
    assert starts <= set(titles)


def test_building_twice_gives_equal_rows() -> None:
    cells = needle.grid(200, 600, 3, 3)
    assert rows(cells) == rows(cells)


def test_a_longer_context_cycles_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (row, _) = rows([(400, 50), (500, 100)], SHORT)
    assert row["context"].count("Two cats hid in a box!") > 3
    once = tokens(f"{SHORT.texts[0]}\n\n")
    assert [r.message for r in caplog.records] == [
        f"The haystack short has {once} tokens; longer documents repeat it from its beginning."
    ]


def test_a_long_enough_haystack_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows([(900, 50)])
    assert caplog.records == []


@settings(max_examples=30)
@given(
    st.lists(st.text("ab .!?é漢。😀\n", min_size=1, max_size=80), min_size=1, max_size=3),
    st.integers(120, 400),
    st.integers(0, 100),
)
def test_any_text_with_a_sentence_can_be_cut(texts: list[str], length: int, depth: int) -> None:
    haystack = Haystack("any", ("A dog ran.", *(text.strip() or "x" for text in texts)))
    (row,) = rows([(length, depth)], haystack)
    assert abs(tokens(row["context"]) - length) <= 2
    assert row["needle"] in row["context"]


def test_several_needles_are_dealt_evenly_over_lengths_and_depths() -> None:
    cells = needle.grid(200, 4000)
    dealt = needle.deal(cells, SEVERAL, seed=1)
    for axis in (0, 1):
        for value in {cell[axis] for cell in cells}:
            counts = Counter(
                one.id for cell, one in zip(cells, dealt, strict=True) if cell[axis] == value
            )
            assert set(counts.values()) <= {2, 3}
            assert len(counts) == len(SEVERAL)
    assert set(Counter(one.id for one in dealt).values()) <= set(range(48, 53))
    assert needle.deal(cells, SEVERAL, seed=2) != dealt


def test_score_is_the_share_of_keywords_in_the_generated_text() -> None:
    doc = {"keywords": list(PAPER[0].keywords)}
    found = needle.scores(doc, ["Eat a SANDWICH, in the park; someday."])
    expected = {"recall": 3 / 7, "recall_error": 4 / 7, "score": 3 / 7, "empty": 0, "dangling": 0}
    assert found == pytest.approx(expected)


def test_packaged_needles_give_nothing_away_before_the_answer() -> None:
    assert [one.id for one in PAPER] == ["sandwich"]
    assert len(SEVERAL) >= 5
    haystack = "\n".join(BUILTIN.texts)
    for one in SEVERAL:
        answer = one.needle.removeprefix(one.response_prefix)
        assert answer != one.needle
        assert keyword_recall(answer, one.keywords) == 1
        assert keyword_recall(f"{one.question} {one.response_prefix}", one.keywords) == 0
        assert one.needle not in haystack


UNSUITABLE = [
    (("no end here",), "has no sentence end"),
    ((f"So. {PAPER[0].needle} Yes.",), "already holds the needle sandwich"),
    (("A tag </s> here. Then more.",), "holds '</s>', which the model's tokenizer reads as"),
]


@pytest.mark.parametrize(("texts", "message"), UNSUITABLE)
def test_unsuitable_haystacks_are_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        rows([(300, 50)], Haystack("mine", texts))


def test_a_length_too_short_for_the_needle_names_the_least() -> None:
    least = tokens(PAPER[0].needle) + 16
    assert rows([(least, 50)])[0]["length"] == least
    with pytest.raises(UserError, match=f"use a min_length of at least {least}"):
        rows([(least - 1, 50)])


def test_longest_document_leaves_room_in_the_window() -> None:
    assert needle.longest_document(2048, 250, None) == 1798
    assert needle.longest_document(2048, 250, 1000) == 1000
    assert needle.longest_document(None, 250, 1000) == 1000


def test_a_maximum_equal_to_the_window_is_lowered_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert needle.longest_document(2048, 250, 2048) == 1798
    assert "max_length 2048 is within the window of 2048 tokens" in caplog.text


BAD_MAXIMA = [
    ((2048, 250, 2049), "max_length 2049 is longer than the model's window of 2048 tokens; use at"),
    ((200, 250, None), "window of 200 tokens leaves no document beside the 250"),
    ((None, 250, None), "The model's window is not known"),
]


@pytest.mark.parametrize(("values", "message"), BAD_MAXIMA)
def test_impossible_maxima_are_refused(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        needle.longest_document(*values)


def test_room_covers_the_longest_prompt_in_its_chat_template() -> None:
    tokenizer = tiny.tokenizer()
    room = needle.needed_room(tokenizer, SEVERAL, wordings.PAPER, 50)
    for one in SEVERAL:
        user = wordings.PROMPT.format(context="", question=one.question)
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": one.response_prefix},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        assert tokens(text) + 50 <= room


def test_room_grows_with_a_template_that_is_long() -> None:
    short, long = tiny.tokenizer(), tiny.tokenizer(chat_template="word " * 400)
    ask = (PAPER, wordings.PAPER, 50)
    assert needle.needed_room(long, *ask) > needle.needed_room(short, *ask) + 200
    assert (
        needle.needed_room(short, PAPER, wordings.PAPER, 100)
        == needle.needed_room(short, *ask) + 50
    )
    assert needle.needed_room(short, PAPER, wordings.FOUR, 50) != needle.needed_room(short, *ask)


@pytest.mark.usefixtures("nothing_loaded")
def test_all_faults_of_the_settings_are_told_at_once() -> None:
    with pytest.raises(UserError) as raised:
        needle.nih(haystack="/no/file", needles="/no/yaml", seed="x", lengths=0, depths=0)
    expected = (
        "/no/file",
        "/no/yaml",
        "`tokenizer`",
        "seed must be",
        "lengths must",
        "depths must",
    )
    assert all(part in str(raised.value) for part in expected)


def test_documents_do_not_depend_on_where_the_tokenizer_lies(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        tiny.tokenizer().save_pretrained(tmp_path / name)
        options = {"max_length": 300, "lengths": 2, "depths": 2}
        found.append(list(needle.nih(tokenizer=str(tmp_path / name), **options)["test"]))
    assert found[0] == found[1]


@pytest.mark.realdata
@pytest.mark.parametrize("needles", [PAPER, SEVERAL], ids=["one needle", "several"])
@pytest.mark.parametrize("name", ["tinyllama-1.1b-chat-v1.0", "phi-3-mini", "qwen2.5-instruct"])
def test_real_tokenizers_give_400_exact_documents_soon(name: str, needles: Any) -> None:
    folder = Path(os.environ["CTX_REAL_DATA"]) / "tokenizers" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = time.process_time()
    built = needle.build(tokenizer, BUILTIN, needles, needle.grid(200, 4000))
    building = time.process_time() - start
    assert len(built) == 400
    start = time.process_time()
    for row in built:
        tokenizer(row["context"], add_special_tokens=False, verbose=False)
    # Each document is made by few more tokenizations than its own.
    assert building < 10 * (time.process_time() - start)
    words = set(" ".join(BUILTIN.texts).split())
    for row in built:
        ids = tokenizer(row["context"], add_special_tokens=False, verbose=False)["input_ids"]
        assert row["n_tokens"] == len(ids)
        assert abs(len(ids) - row["length"]) <= 2
        before, after = around(row)
        # No word is cut, at either end.
        assert set(before.split()[:1]) | set(after.split()[-1:]) <= words
