"""Tasks of the harness that are not ours: real runs of their shapes, files of older versions."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ctx_tasks.coverage import scored
from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard import formats
from ctx_tasks.leaderboard.board import board
from ctx_tasks.results import read_documents, read_runs, read_samples
from ctx_tasks.scores import BESIDE, Choice
from tests.commands import ctx_eval

SHAPES = Path(__file__).parent / "other_tasks"
TASKS = [
    *("other_choice", "other_mmlu", "other_gsm8k", "other_ruler", "other_ruler_short"),
    *("other_ifeval", "other_longbench", "other_truthfulqa", "other_wikitext", "other_lambada"),
]


def evaluate(output: Path, *more: str, alpha: float = 1.0) -> None:
    # Steering refuses a text without a prompt.
    tasks = [task for task in TASKS if alpha == 1 or task != "other_wikitext"]
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--model_args", f"pretrained=nano-chat,alpha={alpha}"),
        *("--tasks", ",".join(tasks), "--include_path", SHAPES, "--batch_size", "12"),
        *("--device", "cpu", "--log_samples", "--output_path", output, *more),
        HF_HUB_OFFLINE="1",
    )
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Raw, chat and steered runs of ten tasks; the raw one's files are named by a `.json` path."""
    root = tmp_path_factory.mktemp("any")
    evaluate(root / "raw" / "my.json")
    evaluate(root / "chat", "--apply_chat_template")
    evaluate(root / "steered", "--apply_chat_template", alpha=0.5)
    return root


@pytest.fixture(scope="module")
def made(folder):
    return board(read_runs([folder]))


def row_of(made, arm):
    (row,) = (row for row in made.rows if row.arm.name == arm)
    return row


def test_every_shape_has_a_column_and_its_score(folder, made):
    assert made.columns == sorted(TASKS)
    for arm in ("raw", "chat"):
        for column, cell in row_of(made, arm).cells.items():
            result = row_of(made, arm).results[column]
            assert cell.value == result.metrics[result.primary].value
            per_document = column not in ("other_wikitext", "other_ruler")
            assert math.isnan(cell.error) is not per_document


def test_the_metric_is_chosen_by_rule_and_said(made):
    primary = {column: result.primary for column, result in row_of(made, "raw").results.items()}
    assert primary == {
        "other_choice": "acc",
        "other_gsm8k": "exact_match",
        "other_ifeval": "prompt_level_strict_acc",
        "other_lambada": "acc",
        "other_longbench": "score",
        "other_mmlu": "acc",
        "other_ruler": "mean of 4096, 8192",
        "other_ruler_short": "4096",
        "other_truthfulqa": "bleu_max",
        "other_wikitext": "word_perplexity",
    }
    notes = " ".join(made.notes)
    assert "other_choice is scored by acc (also acc_norm: --metric other_choice=NAME)." in notes
    assert "exact_match of filter strict-match (other filters flexible-extract:" in notes
    assert "other_mmlu is scored" not in notes


def test_a_length_that_was_not_measured_is_no_score(folder):
    raw = next(run for run in read_runs([folder / "raw"]))
    result = raw.tasks["other_ruler"]
    assert result.metrics.keys() - set(BESIDE) == {"mean of 4096, 8192", "4096", "8192"}
    scores = read_samples(result).scores
    assert np.nanmin(scores["4096"]) >= 0
    assert np.isnan(scores["4096"]).sum() == 4
    both = [result.metrics[length].value for length in ("4096", "8192")]
    assert result.metrics["mean of 4096, 8192"].value == pytest.approx(np.mean(both))


def test_the_prefix_of_a_task_is_no_arm(made):
    assert [row.arm.name for row in made.rows] == ["raw", "chat", "chat, α 0.5 constant"]


def test_a_group_stands_for_its_tasks_and_has_their_documents(folder):
    chat = next(run for run in read_runs([folder / "chat"]))
    group, halves = chat.tasks["other_mmlu"], ("other_mmlu_even", "other_mmlu_odd")
    assert "other_mmlu" in chat.standing
    assert not set(halves) & chat.standing.keys()
    samples = read_samples(group)
    assert len(set(samples.doc_hashes)) == group.n == 12
    assert samples.scores["acc"].mean() == pytest.approx(group.metrics["acc"].value)
    assert [line["doc_hash"] for line in read_documents(group)] == samples.doc_hashes


def test_a_metric_of_the_corpus_is_not_scored_per_document_and_the_others_go_on(folder):
    chat = next(run for run in read_runs([folder / "chat"]))
    found, reasons = scored(chat)
    assert "other_lambada" in found
    assert "other_wikitext: word_perplexity is not scored per document; left out." in reasons
    asked = Choice.read(["other_lambada=perplexity", "other_ifeval=inst_level_strict_acc"], None)
    chat = next(run for run in read_runs([folder / "chat"], asked))
    assert not {"other_lambada", "other_ifeval"} & scored(chat)[0].keys()


