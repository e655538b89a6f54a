"""Real questions and real tokenizers through `lm_eval` and `ctx-eval`, steered and unsteered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ctx_tasks.metrics import contains, first_sentence
from tests import tiny
from tests.commands import ROOT, Done, ctx_eval, lm_eval

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
TOKENIZERS = ["tinyllama-1.1b-chat-v1.0", "phi-3-mini", "qwen2.5-instruct"]
QUESTIONS = 4
FILES = {
    "squad_files": "squad/validation_sample.jsonl",
    "quac_files": "quac/validation_sample.jsonl",
    "drop_files": "drop/original_schema.jsonl",
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def checkpoint(request, tmp_path_factory) -> Path:
    """A tiny random model with a real vocabulary."""
    folder = tmp_path_factory.mktemp(request.param)
    source = Path(os.environ["CTX_REAL_DATA"]) / "tokenizers" / request.param
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    tiny.model(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    return folder


def run(
    call: Callable[..., Done], model: str, arguments: str, checkpoint: Path, output: Path
) -> dict:
    """One command line over the whole group; the results file and the samples of each task."""
    real = Path(os.environ["CTX_REAL_DATA"])
    metadata = {"max_length": 600, **{name: str(real / path) for name, path in FILES.items()}}
    done = call(
        *("run", "--model", model, "--apply_chat_template"),
        *("--model_args", f"pretrained={checkpoint}{arguments}", "--device", "cpu"),
        *("--include_path", ROOT / "task_configs", "--tasks", "context_awareness"),
        *("--metadata", json.dumps(metadata), "--limit", QUESTIONS, "--batch_size", "4"),
        *("--log_samples", "--output_path", output),
    )
    assert done.code == 0, done.err
    [written] = output.rglob("results_*.json")
    samples = {
        path.name.split("_2")[0].removeprefix("samples_"): [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in output.rglob("samples_*.jsonl")
    }
    return {"file": json.loads(written.read_text()), "samples": samples}


def answers(run: dict, task: str) -> dict[str, str]:
    return {sample["doc_hash"]: sample["resps"][0][0] for sample in run["samples"][task]}


def test_the_group_runs_steered_and_unsteered(checkpoint, tmp_path):
    """alpha = 1 gives hf's own answers; 0.5 gives others to the same documents."""
    plain = run(lm_eval, "hf", "", checkpoint, tmp_path / "hf")
    off = run(ctx_eval, "hf-ctx", ",alpha=1", checkpoint, tmp_path / "off")
    steered = run(ctx_eval, "hf-ctx", ",alpha=0.5", checkpoint, tmp_path / "on")
    tasks = ["nih_recall", "squad_contains", "quac_contains", "drop_contains"]
    assert sorted(plain["samples"]) == sorted(tasks)
    for task in tasks:
        assert len(answers(plain, task)) == QUESTIONS
        assert answers(plain, task) == answers(off, task)
        assert answers(plain, task).keys() == answers(steered, task).keys()
        assert answers(plain, task) != answers(steered, task)
    scores = [steered["file"]["results"][task]["score,none"] for task in tasks]
    average = steered["file"]["groups"]["context_awareness"]["score,none"]
    assert average == pytest.approx(sum(scores) / 4)


def test_scores_are_the_metric_of_the_logged_answers(checkpoint, tmp_path):
    logged = run(ctx_eval, "hf-ctx", ",alpha=0.9", checkpoint, tmp_path)
    for sample in logged["samples"]["squad_contains"]:
        references = [span for reference in sample["doc"]["references"] for span in reference]
        expected = contains(first_sentence(sample["resps"][0][0]), references)
        assert sample["contains"] == float(expected)
