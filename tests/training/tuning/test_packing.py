"""Packed conversations do not read each other: with TRL's own batches, and where it is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ctx_tasks.errors import UserError
from tests import tiny
from tests.training.tuning import inputs as tuning
from training.tuning import recipe, sft
from training.tuning.dataset import tokenised
from training.tuning.packing import mixes_conversations, require_separate


def packed_trainer(tmp_path, attention):
    base = tuning.base(tmp_path / "base")
    data = tuning.write_data(tmp_path / "data.jsonl", tuning.conversations(6))
    file = tuning.recipe(tmp_path, base, data, training={"packing": True, "max_length": 256})
    loaded = recipe.load(file, [f"model.attn_implementation={attention}"])
    tokenizer, tokens = sft.load_tokenizer(loaded)
    dataset = tokenised(data, tokenizer, indicator="[IND]").select_columns(["input_ids", "labels"])
    model = sft.load_model(loaded)
    return sft.build_trainer(loaded, model, tokenizer, tokens, dataset), dataset


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_a_packed_batch_equal_those_of_each_conversation(tmp_path, attention):
    trainer, dataset = packed_trainer(tmp_path, attention)
    model = trainer.model.eval()
    alone = {tuple(row): row for row in dataset["input_ids"]}
    seen = 0
    for batch in trainer.get_train_dataloader():
        batch.pop("labels")
        with torch.no_grad():
            packed = model(**batch).logits[0]
        ids = batch["input_ids"][0].tolist()
        starts = [*(batch["position_ids"][0] == 0).nonzero().flatten().tolist(), len(ids)]
        assert len(starts) > 2
        for start, end in itertools.pairwise(starts):
            conversation = alone[tuple(ids[start:end])]
            with torch.no_grad():
                expected = model(torch.tensor([conversation])).logits[0]
            torch.testing.assert_close(packed[start:end], expected, rtol=1e-4, atol=1e-5)
            seen += 1
    assert seen == len(dataset)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "phi3", "gpt_neox"])
def test_transformers_keeps_packed_conversations_apart(family):
    assert not mixes_conversations(tiny.model(family))


def test_an_attention_that_knows_no_borders_is_refused():
    # Registered without a mask function, it gets no mask: every token sees all before it.
    AttentionInterface.register("borderless", sdpa_attention_forward)
    model = tiny.model("llama")
    model.set_attn_implementation("borderless")
    assert mixes_conversations(model)
    with pytest.raises(UserError, match=r"'borderless' ignores where they begin.*packing=false"):
        require_separate(model)
