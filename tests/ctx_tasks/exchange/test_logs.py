"""Every Eval Ever logs that others wrote become rows, or a sentence on what they lack."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ctx_tasks.leaderboard.board import board
from ctx_tasks.results import read_runs, read_samples
from tests.commands import ctx_eval
from tests.ctx_tasks.result_files import lines, write_run

NAME = "5f0c3e0e-8f2e-4c39-9a53-0d9fdc5b3a10"


def result(name: str = "gsm8k", score: float = 0.75, **more: Any) -> dict[str, Any]:
    return {
        "evaluation_name": name,
        "source_data": {"dataset_name": name, "source_type": "other"},
        "metric_config": {"evaluation_description": "accuracy", "lower_is_better": False},
        "score_details": {"score": score, "uncertainty": {"num_samples": 4}},
        **more,
    }


def row(number: int, score: float, **more: Any) -> dict[str, Any]:
    return {
        "schema_version": "0.3.0",
        "evaluation_id": "an id",
        "model_id": "org/model",
        "evaluation_name": "gsm8k",
        "sample_id": str(number),
        "sample_hash": f"hash {number}",
        "interaction_type": "single_turn",
        "input": {"raw": f"question {number}", "reference": ["4"]},
        "output": {"raw": ["four"]},
        "answer_attribution": [],
        "evaluation": {"score": score, "is_correct": score == 1},
        **more,
    }


def write_log(folder: Path, *results: dict[str, Any], rows: Any = (), **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.json"
    log = {
        "schema_version": "0.3.0",
        "evaluation_id": "an id",
        "evaluation_timestamp": "1760000000",
        "retrieved_timestamp": "1770000000",
        "source_metadata": {
            "source_type": "evaluation_run",
            "source_organization_name": "somebody",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "inspect_ai", "version": "0.3"},
        "model_info": {"name": "model", "id": "org/model", "additional_details": {}},
        "evaluation_results": list(results),
        **more,
    }
    path.write_text(json.dumps({k: v for k, v in log.items() if v is not None}))
    if rows:
        text = "".join(json.dumps(one) + "\n" for one in rows)
        path.with_name(f"{NAME}_samples.jsonl").write_text(text)
    return path


FOUR = [row(n, score) for n, score in enumerate([1.0, 1.0, 1.0, 0.0])]


def test_scores_of_documents_give_the_error(tmp_path):
    write_log(tmp_path, result(), rows=FOUR)
    (shown,) = board(read_runs([tmp_path])).rows
    cell = shown.cells["gsm8k"]
    assert cell.value == 0.75
    assert cell.estimate is not None
    assert (cell.n, cell.estimate.clusters) == (4, 4)
    assert cell.error == pytest.approx(0.25)
    assert shown.checkpoint == "org/model"


def test_without_documents_the_score_has_the_error_of_the_file(tmp_path):
    spread = {"standard_error": {"value": 0.02}, "num_samples": 1319}
    write_log(tmp_path, result(score_details={"score": 0.8, "uncertainty": spread}))
    made = board(read_runs([tmp_path]))
    cell = made.rows[0].cells["gsm8k"]
    assert (cell.value, cell.error, cell.n) == (0.8, 0.02, 1319)
    assert any("nothing is paired" in note for note in made.notes)


def test_documents_whose_mean_is_not_the_score_are_not_its_documents(tmp_path):
    write_log(tmp_path, result(score=0.6), rows=FOUR)
    made = board(read_runs([tmp_path]))
    assert any("not scored per document" in note for note in made.notes)


def test_rows_belong_to_the_result_and_the_evaluation_they_name(tmp_path):
    first = result(evaluation_result_id="1", metric_config={"metric_id": "em"})
    second = result(score=0.25, evaluation_result_id="2", metric_config={"metric_id": "f1"})
    other = result("mmlu", 1.0)
    rows = [{**one, "evaluation_result_id": "1"} for one in FOUR]
    rows += [{**one, "evaluation_result_id": "2"} for one in [row(n, n == 0) for n in range(4)]]
    rows += [{**row(9, 1.0), "evaluation_name": "mmlu"}]
    write_log(tmp_path, first, second, other, rows=rows)
    (run,) = read_runs([tmp_path])
    assert {name: task.primary for name, task in run.tasks.items()} == {
        "gsm8k": "em",
        "mmlu": "accuracy",
    }
    found = read_samples(run.tasks["gsm8k"]).scores
    assert (found["em"].tolist(), found["f1"].tolist()) == ([1, 1, 1, 0], [1, 0, 0, 0])
    assert read_samples(run.tasks["mmlu"]).scores["accuracy"].tolist() == [1]


def test_a_document_that_was_asked_twice_counts_twice(tmp_path):
    write_log(tmp_path, result(score=0.5), rows=[row(0, 1.0), row(0, 0.0)])
    (run,) = read_runs([tmp_path])
    assert read_samples(run.tasks["gsm8k"]).scores["accuracy"].tolist() == [1, 0]


def test_logs_of_the_project_s_own_converter_have_hashes_and_all_metrics(tmp_path):
    described = {"evaluation_description": "exact_match (filter: strict)"}
    kept = {"doc_hash": "d", "lm_eval_metrics": '{"exact_match": 1.0, "other": 0.0}'}
    write_log(
        tmp_path,
        result("gsm8k/strict", 1.0, metric_config=described),
        rows=[{**row(0, 1.0), "evaluation_name": "gsm8k/strict", "metadata": kept}],
    )
    (run,) = read_runs([tmp_path])
    task = run.tasks["gsm8k/strict"]
    assert task.primary == "exact_match"
    assert read_samples(task).doc_hashes == ["d"]


def test_that_the_arm_is_not_known_is_said_once(tmp_path, caplog):
    write_log(tmp_path / "a", result())
    write_log(tmp_path / "b", result("mmlu"))
    with caplog.at_level(logging.WARNING):
        (one, two) = read_runs([tmp_path])
    assert one.arm.name == two.arm.name == "chat"
    (said,) = [r.getMessage() for r in caplog.records if "chat template" in r.getMessage()]
    assert "and 1 more files did not record whether a chat template was applied" in said


def test_a_model_of_others_is_no_checkpoint_of_ours(tmp_path):
    """No tax is taken between what was run here and what somebody else reports."""
    write_run(tmp_path / "ours", {"t": lines([1.0, 0.0])}, model="org/model")
    write_log(tmp_path / "theirs", result())
    rows = board(read_runs([tmp_path])).rows
    assert len({row.checkpoint for row in rows}) == 2
    assert not any(row.tax or row.unbegun_tax or row.gain for row in rows)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"schema_version": "1.0.0"}, "is an Every Eval Ever log of schema 1.0.0; 0.2 and 0.3"),
        ({"model_info": None}, "(no 'model_info'): the leaderboard needs model_info.id"),
        ({"evaluation_results": [{"evaluation_name": "t"}]}, "(no 'score_details')"),
        ({"evaluation_results": []}, "no task with a score"),
    ],
)
def test_what_a_log_lacks_is_named(tmp_path, more, said):
    path = write_log(tmp_path, result(), **more)
    done = ctx_eval("leaderboard", tmp_path)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert path.name in done.err.replace("\n", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "line 1 is no document of an Every Eval Ever log"), ("{}", "no 'evaluation_name'")],
)
def test_a_malformed_row_is_named(tmp_path, text, said):
    write_log(tmp_path, result(), rows=FOUR).with_name(f"{NAME}_samples.jsonl").write_text(text)
    done = ctx_eval("leaderboard", tmp_path)
    assert done.code == 2
    assert said in " ".join(done.err.split())
