"""Exported logs are what Every Eval Ever's published schema and its own checker allow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import ctx_eval
from tests.ctx_tasks.result_files import hits, lines, read_lines, sample, write_run

# What the checker was seen to want beyond the schema, and the schema of every file.
REQUIRED = {
    *("schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata"),
    *("model_info", "eval_library", "evaluation_results"),
}
OF_A_ROW = {
    *("schema_version", "evaluation_id", "model_id", "evaluation_name", "sample_id"),
    *("interaction_type", "input", "answer_attribution", "evaluation"),
}


@pytest.fixture
def exported(evaluated, tmp_path) -> Path:
    """A real run; ratings of conversations, a task rated by likelihood, and one without samples."""
    talk = sample(8.0, 0, "rating", turns=["Who?", "Why?"])
    talk |= {"filtered_resps": [["Ada.", "She can."]]}
    write_run(tmp_path / "talk", {"mt_bench_2turn": [talk]}, metric="rating", chat=True)
    rated = lines(hits(3, 8))
    for line in rated:
        line["arguments"] = {f"gen_args_{n}": {"arg_0": "Q", "arg_1": t} for n, t in PAIR}
        line["resps"] = line["filtered_resps"] = [[-1.5, True], [-2.5, False]]
    write_run(tmp_path / "rated", {"arc": rated})
    write_run(tmp_path / "bare", {"bare": lines(hits(3, 8))}, log_samples=False, model="/a/b")
    folders = (evaluated, *(tmp_path / name for name in ("talk", "rated", "bare")))
    done = ctx_eval("export", *folders, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    return tmp_path / "out"


PAIR = ((0, " yes"), (1, " no"))


def files(folder: Path, ending: str) -> list[Path]:
    found = sorted(folder.rglob(f"*{ending}"))
    assert found
    return found


def strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def test_every_log_has_what_is_required_and_details_in_strings(exported):
    for path in files(exported, ".json"):
        log = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert log.keys() >= REQUIRED
        assert log.keys() - REQUIRED <= {"evaluation_timestamp", "detailed_evaluation_results"}
        details = log["model_info"]["additional_details"]
        assert details["deployment_type"] in ("self_deployed", "externally_managed", "unknown")
        assert details["model_availability"] in ("open_weights", "closed_weights", "unknown")
        assert strings(details)
        assert strings(log["source_metadata"]["additional_details"])
        assert strings(log["eval_library"]["additional_details"])
        for result in log["evaluation_results"]:
            metric, score = result["metric_config"], result["score_details"]["score"]
            assert isinstance(metric["lower_is_better"], bool)
            if "score_type" in metric:
                assert metric["min_score"] <= score <= metric["max_score"]
            assert strings(result["generation_config"]["additional_details"])
            assert strings(result["score_details"]["details"])
            assert result["source_data"]["source_type"] in ("hf_dataset", "other")


def test_every_row_has_what_is_required_of_its_kind(exported):
    kinds = set()
    for path in files(exported, "_samples.jsonl"):
        for row in read_lines(path):
            kinds.add(row["interaction_type"])
            assert row.keys() >= OF_A_ROW
            assert (row["output"] is None) == (row["interaction_type"] == "multi_turn")
            assert ("messages" in row) == (row["interaction_type"] == "multi_turn")
            assert isinstance(row["evaluation"]["is_correct"], bool)
            assert strings(row["metadata"])
    assert kinds == {"single_turn", "multi_turn"}


@pytest.mark.every_eval_ever
def test_the_published_schema_allows_every_log_and_row(exported):
    import jsonschema
    from every_eval_ever import schemas

    folder = Path(next(iter(schemas.__path__)))
    for ending, name in ((".json", "eval"), ("_samples.jsonl", "instance_level_eval")):
        schema = json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))
        check = jsonschema.Draft7Validator(schema)
        for path in files(exported, ending):
            text = path.read_text(encoding="utf-8")
            for one in [text] if ending == ".json" else text.splitlines():
                assert not [error.message for error in check.iter_errors(json.loads(one))]


@pytest.mark.every_eval_ever
def test_the_project_s_own_checker_finds_no_error_and_warns_of_nothing(exported, capsys):
    from every_eval_ever.validate import main

    paths = [str(path) for ending in (".json", ".jsonl") for path in files(exported, ending)]
    assert main([*paths, "--format", "github"]) == 0, capsys.readouterr().out