def test_tax_where_the_answer_is_given_or_begun_and_gains_everywhere(folder, made):
    chat, steered = row_of(made, "chat"), row_of(made, "chat, α 0.5 constant")
    given = {"other_choice", "other_mmlu", "other_lambada", "other_ruler_short"}
    assert {change.columns[0] for change in chat.others["tax"]} == given
    assert chat.others["unbegun_tax"] == []
    gained = {change.columns[0] for change in steered.others["gain"]}
    assert gained == set(TASKS) - {"other_wikitext", "other_ruler"}
    for change in chat.others["tax"]:
        (column,) = change.columns
        difference = row_of(made, "raw").cells[column].value - chat.cells[column].value
        assert change.difference.mean == pytest.approx(difference)
    asked = row_of(board(read_runs([folder]), unbegun_tax=True), "chat")
    unbegun = {change.columns[0] for change in asked.others["unbegun_tax"]}
    assert unbegun == {"other_gsm8k", "other_ifeval", "other_longbench", "other_truthfulqa"}


def test_every_format_has_the_changes_of_every_task(made):
    rows = list(csv.DictReader(io.StringIO(formats.comma_separated(made))))
    chat = next(row for row in rows if row["arm"] == "chat")
    assert float(chat["other_choice tax mean"]) == pytest.approx(0, abs=1)
    content = json.loads(formats.as_json(made))
    assert len(content["rows"][1]["others"]["tax"]) == 4
    for text in (formats.plain(made), formats.markdown(made)):
        assert "nan" not in text.replace("nano-chat", "")
        assert "other" in text


