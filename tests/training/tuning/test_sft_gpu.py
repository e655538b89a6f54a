"""The QLoRA step of a published recipe, on a GPU."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.tuning import inputs as tuning
from training.tuning import sft


@pytest.mark.gpu
def test_a_qlora_step_at_the_shape_of_llama_3_8b(tmp_path, capsys):
    """One step of the bundled recipe on a random model of that shape; prints the peak memory."""
    base = llama_3_8b(tmp_path / "base")
    long = [{"role": "user", "content": "lamp " * 6000 + "[IND]"}, *tuning.conversations(1)[0][1:]]
    data = tuning.write_data(tmp_path / "data.jsonl", [long] * 16)
    overrides = [
        f"model.model_name_or_path={base}",
        f"data.path={data}",
        f"training.output_dir={tmp_path / 'run'}",
        "training.max_steps=1",
        "training.gradient_accumulation_steps=1",
        "training.dataset_num_proc=1",
        "training.save_strategy=no",
    ]
    torch.cuda.reset_peak_memory_stats()
    counts = sft.run("llama3-8b-sharegpt-indicator", overrides)
    peak = torch.cuda.max_memory_allocated() / 2**30
    with capsys.disabled():
        print(f"\nQLoRA step, Llama-3-8B shape, 2 x 4096 tokens: peak {peak:.1f} GiB")
    assert counts["steps"] == 1
    assert counts["cut"] == 16
    assert peak < 40


def llama_3_8b(folder):
    """Random bf16 weights of Llama-3-8B's shape (16 GB) under a tiny tokenizer."""
    from transformers import LlamaConfig

    from tests import tiny

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=False,
    )
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder
