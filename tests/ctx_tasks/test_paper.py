"""A version of the paper as one setting: what it sets, and that it reaches the harness."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctx_tasks import paper
from ctx_tasks.errors import UserError
from tests import tiny
from tests.ctx_tasks import mt_bench_data
from tests.ctx_tasks import reading_data as data
from tests.ctx_tasks.test_reading_tasks import CONFIGS
from tests.scripted import Scripted

ALL = ["nih_recall", "squad_contains", "quac_contains", "drop_contains", "mt_bench"]
SCORED = {
    None: ("contains", "contains", "contains"),
    "iclr2025": ("contains_verbatim", "contains_verbatim", "contains_released"),
    "neurips2025": ("contains", "contains", "contains_released"),
}


@pytest.fixture
def metadata(tmp_path: Path) -> dict[str, Any]:
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return {
        **data.write_all(tmp_path),
        "mt_bench_files": str(mt_bench_data.write_all(tmp_path / "mt_bench")),
        "tokenizer": str(tmp_path / "tokenizer"),
        "max_length": 400,
        "lengths": 2,
        "depths": 2,
    }


def evaluate(
    metadata: dict[str, Any], tasks: list[str], answer: str = "x", **settings: Any
) -> tuple[dict[str, Any], Scripted]:
    manager = TaskManager(include_path=str(CONFIGS), include_defaults=False, metadata={**metadata})
    model = Scripted({"": answer})
    results = simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **settings
    )
    return results, model


@pytest.mark.parametrize("version", [None, *paper.VERSIONS])
def test_a_version_sets_every_task_and_stands_in_the_results(
    metadata: dict[str, Any], version: str | None
) -> None:
    given = {**metadata, "paper": version} if version else metadata
    results, _ = evaluate(given, ALL, "BY ADA")
    configs = results["configs"]
    assert {config["metadata"].get("paper") for config in configs.values()} == {version}
    later = version == "neurips2025"
    assert configs["nih_recall"]["generation_kwargs"]["max_gen_toks"] == (100 if later else 50)
    assert len(results["samples"]["nih_recall"]) == (16 if later else 4)
    assert ("prompt_spread,none" in results["results"]["nih_recall"]) == later
    for name, metric in zip(ALL[1:4], SCORED[version], strict=True):
        found = results["results"][name]
        assert found["score,none"] == found[f"{metric},none"]
        assert configs[name]["metadata"]["data_used"].get("score", "contains") == metric
    quac = results["samples"]["quac_contains"][0]["arguments"][0][0]
    assert quac.startswith("Title: T\nSome background. The lamp") == (version is not None)
    assert configs["mt_bench"]["metadata"].get("mt_bench_indicator", False) is later


def test_a_setting_given_beside_the_version_wins_with_a_warning(
    metadata: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    paper._say_which_wins.cache_clear()
    given = {**metadata, "paper": "neurips2025", "answer_tokens": 50, "prompts": "paper"}
    with caplog.at_level(logging.WARNING):
        results, model = evaluate(given, ["nih_recall"])
    assert len(results["samples"]["nih_recall"]) == 4
    assert all(settings["max_gen_toks"] == 50 for settings in model.settings)
    said = [record.message for record in caplog.records if "what is given wins" in record.message]
    assert [text.split(",")[0] for text in said] == ["answer_tokens is 50", "prompts is paper"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paper": "icml"}, "paper is iclr2025 or neurips2025, but got 'icml'"),
        ({"quac_prompt": "title"}, "quac_prompt is context or title_background, but got 'title'"),
        ({"squad_score": "f1"}, "squad_score is contains or contains_verbatim, but got 'f1'"),
        ({"mt_bench_indicator": "yes"}, "mt_bench_indicator is true or false, but got 'yes'"),
        ({"answer_tokens": 0}, "answer_tokens must be a whole number of at least 1, but got 0"),
        ({"prompts": "five"}, "prompts must be paper, four or the path of a YAML file"),
    ],
)
def test_what_there_is_not_is_refused(
    metadata: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate({**metadata, **given}, ALL)


def test_the_score_can_be_named_without_a_version(metadata: dict[str, Any]) -> None:
    given = {**metadata, "squad_score": "contains_verbatim"}
    results, _ = evaluate(given, ["squad_contains"], "ada")
    scored = results["samples"]["squad_contains"][0]
    assert scored["score"] == scored["contains_verbatim"] == 1.0
    used = results["configs"]["squad_contains"]["metadata"]["data_used"]
    assert used["score"] == "contains_verbatim"


@pytest.mark.parametrize("row", [{"wikipedia_page_title": " "}, {"background": None}])
def test_quac_without_titles_is_told_so(
    metadata: dict[str, Any], tmp_path: Path, row: dict[str, Any]
) -> None:
    file = data.write_lines(tmp_path / "bare.jsonl", [{**data.QUAC[0], **row}])
    given = {**metadata, "quac_files": file, "quac_prompt": "title_background"}
    [column] = row
    with pytest.raises(UserError, match=f"bare.jsonl has .*{column}"):
        evaluate(given, ["quac_contains"])


def test_the_table_has_a_row_for_each_setting() -> None:
    head, line, *rows = paper.table().splitlines()
    assert head.count("|") == line.count("|") == 6
    assert [row.split("`")[1] for row in rows] == list(paper.SETTINGS)
    assert rows[-1].endswith("| `false` | `false` | `true` |")
