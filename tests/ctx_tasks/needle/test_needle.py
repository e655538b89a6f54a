"""Needle documents: the grid, exact lengths, where the needle stands, every refusal's message."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from ctx_tasks.errors import UserError
from ctx_tasks.metrics import keyword_recall
from ctx_tasks.needle import task as needle
from ctx_tasks.needle.inputs import (
    Haystack,
    load_haystack,
    load_needles,
    load_tokenizer,
    model_window,
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


@settings(max_examples=30, deadline=None)
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
    assert found == pytest.approx({"recall": 3 / 7, "recall_error": 4 / 7, "score": 3 / 7})


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
    room = needle.needed_room(tokenizer, SEVERAL)
    for one in SEVERAL:
        user = needle.PROMPT.format(context="", question=one.question)
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": one.response_prefix},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        assert tokens(text) + 50 <= room


def test_room_grows_with_a_template_that_is_long() -> None:
    short, long = tiny.tokenizer(), tiny.tokenizer(chat_template="word " * 400)
    assert needle.needed_room(long, PAPER) > needle.needed_room(short, PAPER) + 200


def test_window_is_the_models_and_not_a_sliding_one(tmp_path: Path) -> None:
    config = AutoConfig.for_model("mistral", max_position_embeddings=777, sliding_window=64)
    config.save_pretrained(tmp_path)
    assert model_window(str(tmp_path), tiny.tokenizer()) == 777
    assert model_window(SimpleNamespace(config=config), tiny.tokenizer()) == 777


def test_window_of_a_composite_model_is_its_text_models(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "max_position_embeddings": 555}
    AutoConfig.for_model("gemma3", text_config=text).save_pretrained(tmp_path)
    assert model_window(str(tmp_path), tiny.tokenizer()) == 555


def test_window_is_unknown_without_a_config(tmp_path: Path) -> None:
    assert model_window(None, tiny.tokenizer()) is None
    assert model_window(str(tmp_path), tiny.tokenizer()) is None


def test_tokenizers_come_by_path_or_loaded(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    for arguments in ((tmp_path, None), ("ignored", str(tmp_path)), (None, tiny.tokenizer())):
        assert (
            load_tokenizer(*arguments)("hen")["input_ids"] == tiny.tokenizer()("hen")["input_ids"]
        )


def test_a_missing_tokenizer_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='--metadata \'{"tokenizer": "NAME_OR_PATH", "max_length"'):
        load_tokenizer(None, None)
    with pytest.raises(UserError, match=f"{tmp_path} could not be loaded"):
        load_tokenizer(str(tmp_path), None)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = SimpleNamespace(encode=len, is_fast=False)
    with pytest.raises(UserError, match="is a slow one without character offsets"):
        load_tokenizer(None, slow)


def test_haystacks_are_read_from_text_folder_and_columns(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Second one. \r\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First one.", encoding="utf-8")
    lines = "".join(
        json.dumps({"text": text}) + "\n" for text in ("First one.", " ", "Second one.")
    )
    (tmp_path / "c.jsonl").write_text(lines, encoding="utf-8")
    expected = ("First one.", "Second one.")
    folder, column = load_haystack(str(tmp_path)), load_haystack(tmp_path / "c.jsonl")
    assert folder.texts == column.texts == expected
    assert folder.sha256 == column.sha256
    assert load_haystack(tmp_path / "a.txt").texts == expected[:1]
    assert load_haystack(tmp_path / "a.txt").name == "a.txt"


def test_builtin_haystack_is_the_packaged_essays() -> None:
    assert (BUILTIN.name, len(BUILTIN.texts)) == ("builtin", 16)


def test_bad_haystacks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.")
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n{"body": "x"}\n', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    cases = {
        "nowhere.txt": "haystack names .*nowhere.txt, which does not exist; use builtin, essays",
        "blank.txt": "holds no text",
        "latin.txt": "is not readable UTF-8 text",
        "rows.jsonl": "line 2 has no column text with a string .found: body",
        "empty": "names the folder .*empty, which holds no file",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            load_haystack(str(tmp_path / name))
    with pytest.raises(UserError, match="haystack must be builtin, essays or a path, but got 7"):
        load_haystack(7)


ONE = {"needle": "Tom hid 3 red keys.", "question": "q?", "response_prefix": "Tom hid"}
BAD_NEEDLES = [
    ("", "must hold a list of sets .*, but it is empty"),
    ("needle: x", "must hold a list of sets .*, but it is dict"),
    ("[1, 2", "cannot be read as YAML"),
    (["x"], "set 1 is no mapping"),
    ([{**ONE, "keywords": []}], "set 1 needs keywords as a list of words"),
    ([{**ONE, "keywords": "red"}], "set 1 needs keywords as a list of words"),
    ([{"needle": "x", "keywords": ["x"]}], "needs question as a text; set 1 needs response_prefix"),
    ([{**ONE, "keywords": ["red", "blue"]}], "set 1 has the keyword 'blue', not a word of its"),
    ([{**ONE, "keywords": ["key"]}], "set 1 has the keyword 'key', not a word of its needle"),
    ([{**ONE, "keywords": ["!"]}], "set 1 has the keyword '!', not a word of its needle"),
    ([{**ONE, "keywords": ["red"], "prefix": "p"}], "set 1 has the unknown key prefix"),
    ([{**ONE, "keywords": ["red"], "id": "a"}] * 2, "uses an id twice"),
]


@pytest.mark.parametrize(("content", "message"), BAD_NEEDLES)
def test_bad_needles_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "needles.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_needles(str(path))


def test_missing_needles_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.yaml, which is no file; use paper, several or"):
        load_needles(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="needles must be paper, several or .* but got None"):
        load_needles(None)


def test_needles_file_numbers_its_sets_and_reads_numbers_as_words(tmp_path: Path) -> None:
    path = tmp_path / "needles.yaml"
    path.write_text(yaml.safe_dump([{**ONE, "keywords": ["red", 3]}]), encoding="utf-8")
    (one,) = load_needles(path)
    assert (one.id, one.keywords) == ("1", ("red", "3"))


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


def test_importing_is_light() -> None:
    code = (
        "import sys, ctx_tasks.needle; "
        "print({'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(needle.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.realdata
@pytest.mark.parametrize("needles", [PAPER, SEVERAL], ids=["one needle", "several"])
@pytest.mark.parametrize("name", ["tinyllama-1.1b-chat-v1.0", "phi-3-mini", "qwen2.5-instruct"])
def test_real_tokenizers_give_400_exact_documents_in_15_seconds(name: str, needles: Any) -> None:
    folder = Path(os.environ["CTX_REAL_DATA"]) / "tokenizers" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = time.process_time()
    built = needle.build(tokenizer, BUILTIN, needles, needle.grid(200, 4000))
    assert time.process_time() - start < 15
    assert len(built) == 400
    words = set(" ".join(BUILTIN.texts).split())
    for row in built:
        ids = tokenizer(row["context"], add_special_tokens=False, verbose=False)["input_ids"]
        assert row["n_tokens"] == len(ids)
        assert abs(len(ids) - row["length"]) <= 2
        before, after = around(row)
        # No word is cut, at either end.
        assert set(before.split()[:1]) | set(after.split()[-1:]) <= words
