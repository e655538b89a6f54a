"""What a real run over two processes says of prompts that are cut, and of answers that are."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, as_process, words
from tests.ctx_models.test_cut import SQUAD, evaluate, scores
from tests.ctx_tasks.result_files import read_lines
from tests.ports import free_port

pytestmark = pytest.mark.slow
# `--cpu` would quietly start one process whatever their number.
LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")


def two(folder: Path, arguments: str) -> list[str]:
    """Twelve questions to nano-chat in its template, six in each of two processes."""
    asked = (
        *(*LAUNCH, "--main_process_port", "0", "-m", "ctx_models.cli", "run", "--model", "hf-ctx"),
        *("--model_args", f"pretrained=nano-chat,{arguments}", "--tasks", SQUAD, "--device", "cpu"),
        *("--metadata", json.dumps({"questions": 12}), "--apply_chat_template", "--log_samples"),
        *("--batch_size", 4, "--output_path", folder),
    )
    return [*map(str, asked)]


def results(folder: Path) -> dict[str, Any]:
    [file] = folder.rglob("results_*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def samples(folder: Path) -> list[dict[str, Any]]:
    [file] = folder.rglob("samples_*.jsonl")
    return sorted(read_lines(file), key=lambda line: line["doc_id"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("marked", {"max_length": 300}),
        ("skipped", {"max_length": 340, "overlength": "skip"}),
        ("skipped, steered", {"max_length": 340, "overlength": "skip", "alpha": 0.5}),
    ],
)
def test_two_processes_note_and_skip_what_one_does(tmp_path, name, settings):
    tokens = {"gen_kwargs": {"max_gen_toks": 100}}
    one = evaluate(**settings, options=tokens)
    arguments = ",".join(f"{key}={value}" for key, value in settings.items())
    done = as_process(*two(tmp_path, arguments), ACCELERATE_USE_CPU="true")
    assert done.code == 0, done.err
    both = results(tmp_path)
    assert both["config"]["ctx"]["processes"] == 2
    assert 0 < scores(one)["cut,none"] < 1
    for metric in ("cut,none", "unfinished,none", "contains,none", "empty,none"):
        assert both["results"][SQUAD][metric] == pytest.approx(scores(one)[metric])
    lines = one["samples"][SQUAD]
    for here, there in zip(lines, samples(tmp_path), strict=True):
        noted = ("cut", "unfinished", "contains")
        assert [here.get(key) for key in noted] == [there.get(key) for key in noted]


def test_what_one_process_refuses_both_refuse_in_the_same_words(tmp_path):
    # Without a launcher, which ends the other as soon as one has failed, before it has spoken.
    [*_, start] = [n for n, word in enumerate(two(tmp_path, "")) if word == "-m"]
    command = words(*two(tmp_path, "max_length=300,overlength=refuse")[start + 1 :])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **shared, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    said = [line for err in told for line in err.splitlines() if line.startswith("ctx-eval: ")]
    assert len(said) == 2
    assert len(set(said)) == 1
    assert "4 of 12 prompts do not fit; the longest, document 9 of" in said[0]
