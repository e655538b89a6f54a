"""The harness's caches on a model whose answers move: another arm never gets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ctx_tasks.results import read_documents, read_runs

pytestmark = pytest.mark.slow
COMMON = ["--tasks", "nano_squad_contains", "--metadata", '{"questions": 8}', "--device", "cpu"]
COMMON += ["--apply_chat_template", "--log_samples", "--batch_size", "8"]


def run(output: Path, arguments: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ctx_models.cli", "run", "--model", "hf-ctx", *COMMON]
    command += ["--model_args", f"pretrained=nano-chat-ind{arguments}", *options]
    return subprocess.run([*command, "--output_path", str(output)], capture_output=True, text=True)


def answers(output: Path) -> list[str]:
    [found] = read_runs([output])
    [result] = found.tasks.values()
    return [line["resps"][0][0] for line in read_documents(result)]


def test_an_answer_cache_serves_its_own_arm_and_refuses_another(tmp_path):
    cache = ("--use_cache", str(tmp_path / "cache"))
    assert run(tmp_path / "a", "", *cache).returncode == 0
    assert run(tmp_path / "b", "", *cache).returncode == 0
    assert answers(tmp_path / "a") == answers(tmp_path / "b")
    refused = run(tmp_path / "c", ",indicator=[IND]", *cache)
    assert refused.returncode == 2
    assert "--use_cache was written with indicator=None but this run has indicator='[IND]'" in (
        refused.stderr
    )
    assert run(tmp_path / "d", ",indicator=[IND]").returncode == 0
    # What the cache would have served is not what this arm says.
    assert answers(tmp_path / "d") != answers(tmp_path / "a")
