"""What lighteval leaves becomes rows, or a sentence on what it lacks."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctx_tasks.leaderboard.board import board
from ctx_tasks.results import read_documents, read_runs
from tests.commands import ctx_eval

DATE = "2026-11-26T20-41-32.349652"
TASK = "gsm8k|0"


def document(number: int, score: float, metric: str = "em") -> dict[str, Any]:
    """A row of a details file of lighteval 0.13, as far as it is read."""
    return {
        "doc": {
            "query": f"question {number}",
            "choices": [str(number)],
            "gold_index": 0,
            "id": str(number),
            "task_name": TASK,
        },
        "metric": {metric: score},
        "model_response": {"input": f"prompt {number}", "text": [f"answer {number}"]},
    }


def write_results(folder: Path, rows: list[dict[str, Any]] = (), **model: Any) -> Path:
    """A results file and the details where `EvaluationTracker.save` puts them."""
    path = folder / "results/org/model" / f"results_{DATE}.json"
    path.parent.mkdir(parents=True)
    content = {
        "config_general": {
            "max_samples": None,
            "model_config": {"model_name": "org/model", "dtype": "bfloat16", **model},
            "model_name": "org/model",
        },
        "results": {
            TASK: {"em": 0.75, "em_stderr": 0.16},
            "mmlu:_average|0": {"em": 0.75, "em_stderr": 0.16},
            "all": {"em": 0.75, "em_stderr": 0.16},
        },
        "versions": {TASK: 0},
        "config_tasks": {
            TASK: {
                "hf_repo": "openai/gsm8k",
                "hf_subset": "main",
                "evaluation_splits": ["test"],
                "effective_num_docs": 8,
                "num_fewshots": 0,
            }
        },
    }
    path.write_text(json.dumps(content))
    if rows:
        details = folder / "details/org/model" / DATE / f"details_{TASK}_{DATE}.parquet"
        details.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), details)
    return path


EIGHT = [document(n, float(n < 6)) for n in range(8)]


def test_scores_of_documents_give_the_error(tmp_path):
    write_results(tmp_path, EIGHT)
    (row,) = board(read_runs([tmp_path])).rows
    assert list(row.cells) == [TASK]
    cell = row.cells[TASK]
    assert cell.estimate is not None
    assert (cell.value, cell.n, cell.estimate.clusters) == (0.75, 8, 8)
    assert cell.error == pytest.approx((0.75 * 0.25 / 7) ** 0.5)
    assert row.checkpoint == "org/model"


def test_documents_have_question_prompt_answer_and_target(tmp_path):
    write_results(tmp_path, EIGHT)
    (run,) = read_runs([tmp_path])
    line = next(read_documents(run.tasks[TASK]))
    assert line["doc"] == {"question": "question 0"}
    assert line["arguments"]["gen_args_0"]["arg_0"] == "prompt 0"
    assert line["filtered_resps"] == ["answer 0"]
    assert line["target"] == "0"


def test_a_results_file_alone_finds_its_details(tmp_path):
    path = write_results(tmp_path, EIGHT)
    (run,) = read_runs([path])
    assert run.tasks[TASK].logged
    assert run.date > 1.7e9


def test_without_details_the_score_has_the_error_of_the_file(tmp_path):
    write_results(tmp_path)
    made = board(read_runs([tmp_path]))
    cell = made.rows[0].cells[TASK]
    assert (cell.value, cell.error, cell.n) == (0.75, 0.16, 8)
    assert any("nothing is paired" in note for note in made.notes)


@pytest.mark.parametrize(
    ("model", "arm", "untold"),
    [
        ({"override_chat_template": True}, "chat", 0),
        ({"override_chat_template": False}, "raw", 0),
        ({"override_chat_template": None}, "chat", 1),
        ({"use_chat_template": False}, "raw", 0),
        ({}, "chat", 1),
    ],
)
def test_the_template_is_what_was_asked_for_or_said_to_be_unknown(
    tmp_path, caplog, model, arm, untold
):
    write_results(tmp_path, EIGHT, **model)
    with caplog.at_level(logging.WARNING):
        (run,) = read_runs([tmp_path])
    assert run.arm.name == arm
    assert sum("chat template" in r.getMessage() for r in caplog.records) == untold


def test_settings_are_known_as_far_as_they_are_recorded(tmp_path):
    write_results(tmp_path, EIGHT, generation_parameters={"temperature": 0, "top_p": None})
    (run,) = read_runs([tmp_path])
    settings = run.tasks[TASK].settings
    assert settings["data"] == {
        "dataset_path": "openai/gsm8k",
        "dataset_name": "main",
        "test_split": "test",
    }
    assert settings["generation settings"] == {"temperature": 0, "repeats": 1}
    assert (settings["task version"], settings["dtype"]) == (0, "bfloat16")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("config_general", {}), "(no 'model_name'): the leaderboard needs config_general"),
        (("results", None), "is no results file of lighteval 0.8 or later"),
    ],
)
def test_what_a_results_file_lacks_is_named(tmp_path, change, said):
    path = write_results(tmp_path, EIGHT)
    path.write_text(json.dumps({**json.loads(path.read_text()), change[0]: change[1]}))
    done = ctx_eval("leaderboard", tmp_path)
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_details_of_an_older_lighteval_are_named(tmp_path):
    write_results(tmp_path, [{"example": "question", "metrics": "{}"}])
    done = ctx_eval("leaderboard", tmp_path)
    assert done.code == 2
    assert "(no 'doc'): it needs doc and metric" in " ".join(done.err.split())
