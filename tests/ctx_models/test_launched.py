"""Several processes of one launch, on CPUs: the answers of one, and all end when one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands import ROOT, as_process, words
from tests.ctx_models import offline_tasks

TASKS = ("toy_generate", "toy_choice")
# `--cpu` would quietly start one process whatever their number.
ON_CPUS = {"ACCELERATE_USE_CPU": "true"}


def launch(processes: int) -> list[str]:
    """Before `-m`'s module; accelerate starts several processes on CPUs only as if on GPUs."""
    if processes == 1:
        return []
    count = ("--multi_gpu", "--num_processes", str(processes))
    return ["accelerate.commands.launch", *count, "--main_process_port", "0", "-m"]


def command(output: Path, processes: int, *more: str) -> list[object]:
    return [
        *(*launch(processes), "ctx_models.cli", "run", "--model", "hf-ctx"),
        *("--model_args", "pretrained=nano-chat,alpha=0.5", "--tasks", ",".join(TASKS)),
        *("--include_path", offline_tasks.FOLDER, "--apply_chat_template", "--batch_size", "1"),
        *("--device", "cpu", "--log_samples", "--output_path", output, *more),
    ]


def samples(output: Path) -> dict[str, dict[int, Any]]:
    """The responses to each document, by task; of the padding that the harness runs, the first."""
    found = {}
    for task in TASKS:
        [path] = output.rglob(f"samples_{task}_*.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[task] = {row["doc_id"]: row["filtered_resps"] for row in rows}
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, dict[int, Any]]:
    """What one process answers to five documents."""
    output = tmp_path_factory.mktemp("alone")
    done = as_process(*command(output, 1, "--limit", "5"))
    assert done.code == 0, done.err
    return samples(output)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_uneven_shares_give_the_answers_of_one_process(alone, tmp_path, processes):
    done = as_process(*command(tmp_path, processes, "--limit", "5"), **ON_CPUS)
    assert done.code == 0, done.err
    assert f"on rank {processes - 1}" in done.err
    assert samples(tmp_path) == alone
    assert not list(tmp_path.rglob(".answers"))


@pytest.mark.slow
def test_more_processes_than_documents_are_one_sentence(tmp_path):
    arguments = words(*command(tmp_path, 2, "--limit", "1"))
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "toy_generate has 1 documents for 2 processes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("waited_for", [False, True])
def test_a_process_that_dies_ends_the_run_with_a_sentence_and_it_goes_on(
    alone, tmp_path, waited_for
):
    arguments = words(*command(tmp_path, 2, "--limit", "5"))
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while min(kept(tmp_path, 0), kept(tmp_path, 1)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children()
    [second] = [one for one in workers if one.environ().get("RANK") == "1"]
    second.suspend()
    while waited_for and kept(tmp_path, 0) < 4:
        time.sleep(0.1)
    # Process 0 has answered its three, and then needs process 1: it waits, or is about to.
    second.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "ctx-eval: process 0 of 2 ends: another one died" in said
    done = as_process(*command(tmp_path, 2, "--limit", "5"), **ON_CPUS)
    assert done.code == 0, done.err
    assert "answers of an unfinished run are in" in done.err
    assert samples(tmp_path) == alone


@pytest.mark.slow
def test_what_fails_in_one_process_fails_in_all_and_they_go_on():
    done = as_process(*launch(2), "tests.ctx_models.failing_process", **ON_CPUS)
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if line[:3] in ("0: ", "1: ")]
    assert sorted(said) == [
        "0: UserError: Process 1 of 2 failed: OutOfMemoryError: out of memory",
        "0: ['toy_choice', 'toy_generate']",
        "1: None",
        "1: OutOfMemoryError: out of memory",
    ]


def test_a_process_that_waits_in_foreign_code_says_why_it_ends():
    script = (
        "import threading; from ctx_models.launched import say_when_ended;"
        "say_when_ended('ctx-eval'); print('ready', flush=True);"
        "lock = threading.Lock(); lock.acquire(); lock.acquire()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(RANK="2", WORLD_SIZE="3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.startswith("ctx-eval: process 2 of 3 ends: another one died")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **ON_CPUS, **more}


def kept(output: Path, process: int) -> int:
    """Lines of a process's journal, its header among them."""
    paths = output.glob(f".answers/*-rank{process}.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in paths)
