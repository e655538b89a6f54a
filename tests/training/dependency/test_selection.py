"""Which turns are marked, how, and what is said about it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import Row, read_rows
from tests.tiny import tokenizer
from training import files
from training.dependency import select as selection
from training.dependency.select import length_bins, select, summary


def row(name: str, *scores: float | None, words: int = 3) -> Row:
    """A conversation with one round for each score."""
    messages = []
    for turn in range(len(scores)):
        messages.append({"role": "user", "content": " ".join([f"q{turn}"] * words)})
        messages.append({"role": "assistant", "content": f"r{turn}"})
    return {"id": name, "messages": messages, "context_dependency": list(scores)}


def write(tmp_path: Path, *rows: Row, name: str = "in.jsonl") -> str:
    write_rows(tmp_path / name, rows)
    return str(tmp_path / name)


def marked(path: Path) -> list[list[bool]]:
    """For each conversation: which instructions end in ` [IND]`."""
    return [
        [m["content"].endswith(" [IND]") for m in found["messages"] if m["role"] == "user"]
        for found in read_rows(path)
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_scores_strictly_above_beta_are_marked(tmp_path: Path, suffix: str) -> None:
    source = write(
        tmp_path, row("a", 0.6, 0.6000001, None), row("b", 0.1, 1.0), name=f"in.{suffix}"
    )
    result = select(source, tmp_path / f"out.{suffix}")
    assert marked(tmp_path / f"out.{suffix}") == [[False, True, False], [False, True]]
    assert (result.selected, result.scored, result.unscored, result.turns) == (2, 4, 1, 5)


def test_only_the_instruction_of_a_selected_turn_changes(tmp_path: Path) -> None:
    before = {**row("a", 0.9, 0.1), "note": "kept", "source": "s"}
    before["messages"].insert(0, {"role": "system", "content": "Be brief."})
    select(write(tmp_path, before), tmp_path / "out.jsonl")
    (after,) = read_rows(tmp_path / "out.jsonl")
    before["messages"][1]["content"] += " [IND]"
    assert after == before


def test_another_indicator_and_beta(tmp_path: Path) -> None:
    select(write(tmp_path, row("a", 0.5)), tmp_path / "o.jsonl", beta=0.4, indicator="<ctx>")
    (after,) = read_rows(tmp_path / "o.jsonl")
    assert after["messages"][0]["content"] == "q0 q0 q0 <ctx>"


def test_top_takes_the_share_of_scored_turns_and_ties_in_file_order(tmp_path: Path) -> None:
    source = write(
        tmp_path, row("a", 0.5, 0.9, None), row("b", 0.5, 0.5, 0.5), row("c", *[0.1] * 5)
    )
    result = select(source, tmp_path / "out.jsonl", beta=None, top=0.3)
    assert marked(tmp_path / "out.jsonl")[:2] == [[True, True, False], [True, False, False]]
    assert (result.selected, result.scored) == (3, 10)
    assert "score at least 0.5" in selection.summary(result, "[IND]")


@pytest.mark.parametrize(("top", "count"), [(0.1, 3), (1.0, 30), (0.001, 0)])
def test_top_is_a_whole_number_of_turns(top: float, count: int, tmp_path: Path) -> None:
    source = write(tmp_path, *[row(str(i), i / 40, 0.2, 0.3) for i in range(10)])
    result = select(source, tmp_path / "out.jsonl", beta=None, top=top)
    assert result.selected == count == sum(map(sum, marked(tmp_path / "out.jsonl")))


def test_text_with_the_indicator_is_reported_with_ids(tmp_path: Path) -> None:
    rows = [row(str(i), 0.9) for i in range(8)]
    for found in rows[1:]:
        found["messages"][1]["content"] = "the token [IND] again"
    result = select(write(tmp_path, *rows), tmp_path / "out.jsonl")
    assert result.containing == 7
    assert result.containing_ids == ["1", "2", "3", "4", "5"]
    assert "7 conversations contained [IND] before" in selection.summary(result, "[IND]")
    assert marked(tmp_path / "out.jsonl") == [[True]] * 8


def test_a_response_without_an_instruction_marks_nothing(tmp_path: Path) -> None:
    orphan = row("a", 0.9, 0.9)
    orphan["messages"] = orphan["messages"][1:2] * 2
    for cutoff in ({"beta": 0.6}, {"beta": None, "top": 1.0}):
        result = select(write(tmp_path, orphan), tmp_path / "out.jsonl", **cutoff)  # type: ignore[arg-type]
        assert (result.selected, result.without_instruction) == (0, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"context_dependency": [0.5]}, "holds 1 scores in context_dependency for 2 assistant"),
        ({"context_dependency": None}, "holds None in context_dependency for 2 assistant"),
        ({"context_dependency": [0.5, 1.5]}, "holds the score 1.5"),
        ({"context_dependency": [0.5, float("nan")]}, "holds the score nan"),
        ({"context_dependency": [0.5, "0.5"]}, "holds the score '0.5'"),
        ({"context_dependency": [0.5, True]}, "holds the score True"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            r"Row 2 .id bad. .columns .* has no `messages` with role and content strings",
        ),
    ],
)
def test_scores_that_do_not_fit_name_the_row(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    source = write(tmp_path, row("fine", 0.5), {**row("bad", 0.5, 0.5), **change})
    with pytest.raises(UserError, match=words) as caught:
        select(source, tmp_path / "out.jsonl")
    assert "Row 2 (id bad)" in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_dataset_without_scores_says_what_to_run(tmp_path: Path) -> None:
    unscored = {k: v for k, v in row("a", 0.5).items() if k != "context_dependency"}
    for cutoff in ({"beta": 0.6}, {"beta": None, "top": 0.1}):
        with pytest.raises(UserError, match="run ctx-train score"):
            select(write(tmp_path, unscored), tmp_path / "out.jsonl", **cutoff)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.1}, r"--beta 1\.1 is outside 0 to 1"),
        ({"beta": -0.1}, r"--beta -0\.1"),
        ({"beta": None, "top": 0.0}, r"--top 0\.0"),
        ({"beta": None, "top": 1.5}, r"--top 1\.5"),
        ({"beta": 0.6, "top": 0.1}, "exactly one"),
        ({"beta": None}, "exactly one"),
        ({"indicator": " "}, "--indicator ' '"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        select(write(tmp_path, row("a", 0.5)), tmp_path / "out.jsonl", **settings)


def test_lengths_are_counted_in_words_or_tokens(tmp_path: Path) -> None:
    source = write(tmp_path, row("a", 0.9, words=5), row("b", 0.1, words=2), row("c", None))
    in_words = select(source, tmp_path / "out.jsonl")
    assert in_words.all_lengths == {5: 1, 2: 1}
    assert in_words.selected_lengths == {5: 1}
    in_tokens = select(source, tmp_path / "out.jsonl", tokenizer=tokenizer())
    length = len(tokenizer()("q0 q0 q0 q0 q0")["input_ids"])
    assert in_tokens.selected_lengths == {length: 1}
    assert in_tokens.unit == "tokens"


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([4], 4), ([1, 2], 1.5), ([1, 1, 9], 1), ([1, 3, 3, 9], 3)]
)
def test_the_median_of_a_histogram(values: list[int], expected: float | None) -> None:
    assert selection.median(Counter(values)) == expected


def test_when_nothing_is_selected_the_next_step_is_named(tmp_path: Path) -> None:
    result = select(write(tmp_path, row("a", 0.2, 0.5)), tmp_path / "out.jsonl")
    assert result.selected == 0
    assert "No turn is selected: give a lower --beta" in selection.summary(result, "[IND]")


def test_the_figure_is_a_png_and_the_run_is_repeatable(tmp_path: Path) -> None:
    source = write(tmp_path, *[row(str(i), i / 20, words=i + 1) for i in range(20)])
    contents = []
    for _ in range(2):
        select(source, tmp_path / "out.jsonl", figure=tmp_path / "lengths.png")
        contents.append([p.read_bytes() for p in sorted(tmp_path.iterdir())])
    assert contents[0] == contents[1]
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_can_be_drawn_of_nothing_selected(tmp_path: Path) -> None:
    source = write(tmp_path, row("a", None))
    select(source, tmp_path / "out.jsonl", figure=tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").stat().st_size > 1000


def test_the_meta_file_has_settings_and_counts(tmp_path: Path) -> None:
    source = write(tmp_path, row("a", 0.9, None))
    select(source, tmp_path / "out.jsonl", beta=0.5)
    meta = json.loads(files.meta_path(tmp_path / "out.jsonl").read_text())
    assert meta["settings"] == {"beta": 0.5, "top": None, "indicator": "[IND]", "tokenizer": None}
    assert meta["counts"]["selected"] == 1
    assert meta["counts"]["unscored"] == 1
    assert meta["inputs"][0]["sha256"] == sha256(source)


def test_bins_fit_the_lengths() -> None:
    assert length_bins(Counter({5: 9})).tolist() == [5, 6]
    edges = length_bins(Counter(dict.fromkeys(range(20, 400), 10)))
    assert (edges[0], edges[-1], len(edges)) == (20, 400, 41)
    few = length_bins(Counter({3: 1, 50: 1, 900: 2}))
    assert (few[0], few[-1], len(few)) == (3, 901, 3)


def test_the_papers_shares_stand_beside_ones_own(tmp_path: Path) -> None:
    scored = write(tmp_path, row("a", 0.1, 0.7, 0.2), row("b", 0.9))
    result = select(scored, tmp_path / "out.jsonl")
    said = summary(result, "[IND]").splitlines()
    assert "2 of 4 scored turns selected (50.0 %)" in said[0]
    assert said[1].strip() == (
        "The paper, at beta 0.6: 11.6 % of ShareGPT, 16.5 % of UltraChat-200k, "
        "22.5 % of WizardLM-70K."
    )
