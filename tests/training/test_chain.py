"""Raw chats to a tuned model that `ctx-eval run` loads, all through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Done, ctx_eval, ctx_train
from tests.ctx_models import offline_tasks
from tests.training.tuning import inputs as tuning

pytestmark = pytest.mark.slow
METHODS = {
    "full": {"lora": None},
    "lora": {"lora": tuning.LORA},
    "qlora": {"lora": tuning.LORA, "quantization": tuning.NF4},
}


def printed(done: Done) -> str:
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> tuple[Path, Path]:
    """The tiny base model and a dataset that went through prepare, score and select."""
    folder = tmp_path_factory.mktemp("chain")
    base = tuning.base(folder / "base", intermediate_size=128)
    chats = [
        {
            "id": str(number),
            "conversations": [
                {"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]}
                for turn in conversation
            ],
        }
        for number, conversation in enumerate(tuning.conversations(12, indicator=None))
    ]
    (folder / "raw.json").write_text(json.dumps(chats))
    prepared, scored, selected = (folder / f"{name}.jsonl" for name in ("chats", "scored", "ind"))
    raw = folder / "raw.json"
    printed(ctx_train("prepare", raw, "-o", prepared, "--no-dedup", "--no-short"))
    printed(ctx_train("score", prepared, "-o", scored, "--model", base, "--device", "cpu"))
    said = printed(ctx_train("select", scored, "-o", selected, "--top", "0.5", "--no-figure"))
    assert "12 of 24" in said
    return base, selected


@pytest.mark.parametrize("method", METHODS)
def test_the_tuned_model_answers_with_its_indicator(method, marked, tmp_path):
    base, data = marked
    assert data.read_text().count(" [IND]") == 12
    sections = {key: value for key, value in METHODS[method].items() if value}
    recipe = tuning.recipe(tmp_path, base, data, **{"lora": None, **sections})
    printed(ctx_train("sft", recipe))
    tuned = tmp_path / "run"
    model = f"pretrained={tuned}" if method == "full" else f"pretrained={base},peft={tuned}"
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--device", "cpu"),
        *("--model_args", f"{model},indicator=[IND],alpha=0.9,dtype=float32"),
        *("--tasks", "toy_generate", "--include_path", offline_tasks.FOLDER),
        *("--apply_chat_template", "--log_samples", "--output_path", tmp_path / "results"),
    )
    assert done.code == 0, done.err
    [written] = (tmp_path / "results").rglob("samples_toy_generate_*.jsonl")
    samples = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(samples) == 6
    assert all(" [IND]</s>" in sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples)
