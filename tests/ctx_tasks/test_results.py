"""Result files of the harness, ours and plain ones, become typed rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ctx_models import nano
from ctx_tasks.arm import Arm
from ctx_tasks.catalogue import task_folder
from ctx_tasks.errors import UserError
from ctx_tasks.results import read_documents, read_runs, read_samples
from tests.commands import ctx_eval, lm_eval
from tests.ctx_tasks.result_files import sample, write_run

STEERED = {"alpha": 0.9, "schedule": "compound", "steer_generated": False, "indicator": "[IND]"}


@pytest.mark.slow  # plain lm_eval indexes the harness's 14,000 tasks; test_any_task.py reads ours
def test_what_both_command_lines_write_is_read(tmp_path):
    """Plain `lm_eval --model hf` without, `ctx-eval run --model hf-ctx` with a chat template."""
    common = ["--limit", "3", "--device", "cpu", "--log_samples", "--output_path", tmp_path]
    common += ["--metadata", '{"lengths": 2, "depths": 2, "max_length": 300}']
    model = f"pretrained={nano.folder('nano-chat')}"
    plain = ["--model", "hf", "--include_path", task_folder(), "--model_args", model]
    ours = ["--model", "hf-ctx", "--apply_chat_template", "--model_args", f"{model},alpha=0.5"]
    for call, options, task in [
        (lm_eval, plain, "nano_nih_recall_prefix"),
        (ctx_eval, ours, "nano_squad_contains"),
    ]:
        done = call("run", *options, "--tasks", task, *common)
        assert done.code == 0, done.err
    raw, chat = sorted(read_runs([tmp_path]), key=lambda run: run.arm.chat)
    assert [raw.checkpoint, chat.checkpoint] == ["nano-chat", "nano-chat"]
    assert [raw.arm.name, chat.arm.name] == ["raw, prefix", "chat, α 0.5 constant"]
    needle, reading = raw.tasks["nano_nih_recall_prefix"], chat.tasks["nano_squad_contains"]
    assert needle.primary == reading.primary == "score"
    assert needle.settings["limit"] == 3
    assert needle.settings["data"]["lengths"] == 2
    assert len(needle.settings["haystack"]) == 64
    for result in (needle, reading):
        samples = read_samples(result)
        assert len(samples.doc_hashes) == result.n == 3
        assert samples.scores["score"].mean() == pytest.approx(result.metrics["score"].value)
        documents = list(read_documents(result))
        assert [line["doc_hash"] for line in documents] == samples.doc_hashes
    assert read_samples(reading).clusters[0] == documents[0]["doc"]["passage_id"]


def test_steering_and_indicator_make_the_arm(tmp_path):
    write_run(tmp_path, {"t": [sample(1.0, 0)]}, chat=True, config={"ctx": STEERED})
    (run,) = read_runs([tmp_path])
    assert run.arm.name == "chat, α 0.9 compound prompt only, [IND]"


def test_settings_of_steering_are_no_arm_where_alpha_is_one(tmp_path):
    ctx = {"alpha": 1.0, "schedule": "compound", "layers": "1-2"}
    write_run(tmp_path, {"t": [sample(1.0, 0)]}, chat=True, config={"ctx": ctx})
    (run,) = read_runs([tmp_path])
    assert run.arm == Arm(chat=True)


def test_a_task_of_ours_with_a_begun_answer_is_an_arm_of_its_own(tmp_path):
    tasks = ("squad_contains", "squad_contains_prefix")
    path = write_run(tmp_path, {task: [sample(1.0, 0)] for task in tasks})
    assert {run.arm.name: list(run.tasks) for run in read_runs([path])} == {
        "raw": ["squad_contains"],
        "raw, prefix": ["squad_contains_prefix"],
    }


def test_the_response_prefix_of_another_task_is_its_own_and_no_arm(tmp_path):
    prefix = {"gen_prefix": "The answer is"}
    path = write_run(tmp_path, {"niah_single_1": [sample(1.0, 0)]}, task_config=prefix)
    (run,) = read_runs([path])
    assert run.arm.name == "raw"
    assert run.tasks["niah_single_1"].settings["response prefix"] == "The answer is"


def test_the_newest_file_of_a_task_counts(tmp_path, caplog):
    write_run(tmp_path, {"t": [sample(0.0, 0)], "u": [sample(0.0, 0)]}, date=1)
    write_run(tmp_path, {"t": [sample(1.0, 0)]}, stamp="2026-12-01T00-00-00.0", date=2)
    runs = read_runs([tmp_path])
    scores = {name: task.metrics["score"].value for run in runs for name, task in run.tasks.items()}
    assert scores == {"t": 1.0, "u": 0.0}
    assert "t of" in caplog.text
    assert "is newer" in caplog.text


def test_a_hundred_older_results_are_one_line(tmp_path, caplog):
    tasks = {f"t{number}": [sample(0.0, 0)] for number in range(100)}
    write_run(tmp_path, tasks, date=1)
    write_run(tmp_path, tasks, stamp="2026-12-01T00-00-00.0", date=2)
    read_runs([tmp_path])
    assert len(caplog.records) == 1
    assert caplog.text.rstrip().endswith("is newer, and 99 more such.")


def test_checkpoints_of_one_path_are_told_apart_by_their_arguments(tmp_path):
    for name, arguments in {
        "plain": {"pretrained": "/models/m", "device": "cpu"},
        "half": {"pretrained": "/models/m", "dtype": "bfloat16"},
        "other": {"pretrained": "/elsewhere/n"},
    }.items():
        config = {"model_args": arguments}
        model = arguments["pretrained"]
        write_run(tmp_path / name, {"t": [sample(1.0, 0)]}, config=config, model=model)
    names = {run.checkpoint for run in read_runs([tmp_path])}
    assert names == {"m (plain)", "m (dtype=bfloat16)", "n"}


def test_model_arguments_as_text_are_read(tmp_path):
    config = {"model_args": "pretrained=org/model,dtype=bfloat16"}
    write_run(tmp_path, {"t": [sample(1.0, 0)]}, config=config)
    (run,) = read_runs([tmp_path])
    assert json.loads(run.identity) == {"dtype": "bfloat16", "pretrained": "org/model"}


def test_clusters_are_passages_needles_or_documents(tmp_path):
    passages = [sample(1.0, i, passage_id=f"p{i // 2}") for i in range(4)]
    needles = [sample(1.0, i, needle_id=f"n{i % 2}") for i in range(4)]
    one_needle = [sample(1.0, i, needle_id="n") for i in range(4)]
    write_run(tmp_path, {"p": passages, "n": needles, "o": one_needle})
    (run,) = read_runs([tmp_path])
    clusters = {name: read_samples(task).clusters for name, task in run.tasks.items()}
    assert clusters["p"] == ["p0", "p0", "p1", "p1"]
    assert clusters["n"] == ["n0", "n1", "n0", "n1"]
    assert clusters["o"] == read_samples(run.tasks["o"]).doc_hashes


def test_equal_documents_and_missing_scores_are_kept_apart(tmp_path):
    lines = [sample(1.0, 0), sample(0.0, 0), sample(None, 1), sample(math.nan, 2)]
    write_run(tmp_path, {"t": lines})
    (run,) = read_runs([tmp_path])
    samples = read_samples(run.tasks["t"])
    assert samples.doc_hashes[1] == samples.doc_hashes[0] + "#2"
    np.testing.assert_array_equal(samples.scores["score"], [1.0, 0.0, math.nan, math.nan])
    assert [line["doc_hash"] for line in read_documents(run.tasks["t"])] == samples.doc_hashes


def test_one_filter_of_several_is_read(tmp_path):
    lines = [{**sample(1.0, 0), "filter": "strict"}, {**sample(0.0, 0), "filter": "flexible"}]
    found = {"score,strict": 1.0, "score,flexible": 0.0, "alias": "t"}
    write_run(tmp_path, {"t": lines}, results={"t": found})
    (run,) = read_runs([tmp_path])
    assert run.tasks["t"].metrics["score"].value == 1.0
    assert read_samples(run.tasks["t"]).scores["score"].tolist() == [1.0]


def test_documents_of_any_shape_are_read(tmp_path):
    line = {**sample(1.0, 0), "doc": ["no", "mapping"]}
    write_run(tmp_path, {"t": [line]})
    (run,) = read_runs([tmp_path])
    assert read_samples(run.tasks["t"]).clusters == [line["doc_hash"]]


def test_what_is_still_being_written_is_not_read(tmp_path):
    write_run(tmp_path / ".half.tmp", {"t": [sample(1.0, 0)]})
    with pytest.raises(UserError, match="holds no results"):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is not JSON \(line 1, column 1: Expecting value\); remove it or make it again"),
        ("{", r"is not JSON \(line 1, column 2: Expecting property name"),
        ("[]", "is no results file of lm-eval"),
        ("{}", "no 'config'"),
        ('{"config": {}, "results": {}}', "no task with a score"),
        ('{"config": {}, "results": {"t": 3}}', "is no results file"),
    ],
)
def test_a_malformed_results_file_is_named(tmp_path, content, message):
    path = tmp_path / "results_x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_runs([tmp_path])
    assert str(path) in str(raised.value)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["{", '{"doc": {}}', "[]"])
def test_a_malformed_sample_line_is_named(tmp_path, text):
    path = write_run(tmp_path, {"t": [sample(1.0, 0)]})
    file = next(path.parent.glob("samples_t_*"))
    file.write_text(file.read_text() + text + "\n")
    (run,) = read_runs([tmp_path])
    with pytest.raises(UserError, match="line 2 is no sample"):
        read_samples(run.tasks["t"])


def test_samples_that_were_not_logged_are_asked_for(tmp_path):
    write_run(tmp_path, {"t": [sample(1.0, 0)]}, log_samples=False)
    (run,) = read_runs([tmp_path])
    with pytest.raises(UserError, match="--log_samples"):
        read_samples(run.tasks["t"])


def test_answers_without_scores_are_left_out_beside_others_and_refused_alone(tmp_path, caplog):
    """MT-Bench before the judge has rated it, and --predict_only."""
    waiting = {
        "config": {},
        "results": {"mt_bench": {"sample_len": 0}, "squad_contains": {"bypass,none": 999}},
    }
    (tmp_path / "results_0.json").write_text(json.dumps(waiting))
    with pytest.raises(UserError, match="ctx-eval judge"):
        read_runs([tmp_path])
    write_run(tmp_path, {"t": [sample(1.0, 0)]})
    (run,) = read_runs([tmp_path])
    assert list(run.tasks) == ["t"]
    assert "results_0.json holds answers without scores" in caplog.text
