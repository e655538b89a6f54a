"""Results become Every Eval Ever logs, and the same results again."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ctx_tasks.exchange.cells import cells
from ctx_tasks.exchange.every_eval_ever import Publisher, write
from ctx_tasks.leaderboard.board import Board, board
from ctx_tasks.results import read_documents, read_runs, read_samples
from tests.commands import ctx_eval
from tests.ctx_tasks.result_files import hits, lines, read_lines, sample, write_run

CTX = {"alpha": 0.9, "schedule": "compound", "steer_generated": True, "engine": "transformers 5.1"}

KEPT = ("doc_id", "doc", "target", "resps", "filtered_resps", "filter", "doc_hash", "score")


def passages(correct: int) -> list[dict[str, Any]]:
    """Twenty questions on five passages."""
    return [sample(float(n < correct), n, passage_id=f"p{n % 5}") for n in range(20)]


@pytest.fixture
def results(tmp_path) -> Path:
    folder = tmp_path / "results"
    write_run(folder / "raw", {"squad_contains": passages(15), "t": lines(hits(3, 8))})
    write_run(
        folder / "steered",
        {"squad_contains": passages(17), "squad_contains_prefix": passages(18)},
        chat=True,
        config={"ctx": CTX},
    )
    return folder


def export(results: Path, out: Path, **names: str) -> list[Path]:
    return write(list(cells(read_runs([results]), names)), out, Publisher("A lab", "third_party"))


def shown(made: Board) -> dict[tuple[str, str], Any]:
    """All that a board says of each row."""
    return {
        (row.checkpoint, row.arm.name): (row.cells, row.tax, row.unbegun_tax, row.gain, row.others)
        for row in made.rows
    }


def log_of(paths: list[Path], task: str, arm: str) -> dict[str, Any]:
    logs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    (found,) = [log for log in logs if log["evaluation_id"].startswith(f"{task} ({arm})/")]
    return found


def test_exported_results_are_the_same_leaderboard_again(results, tmp_path):
    paths = export(results, tmp_path / "out")
    assert len(paths) == 4
    first, again = (
        board(read_runs([folder]), unbegun_tax=True) for folder in (results, tmp_path / "out")
    )
    assert shown(again) == shown(first)
    assert again.columns == first.columns
    assert sorted(again.notes) == sorted(first.notes)


def test_a_real_run_is_the_same_leaderboard_again(evaluated, tmp_path):
    assert len(export(evaluated, tmp_path / "out")) == 2
    first, again = (board(read_runs([folder])) for folder in (evaluated, tmp_path / "out"))
    assert [row.arm.name for row in first.rows] == ["chat, α 0.5 constant"]
    assert shown(again) == shown(first)
    assert sorted(again.notes) == sorted(first.notes)


def test_runs_that_were_exported_are_the_runs_that_they_were(results, tmp_path):
    export(results, tmp_path / "out")
    tasks = [
        {
            (run.identity, run.arm, name): (run.date, run.harness, run.config, task)
            for run in read_runs([folder])
            for name, task in run.tasks.items()
        }
        for folder in (results, tmp_path / "out")
    ]
    assert tasks[0].keys() == tasks[1].keys()
    for key, (*run, task) in tasks[0].items():
        *other_run, other = tasks[1][key]
        assert other_run == run
        assert (other.chosen, other.settings, other.n) == (task.chosen, task.settings, task.n)
        one, two = read_samples(task), read_samples(other)
        assert (two.doc_hashes, two.clusters) == (one.doc_hashes, one.clusters)
        assert two.prompts == one.prompts
        assert two.scores["score"].tolist() == one.scores["score"].tolist()
        for line, back in zip(read_documents(task), read_documents(other), strict=True):
            assert {name: back.get(name) for name in KEPT} == {name: line[name] for name in KEPT}
            assert back["arguments"]["gen_args_0"]["arg_0"] == f"prompt {line['doc_id']}"


def test_a_log_has_the_arm_the_template_the_settings_and_the_clustered_error(results, tmp_path):
    paths = export(results, tmp_path / "out")
    log = log_of(paths, "squad_contains", "chat, α 0.9 compound")
    assert log["schema_version"] == "0.3.0"
    assert log["source_metadata"]["source_organization_name"] == "A lab"
    assert log["source_metadata"]["evaluator_relationship"] == "third_party"
    assert log["model_info"]["inference_engine"] == {"name": "transformers", "version": "5.1"}
    (result,) = log["evaluation_results"]
    details = result["generation_config"]["additional_details"]
    assert details["arm"] == "chat, α 0.9 compound"
    assert json.loads(details["arm_fields"])["alpha"] == 0.9
    assert details["chat_template_sha"] == "abc"
    assert json.loads(details["config.ctx"]) == CTX
    (row,) = [row for row in board(read_runs([results])).rows if row.arm.name == details["arm"]]
    expected = row.cells["SQuAD"].estimate
    assert expected is not None
    spread = result["score_details"]["uncertainty"]
    assert result["score_details"]["score"] == pytest.approx(expected.mean)
    assert spread["standard_error"]["value"] == expected.error
    assert spread["standard_error"]["value"] != pytest.approx(0.01)  # the harness's
    interval = spread["confidence_interval"]
    assert (interval["lower"], interval["upper"]) == (expected.low, expected.high)
    assert interval["confidence_level"] == 0.95
    assert spread["num_samples"] == 20
    assert result["score_details"]["details"]["clusters"] == "5"
    assert (result["metric_config"]["min_score"], result["metric_config"]["max_score"]) == (0, 1)


def test_samples_lie_beside_their_log_and_refer_to_it(results, tmp_path):
    out = tmp_path / "out"
    for path in export(results, out):
        log = json.loads(path.read_text(encoding="utf-8"))
        beside = log["detailed_evaluation_results"]
        file = out / beside["file_path"]
        assert file == path.with_name(f"{path.stem}_samples.jsonl")
        assert path.parent == out / "data" / "lm-eval-ctx" / "org" / "model"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == beside["checksum"]
        rows = read_lines(file)
        assert len(rows) == beside["total_rows"]
        assert {row["evaluation_id"] for row in rows} == {log["evaluation_id"]}
        assert {row["model_id"] for row in rows} == {log["model_info"]["id"]} == {"org/model"}
        result = log["evaluation_results"][0]
        assert {row["evaluation_result_id"] for row in rows} == {result["evaluation_result_id"]}
        mean = sum(row["evaluation"]["score"] for row in rows) / len(rows)
        assert mean == pytest.approx(result["score_details"]["score"])


def test_a_row_has_the_document_the_prompt_and_the_answer(results, tmp_path):
    paths = export(results, tmp_path / "out")
    beside = log_of(paths, "squad_contains", "raw")["detailed_evaluation_results"]["file_path"]
    row = read_lines(tmp_path / "out" / beside)[0]
    document = passages(15)[0]
    assert json.loads(row["input"]["raw"]) == document["doc"]
    assert row["input"]["formatted"] == "prompt 0"
    assert row["input"]["reference"] == ["yes"]
    assert row["output"] == {"raw": ["answer 0"]}
    assert row["answer_attribution"][0]["extracted_value"] == "answer 0"
    assert row["evaluation"] == {"score": 1.0, "is_correct": True}
    assert row["metadata"]["doc_hash"] == document["doc_hash"]


def test_documents_of_two_arms_have_one_hash(results, tmp_path):
    paths = export(results, tmp_path / "out")
    hashes = []
    for arm in ("raw", "chat, α 0.9 compound"):
        beside = log_of(paths, "squad_contains", arm)["detailed_evaluation_results"]["file_path"]
        hashes.append([row["sample_hash"] for row in read_lines(tmp_path / "out" / beside)])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 20


def test_results_without_samples_have_the_harness_s_error_and_no_file_beside(tmp_path):
    write_run(tmp_path / "in", {"t": lines(hits(3, 8))}, log_samples=False)
    (path,) = export(tmp_path / "in", tmp_path / "out")
    log = json.loads(path.read_text(encoding="utf-8"))
    assert "detailed_evaluation_results" not in log
    spread = log["evaluation_results"][0]["score_details"]["uncertainty"]
    assert spread == {"standard_error": {"value": 0.01, "method": "lm_eval"}, "num_samples": 8}
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    (run,) = read_runs([tmp_path / "out"])
    assert run.tasks["t"].metrics["score"].error == 0.01


def test_documents_without_a_score_have_no_row(tmp_path):
    write_run(tmp_path / "in", {"t": lines([1.0, None, 0.0])})
    (path,) = export(tmp_path / "in", tmp_path / "out")
    rows = read_lines(path.with_name(f"{path.stem}_samples.jsonl"))
    assert [row["evaluation"]["score"] for row in rows] == [1.0, 0.0]


def test_a_score_that_is_no_number_is_no_log(tmp_path):
    write_run(tmp_path / "in", {"t": lines([1.0]), "u": lines([math.nan])})
    (path,) = export(tmp_path / "in", tmp_path / "out")
    assert "NaN" not in path.read_text(encoding="utf-8")


def test_a_conversation_is_one_of_many_turns(tmp_path):
    line = sample(8.0, 0, "rating", turns=["Who?", "Why?"])
    line |= {"filtered_resps": [["Ada.", "She can."]]}
    write_run(tmp_path / "in", {"mt_bench_2turn": [line]}, metric="rating")
    (path,) = export(tmp_path / "in", tmp_path / "out")
    (row,) = read_lines(path.with_name(f"{path.stem}_samples.jsonl"))
    assert row["interaction_type"] == "multi_turn"
    said = [(one["role"], one["content"]) for one in row["messages"]]
    assert said == [
        *(("user", "Who?"), ("assistant", "Ada.")),
        *(("user", "Why?"), ("assistant", "She can.")),
    ]
    (run,) = read_runs([tmp_path / "out"])
    (back,) = read_documents(run.tasks["mt_bench_2turn"])
    assert back["filtered_resps"] == [["Ada.", "She can."]]


def test_the_tasks_of_a_group_lie_in_its_log(tmp_path):
    of_group = {"group_subtasks": {"g": ["a", "b"]}}
    tasks = {"a": lines(hits(3, 8)), "b": lines(hits(5, 8))}
    path = write_run(tmp_path / "in", tasks, **of_group)
    content = json.loads(path.read_text())
    content["results"]["g"] = {"score,none": 0.5, "score_stderr,none": 0.1}
    path.write_text(json.dumps(content))
    (log,) = export(tmp_path / "in", tmp_path / "out")
    rows = read_lines(log.with_name(f"{log.stem}_samples.jsonl"))
    assert [row["evaluation_name"] for row in rows] == ["a"] * 8 + ["b"] * 8
    first, again = (board(read_runs([tmp_path / name])) for name in ("in", "out"))
    assert shown(again) == shown(first)


def test_a_second_export_has_the_names_of_the_first(results, tmp_path):
    names = [
        sorted(path.name for path in export(results, tmp_path / out)) for out in ("one", "two")
    ]
    assert names[0] == names[1]
    assert len(set(names[0])) == 4


def test_the_command_names_models_of_folders_as_asked(tmp_path):
    write_run(tmp_path / "in", {"t": lines(hits(3, 8))}, model="/models/my model")
    done = ctx_eval("export", tmp_path / "in", "-o", tmp_path / "plain")
    assert done.code == 0, done.err
    assert (tmp_path / "plain/data/lm-eval-ctx/local/my-model").is_dir()
    named = ("--model-id", "my model=me/mine")
    done = ctx_eval("export", tmp_path / "in", "-o", tmp_path / "named", *named)
    assert done.code == 0, done.err
    assert (tmp_path / "named/data/lm-eval-ctx/me/mine").is_dir()
    assert "Wrote 1 logs below" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model-id", "other=me/mine"), "there is no checkpoint other; the results have"),
        (("--model-id", "org/model=mine"), "no name of a model on the hub; write OWNER/NAME"),
        (("--model-id", "mine"), "must be NAME=VALUE, such as --model-id my-model=me/my-model"),
    ],
)
def test_a_wrong_name_is_refused_and_nothing_is_written(results, tmp_path, options, said):
    done = ctx_eval("export", results, "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(results, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    done = ctx_eval("export", results, "-o", out)
    assert done.code == 2
    assert "is not empty" in done.err
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


def test_malformed_samples_leave_no_folder(results, tmp_path):
    (file,) = (results / "raw").glob("samples_squad*")
    file.write_text(file.read_text() + "{")
    done = ctx_eval("export", results, "-o", tmp_path / "out")
    assert done.code == 2
    assert not (tmp_path / "out").exists()