def test_compare_and_gate_go_through_all_of_them(folder, tmp_path):
    done = ctx_eval("compare", folder / "chat", folder / "steered", "--format", "json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    compared = {one["task"] for one in content["tasks"]}
    assert compared == set(TASKS) - {"other_wikitext", "other_ruler"}
    assert any("other_gsm8k is scored by exact_match" in note for note in content["notes"])
    done = ctx_eval("compare", folder / "raw", folder / "chat", "--filter", "flexible-extract")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "exact_match of filter flexible-extract" in said
    assert "other_wikitext: word_perplexity is not scored per document" in said
    baseline = tmp_path / "baseline.json"
    done = ctx_eval("gate", "--save", baseline, folder / "chat")
    assert done.code == 0
    assert "other_wikitext: word_perplexity is not scored" in " ".join(done.err.split())
    done = ctx_eval("gate", "--baseline", baseline, folder / "chat")
    assert done.code == 0, done.out + done.err
    assert "other_mmlu: pass: every answer is the baseline's" in " ".join(done.out.split())
    assert "word_perplexity is not scored per document" in " ".join(done.out.split())


def test_a_task_without_samples_does_not_stop_the_others(folder, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in (folder / "chat").rglob("*.json*"):
            if "other_choice" not in file.name:
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
    done = ctx_eval("compare", tmp_path / "a", tmp_path / "b")
    assert done.code == 0, done.err
    assert "other_choice has no samples" in " ".join(done.out.split())
    baseline = tmp_path / "baseline.json"
    assert ctx_eval("gate", "--save", baseline, folder / "chat").code == 0
    done = ctx_eval("gate", "--baseline", baseline, tmp_path / "a")
    assert done.code == 3
    assert "other_mmlu: pass" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("metrics", "filters", "message"),
    [
        (["other_choice=f1"], [], "other_choice has no metric 'f1'; it has acc, acc_norm"),
        (["nosuch=acc"], [], "there is no task nosuch"),
        (["f1"], [], "--metric f1: no task has it"),
        ([], ["other_gsm8k=loose"], "has no filter 'loose'; it has strict-match, flexible-extr"),
        ([], ["loose"], "--filter loose: no task has it"),
        (["t="], [], "names nothing"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(folder, metrics, filters, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_runs([folder / "chat"], Choice.read(metrics, filters))


def test_metrics_asked_for_stand_for_their_tasks(folder):
    asked = Choice.read(["acc_norm", "other_ruler=8192"], ["other_gsm8k=flexible-extract"])
    run = next(run for run in read_runs([folder / "chat"], asked))
    assert run.tasks["other_choice"].primary == "acc_norm"
    assert run.tasks["other_lambada"].primary == "acc"
    assert run.tasks["other_ruler"].primary == "8192"
    assert run.tasks["other_gsm8k"].filter == "flexible-extract"
    assert np.isfinite(read_samples(run.tasks["other_ruler"]).scores["8192"]).sum() == 4


def test_runs_by_different_metrics_do_not_stand_in_one_column(folder):
    first = read_runs([folder / "raw"], Choice.read(["other_choice=acc_norm"], None))
    with pytest.raises(UserError, match="other_choice: metric is"):
        board([*first, *read_runs([folder / "chat"])])


def test_linked_folders_are_searched_once(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "raw", target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (run,) = read_runs([tmp_path])
    assert run.path.name.startswith("my_20")
    assert run.tasks["other_choice"].logged


# ---- files of older harnesses --------------------------------------------------------------------


def write_old(folder: Path, version: str, cut: int = 0) -> Path:
    """gsm8k's shape as 0.4.5 or 0.4.9 write it: three documents, two filters, other scores each."""
    old = version == "0.4.5"
    scores = {"strict-match": [0.0, 0.0, 1.0], "flexible-extract": [1.0, 0.0, 1.0]}
    lines = [
        {
            "doc_id": number,
            "doc": {"question": "equal" if number < 2 else "other"},
            "target": "4",
            "arguments": {"gen_args_0": {"arg_0": "Is it?", "arg_1": {"until": ["\n"]}}},
            "resps": [["#### 4"]],
            "filtered_resps": ["4"],
            **({} if old else {"filter": used, "metrics": ["exact_match"]}),
            "doc_hash": "a" if number < 2 else "b",
            "prompt_hash": "c",
            "target_hash": "d",
            "exact_match": score,
        }
        for used, values in scores.items()
        for number, score in enumerate(values)
    ]
    found = {"alias": "gsm8k"} | {
        f"exact_match{suffix},{used}": value
        for used, values in scores.items()
        for suffix, value in (("", sum(values) / 3), ("_stderr", 0.3))
    }
    content = {
        "results": {"gsm8k": found},
        # 0.4.5 writes every task as a group without members.
        "group_subtasks": {"gsm8k": []},
        "configs": {"gsm8k": {"task": "gsm8k", "metadata": {"version": 3.0}}},
        "versions": {"gsm8k": 3.0},
        "n-shot": {"gsm8k": 5},
        "higher_is_better": {"gsm8k": {"exact_match": True}},
        "n-samples": {"gsm8k": {"original": 1319, "effective": 3}},
        "config": {
            "model": "hf",
            "model_args": "pretrained=org/m" if old else {"pretrained": "org/m"},
            "limit": 3.0,
            "gen_kwargs": None,
        },
        "date": 1.0,
        "model_name": "org/m",
        "chat_template_sha": None,
    }
    stamp = "2024-11-25T23-11-50.097579"
    # From 0.4.9 on a path that ends in .json names the file.
    path = folder / (f"results_{stamp}.json" if old else f"my_{stamp}.json")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    kept = lines[: len(lines) - cut]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    (folder / f"samples_gsm8k_{stamp}.jsonl").write_text(text)
    return path


@pytest.mark.parametrize("version", ["0.4.5", "0.4.9"])
def test_files_of_older_harnesses_are_read_filter_by_filter(tmp_path, version):
    write_old(tmp_path, version)
    for used, expected in (("strict-match", [0, 0, 1]), ("flexible-extract", [1, 0, 1])):
        (run,) = read_runs([tmp_path], Choice.read(None, [f"gsm8k={used}"]))
        result = run.tasks["gsm8k"]
        samples = read_samples(result)
        assert samples.scores["exact_match"].tolist() == expected
        assert samples.doc_hashes == ["a", "a#2", "b"]
        assert result.metrics["exact_match"].value == pytest.approx(sum(expected) / 3)
    assert json.loads(run.identity) == {"pretrained": "org/m"}


def test_a_third_line_of_a_document_of_two_filters_is_an_error(tmp_path):
    path = write_old(tmp_path, "0.4.5")
    file = next(tmp_path.glob("samples_*"))
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    (run,) = read_runs([path])
    with pytest.raises(UserError, match="line 7 is no sample of lm-eval .more lines of document 0"):
        read_samples(run.tasks["gsm8k"])


def test_a_file_cut_at_a_line_end_is_counted(tmp_path):
    write_old(tmp_path / "a", "0.4.9", cut=1)
    write_old(tmp_path / "b", "0.4.9")
    asked = Choice.read(None, ["flexible-extract"])
    assert "it holds 2 of 3 documents" in " ".join(board(read_runs([tmp_path / "a"], asked)).notes)
    done = ctx_eval(
        *("compare", tmp_path / "a", tmp_path / "b", "--force", "--filter", "flexible-extract")
    )
    assert "it holds 2 of 3 documents" in " ".join(done.out.split())
