"""Greedy decoding without padding and finished rows, against transformers' own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from ctx_models import decoding
from ctx_models.spans import Segment, segment
from ctx_models.steering import steer
from tests import tiny

TEXTS = (
    "The lighthouse keeper writes",
    "What is the best thing to do in San Francisco?",
    "a",
    "user assistant system instruction question document answer",
)
TOKENS = 30
STOP = "e"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.model("llama")


@pytest.fixture(scope="module")
def batch() -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokenizer, ids and mask of prompts padded on the left, and which tokens are the user's."""
    tokenizer = tiny.tokenizer()
    rows = [
        segment(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)
        for text in TEXTS
    ]
    width = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    user = torch.zeros(len(rows), width, dtype=torch.bool)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, -len(row.input_ids) :] = torch.tensor(row.input_ids)
        user[number, -len(row.input_ids) :] = torch.tensor(row.segments) == Segment.USER
        mask[number, -len(row.input_ids) :] = 1
    return tokenizer, ids, mask, user


def texts(tokenizer: Any, rows: torch.Tensor) -> list[str]:
    """Answers as the harness reads them: up to the stop string."""
    return [tokenizer.decode(row, skip_special_tokens=True).split(STOP)[0] for row in rows]


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_answers_are_those_of_generate_without_padding_and_finished_rows(model, batch, alpha):
    tokenizer, ids, mask, user = batch
    prompt = ids.shape[1]
    with steer(model, user, alpha=alpha):
        whole = model.generate(
            ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
    read: list[int] = []
    ran: list[int] = []

    def around(rows: torch.Tensor, tokens: slice) -> Any:
        if tokens == slice(0, prompt):
            ran.append(len(rows))
        else:
            read.append(len(rows) * (tokens.stop - tokens.start))
        return steer(model, user[rows, tokens], alpha=alpha)

    def ended(answer: Any) -> bool:
        return answer[-1] == tokenizer.eos_token_id or STOP in tokenizer.decode(answer)

    settings = {"max_length": prompt + TOKENS, "pad": 0, "ended": ended, "around": around}
    found = decoding.greedy(model, ids, mask, **settings)
    assert texts(tokenizer, found[:, prompt:]) == texts(tokenizer, whole[:, prompt:])
    # All but each prompt's last token; groups of like length have little padding.
    assert int(mask.sum()) - len(TEXTS) <= sum(read) < 1.1 * int(mask.sum()) < 0.9 * mask.numel()
    assert ran[0] == len(TEXTS)
    assert ran[1:] == sorted(ran[1:], reverse=True)
    assert ran[-1] < len(TEXTS)


def test_a_batch_that_never_finishes_is_generate_s_to_the_token(model, batch):
    _, ids, mask, _ = batch
    end = ids.shape[1] + TOKENS
    whole = model.generate(
        ids, attention_mask=mask, max_length=end, do_sample=False, pad_token_id=0, eos_token_id=-1
    )
    found = decoding.greedy(
        model,
        ids,
        mask,
        max_length=end,
        pad=0,
        ended=lambda answer: False,
        around=lambda rows, tokens: nullcontext(),
    )
    assert whole.shape[1] == end
    assert found.shape[1] <= end
    assert torch.equal(found, whole[:, : found.shape[1]])


@pytest.mark.parametrize(
    ("family", "arguments", "dtype"),
    [
        ("mistral", {}, torch.float32),  # its sliding window drops keys
        ("llama", {"do_sample": True}, torch.float32),
        ("llama", {"num_beams": 2}, torch.float32),
        ("llama", {}, torch.bfloat16),
    ],
)
def test_what_it_does_not_do_exactly_is_left_to_generate(family, arguments, dtype):
    built = tiny.model(family).to(dtype)
    assert not decoding.applies(built, {"attention_mask": None, **arguments})
    assert decoding.applies(tiny.model("llama"), {"attention_mask": None, "do_sample": False})
