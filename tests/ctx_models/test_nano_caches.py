"""The harness's caches on a model whose answers move: another arm never gets them."""

from __future__ import annotations

from pathlib import Path

from ctx_tasks.results import read_documents, read_runs
from tests.commands import Done, ctx_eval

COMMON = ["--tasks", "nano_squad_contains", "--metadata", '{"questions": 8}', "--device", "cpu"]
COMMON += ["--apply_chat_template", "--log_samples", "--batch_size", "8"]


def run(output: Path, arguments: str, *options: object) -> Done:
    model = ("--model", "hf-ctx", "--model_args", f"pretrained=nano-chat-ind{arguments}")
    return ctx_eval("run", *model, *COMMON, *options, "--output_path", output)


def answers(output: Path) -> list[str]:
    [found] = read_runs([output])
    [result] = found.tasks.values()
    return [line["resps"][0][0] for line in read_documents(result)]


def test_an_answer_cache_serves_its_own_arm_and_refuses_another(tmp_path):
    cache = ("--use_cache", tmp_path / "cache")
    assert run(tmp_path / "a", "", *cache).code == 0
    assert run(tmp_path / "b", "", *cache).code == 0
    assert answers(tmp_path / "a") == answers(tmp_path / "b")
    refused = run(tmp_path / "c", ",indicator=[IND]", *cache)
    assert refused.code == 2
    assert "--use_cache was written with indicator=None but this run has indicator='[IND]'" in (
        refused.err
    )
    assert run(tmp_path / "d", ",indicator=[IND]").code == 0
    # What the cache would have served is not what this arm says.
    assert answers(tmp_path / "d") != answers(tmp_path / "a")
