"""Raw chats to a tuned model that `ctx-eval run` loads, all through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctx_models import offline_tasks
from tests.training.tuning import inputs as tuning

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
METHODS = {
    "full": {"lora": None},
    "lora": {"lora": tuning.LORA},
    "qlora": {"lora": tuning.LORA, "quantization": tuning.NF4},
}


def run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> tuple[Path, Path]:
    """The tiny base model and a dataset that went through prepare, score and select."""
    folder = tmp_path_factory.mktemp("chain")
    base = tuning.base(folder / "base", intermediate_size=128)
    raw = [
        {
            "id": str(number),
            "conversations": [
                {"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]}
                for turn in conversation
            ],
        }
        for number, conversation in enumerate(tuning.conversations(12, indicator=None))
    ]
    (folder / "raw.json").write_text(json.dumps(raw))
    prepared, scored, selected = (folder / f"{name}.jsonl" for name in ("chats", "scored", "ind"))
    run("training.cli", "prepare", folder / "raw.json", "-o", prepared, "--no-dedup", "--no-short")
    run("training.cli", "score", prepared, "-o", scored, "--model", base, "--device", "cpu")
    printed = run("training.cli", "select", scored, "-o", selected, "--top", "0.5", "--no-figure")
    assert "12 of 24" in printed
    return base, selected


@pytest.mark.parametrize("method", METHODS)
def test_the_tuned_model_answers_with_its_indicator(method, marked, tmp_path):
    base, data = marked
    assert data.read_text().count(" [IND]") == 12
    sections = {key: value for key, value in METHODS[method].items() if value}
    recipe = tuning.recipe(tmp_path, base, data, **{"lora": None, **sections})
    run("training.cli", "sft", recipe)
    tuned = tmp_path / "run"
    model = f"pretrained={tuned}" if method == "full" else f"pretrained={base},peft={tuned}"
    run(
        *("ctx_models.cli", "run", "--model", "hf-ctx", "--device", "cpu"),
        *("--model_args", f"{model},indicator=[IND],alpha=0.9,dtype=float32"),
        *("--tasks", "toy_generate", "--include_path", offline_tasks.FOLDER),
        *("--apply_chat_template", "--log_samples", "--output_path", tmp_path / "results"),
    )
    [written] = (tmp_path / "results").rglob("samples_toy_generate_*.jsonl")
    samples = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(samples) == 6
    assert all(" [IND]</s>" in sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples)
