"""Log-likelihoods of steered models compute the logits of continuations alone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from ctx_models import last_logits, model_names
from ctx_models.lm import CtxLM

TEXTS = ["Who rules Shire?", "Read this. " * 20 + "What is sold in Shire?", "Where? " * 9]
ANSWERS = [" The queen", " a", " The best ware of Shire is salt", " No", " b", " c"]


def requests(model: CtxLM) -> list[Instance]:
    """Every text with every answer; the answers of one token share a row."""
    prompts = [model.apply_chat_template([{"role": "user", "content": one}]) for one in TEXTS]
    pairs = [(prompt, answer) for prompt in prompts for answer in ANSWERS]
    return [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]


def seen(model: CtxLM) -> list[int]:
    """Filled with the tokens of each row whose logits are computed."""
    columns: list[int] = []
    head = model.model.get_output_embeddings()
    head.register_forward_hook(lambda _, given, __: columns.append(given[0].shape[1]))
    return columns


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("adapted", [False, True])
def test_only_those_of_the_continuations_are_computed(monkeypatch, tmp_path, window, adapted):
    more = {"peft": adapter(tmp_path)} if adapted else {}
    model = CtxLM("nano-chat", alpha=0.5, device="cpu", batch_size=4, max_length=window, **more)
    columns = seen(model)
    found = model.loglikelihood(requests(model), disable_tqdm=True)
    few = columns.copy()
    del columns[:]
    monkeypatch.setattr(last_logits, "only", lambda *_: nullcontext())
    whole = model.loglikelihood(requests(model), disable_tqdm=True)
    # Where rows of a batch differ in length, the shortest decides.
    assert all(one < all_of_them for one, all_of_them in zip(few, columns, strict=True))
    assert min(few) < 3
    assert [greedy for _, greedy in found] == [greedy for _, greedy in whole]
    assert [one for one, _ in found] == pytest.approx([one for one, _ in whole], abs=1e-5)
    assert len({round(one, 3) for one, _ in whole}) == len(TEXTS) * len(ANSWERS)


def adapter(folder) -> str:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_names.resolve("nano-chat"))
    config = LoraConfig(
        r=2, target_modules=["v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(base, config).save_pretrained(folder)
    return str(folder)


def test_without_steering_the_harness_s_bits_are_kept():
    plain, ours = (
        model(model_names.resolve("nano-chat"), device="cpu", batch_size=4)
        for model in (HFLM, CtxLM)
    )
    columns = seen(ours)
    asked = requests(ours)
    assert ours.loglikelihood(asked) == plain.loglikelihood(asked)
    assert max(columns) > 50


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=5),
    st.integers(20, 60),
)
def test_of_the_last_columns_the_harness_takes_every_continuation_and_needs_all(rows, window):
    pairs = [([0] * context, [0] * behind) for context, behind in rows]
    lengths = [min(context + behind - 1, window) for context, behind in rows]
    width, last = max(lengths), last_logits.needed(pairs, window)
    columns = list(range(width))
    begins = []
    for length, (_, behind) in zip(lengths, rows, strict=True):
        # As `HFLM._loglikelihood_tokens` finds them, whatever lies in front.
        end = length + (last - width)
        taken = columns[-last:][end - behind : end]
        assert taken == columns[length - behind : length]
        assert len(taken) == behind
        begins.append(taken[0])
    assert min(begins) == width - last
