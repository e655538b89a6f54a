"""`[IND]` and the pad token: added once, one token each, rows at the mean of the old ones."""

from __future__ import annotations

import pytest
import torch

from ctx_tasks.errors import UserError
from tests import tiny
from training.tuning.vocabulary import add_tokens, fit_embeddings, trainable_rows


def prepared(family="llama", **shape):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    size = {"vocab_size": len(tokenizer), **shape}
    return tokenizer, tiny.model(family, **size)


def test_tokens_are_added_once_and_are_one_token_each():
    tokenizer, _ = prepared()
    before = len(tokenizer)
    tokens = add_tokens(tokenizer, indicator="[IND]", pad_token="[PAD]")
    assert tokens.new == tokens.trained == [before, before + 1]
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", before)
    assert tokenizer("a [IND]", add_special_tokens=False)["input_ids"][-1] == before + 1
    again = add_tokens(tokenizer, indicator="[IND]", pad_token="[PAD]")
    assert len(tokenizer) == before + 2
    assert (again.new, again.trained) == ([], [before + 1])


def test_a_pad_token_that_is_there_is_kept():
    tokenizer = tiny.tokenizer()
    tokens = add_tokens(tokenizer, indicator=None, pad_token="[PAD]")
    assert tokenizer.pad_token == "<pad>"
    assert tokens.new == tokens.trained == []


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 12], ids=["full", "rows to spare"])
def test_new_rows_are_the_mean_and_the_others_stay_as_they_were(tied, spare):
    tokenizer, _ = prepared()
    tokenizer, model = prepared(tie_word_embeddings=tied, vocab_size=len(tokenizer) + spare)
    modules = (model.get_input_embeddings, model.get_output_embeddings)
    before = [module().weight.clone() for module in modules]
    tokens = add_tokens(tokenizer, indicator="[IND]", pad_token="[PAD]")
    fit_embeddings(model, tokenizer, tokens)
    for old, module in zip(before, modules, strict=True):
        new = module().weight
        assert len(new) == max(len(old), len(tokenizer))
        assert torch.equal(new[: tokens.known], old[: tokens.known])
        for row in tokens.new:
            assert torch.equal(new[row], old[: tokens.known].mean(0))
    same = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert same is tied


@pytest.mark.parametrize(
    ("family", "tied", "names"),
    [
        ("llama", False, ["model.embed_tokens", "lm_head"]),
        ("llama", True, ["model.embed_tokens"]),
        ("gpt_neox", False, ["gpt_neox.embed_in", "lm_head"]),
        ("gemma2", True, ["model.embed_tokens"]),
    ],
)
def test_lora_trains_the_new_rows_of_both_embeddings(family, tied, names):
    tokenizer, model = prepared(family, tie_word_embeddings=tied)
    tokens = add_tokens(tokenizer, indicator="[IND]", pad_token="[PAD]")
    assert trainable_rows(model, tokens) == dict.fromkeys(names, tokens.new)


def test_without_new_tokens_no_row_is_trained():
    tokenizer, model = prepared()
    tokenizer.pad_token = "<pad>"
    assert trainable_rows(model, add_tokens(tokenizer, indicator=None, pad_token="[PAD]")) is None


def test_an_output_embedding_with_a_bias_is_refused():
    tokenizer, model = prepared()
    tokens = add_tokens(tokenizer, indicator="[IND]", pad_token="[PAD]")
    model.set_output_embeddings(torch.nn.Linear(64, len(tokenizer)))
    with pytest.raises(UserError, match="lora=null"):
        trainable_rows(model, tokens)
