"""Scores become YAML that the hub shows on a model's page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from tests.commands import ctx_eval
from tests.ctx_tasks.result_files import DATE, hits, lines, sample, write_run

GPQA = ("--benchmark", "t=Idavidrein/gpqa:gpqa_diamond")


@pytest.fixture
def results(tmp_path) -> Path:
    passages = [sample(float(n < 15), n, passage_id=f"p{n % 5}") for n in range(20)]
    write_run(tmp_path / "results/raw", {"t": passages, "u": lines(hits(3, 8))})
    write_run(tmp_path / "results/chat", {"t": passages}, chat=True, lm_eval_version="0.4.13")
    return tmp_path / "results"


def export(results: Path, *options: str):
    return ctx_eval("export", results, "-o", results.parent / "out", "--format", "hub", *options)


def test_every_arm_has_a_file_that_the_hub_s_own_library_reads(results, tmp_path):
    done = export(results, *GPQA)
    assert done.code == 0, done.err
    folder = tmp_path / "out/org/model/.eval_results"
    assert sorted(file.name for file in folder.iterdir()) == ["t-chat.yaml", "t-raw.yaml"]
    for file in folder.iterdir():
        (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))
        assert (entry.dataset_id, entry.task_id) == ("Idavidrein/gpqa", "gpqa_diamond")
        assert entry.value == 0.75
        assert isinstance(entry.date, str)
        assert entry.date.startswith("2026-11-24T")
        assert entry.source_url is None
    assert DATE == 1795508444.6


def test_notes_say_the_arm_the_clustered_error_and_the_versions(results, tmp_path):
    assert export(results, *GPQA).code == 0
    (entry,) = yaml.safe_load((tmp_path / "out/org/model/.eval_results/t-chat.yaml").read_text())
    assert entry["notes"].startswith("score of t, chat; standard error 0.")
    assert "over clusters, 95 % [" in entry["notes"]
    assert "n = 20 in 5" in entry["notes"]
    assert "lm-eval 0.4.13, lm-eval-ctx " in entry["notes"]


def test_a_link_is_the_source(results, tmp_path):
    assert export(results, *GPQA, "--source", "https://example.org/logs").code == 0
    (entry,) = yaml.safe_load((tmp_path / "out/org/model/.eval_results/t-raw.yaml").read_text())
    assert entry["source"] == {"url": "https://example.org/logs", "name": "lm-eval-ctx"}


def test_a_task_that_was_loaded_from_the_hub_names_its_benchmark(tmp_path):
    data = {"dataset_path": "openai/gsm8k"}
    write_run(tmp_path / "results", {"gsm8k": lines(hits(3, 8))}, task_config=data)
    assert export(tmp_path / "results").code == 0
    (file,) = (tmp_path / "out").rglob("*.yaml")
    (entry,) = yaml.safe_load(file.read_text())
    assert entry["dataset"] == {"id": "openai/gsm8k", "task_id": "gsm8k"}


def test_what_is_of_no_benchmark_is_left_out_and_named(results):
    done = export(results, *GPQA)
    assert "Left out, of no data set of the hub (--benchmark): u" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "t, u come from no data set of it; name one with --benchmark"),
        (("--benchmark", "t=gpqa"), "names no benchmark; write TASK=OWNER/DATASET:TASK_ID"),
        (("--benchmark", "v=a/b:c"), "there is no task v; the results have t, u"),
    ],
)
def test_without_a_benchmark_nothing_is_written(results, tmp_path, options, said):
    done = export(results, *options)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()


def test_two_checkpoints_of_one_name_are_no_one_model(tmp_path):
    for dtype in ("float32", "bfloat16"):
        model = {"model_args": {"pretrained": "org/model", "dtype": dtype}}
        write_run(tmp_path / "results" / dtype, {"t": lines(hits(3, 8))}, config=model)
    done = export(tmp_path / "results", *GPQA)
    assert done.code == 2
    assert "Two checkpoints are org/model run as raw; name each with --model-id" in " ".join(
        done.err.split()
    )
