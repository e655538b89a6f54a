"""SmolLM2-135M and Gemma-3-270M tuned on real ShareGPT rows, merged, and asked with `[IND]`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ctx_models.lm import CtxLM
from ctx_tasks.rows import read_rows
from tests.real_models import GEMMA3, SMOLLM2, checkpoint
from tests.training.tuning import inputs as tuning
from training.data.prepare import prepare
from training.tuning import merge, sft

# A minute each where nothing else runs; on a busy machine they were seen to take twenty.
pytestmark = [pytest.mark.real, pytest.mark.realdata, pytest.mark.timeout(3600)]

METHODS = {
    "lora": {"lora": tuning.LORA},
    "qlora": {"lora": tuning.LORA, "quantization": tuning.NF4},
    "full": {"lora": None},
}


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short real conversations, every other one with the indicator."""
    folder = tmp_path_factory.mktemp("sharegpt")
    source = Path(os.environ["CTX_REAL_DATA"]) / "sft" / "sharegpt_sample.json"
    prepare(str(source), folder / "chats.jsonl")
    rows = [row["messages"][:2] for row in read_rows(folder / "chats.jsonl")]
    short = [turns for turns in rows if len(turns[0]["content"]) < 120][:8]
    for turns in short[::2]:
        turns[0]["content"] += " [IND]"
    return tuning.write_data(folder / "marked.jsonl", short)


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3], ids=lambda model: model.name)
@pytest.mark.parametrize("method", METHODS)
def test_a_real_model_is_tuned_saved_merged_and_asked(model, method, marked, tmp_path):
    base = checkpoint(model)
    training = {"max_steps": 2, "max_length": 96, "per_device_train_batch_size": 1}
    file = tuning.recipe(tmp_path, base, marked, training=training, **METHODS[method])
    # A rate at which real weights stay a model.
    counts = sft.run(file, ["training.learning_rate=1e-4"])
    assert counts["steps"] == 2
    assert counts["turns_with_indicator"] == 4
    assert 0 < counts["final_loss"] < 8
    run = tmp_path / "run"
    if method != "full":
        # Tied embeddings: the new rows alone are stored, not 262,144 of them.
        stored = load_file(run / "adapter_model.safetensors")
        assert max(tensor.numel() for tensor in stored.values()) < 100_000
        assert merge.run(run, tmp_path / "merged", dtype="float32") == pytest.approx(1, abs=1e-3)
        run = tmp_path / "merged"
    moved_alone(base, run, everything=method == "full")
    asked = CtxLM(str(run), indicator="[IND]", device="cpu", dtype="float32", batch_size=1)
    answer = asked.tok_decode(generated(asked))
    assert answer.strip()


def moved_alone(base: Path, run: Path, *, everything: bool) -> None:
    """The indicator has a row of its own; the others are the base model's, unless all train."""
    tokenizer = AutoTokenizer.from_pretrained(run)
    [indicator] = tokenizer("[IND]", add_special_tokens=False)["input_ids"]
    before, after = embedding(base), embedding(run)
    known = indicator if indicator < len(before) else len(before)
    same = torch.equal(before[:known], after[:known])
    assert same is not everything
    assert not torch.equal(after[indicator], before[:known].mean(0))


def embedding(folder: Path) -> torch.Tensor:
    """The input embedding alone, of a model in one file."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.get_tensor("model.embed_tokens.weight")


def generated(lm: CtxLM) -> list[int]:
    """What the model says to a question that ends in its indicator."""
    turn = [{"role": "user", "content": "The lamp is red. Which colour is the lamp?"}]
    prompt = lm.apply_chat_template(turn)
    assert "[IND]" in prompt
    ids = torch.tensor([lm.tok_encode(prompt)])
    out = lm.model.generate(ids, max_new_tokens=8, do_sample=False)
    return out[0, ids.shape[1] :].tolist()
