"""Quick look at a model while it is being made; published numbers come from `ctx-eval` instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ctx_tasks.metrics import contains, first_sentence, keyword_recall
from ctx_tasks.needle import PROMPT, build, grid
from ctx_tasks.needle.inputs import Haystack, Needle
from training.nano.held_out import Question, by_heart
from training.nano.world import World

_BATCH = 10


@torch.no_grad()
def generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    tokens: int = 50,
) -> list[str]:
    """Continue each prompt greedily by up to `tokens` tokens."""
    texts: list[str] = []
    tokenizer.padding_side = "left"
    for start in tqdm(range(0, len(prompts), _BATCH), desc="generating", leave=False):
        batch = tokenizer(list(prompts[start : start + _BATCH]), return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        out = cast(Any, model).generate(**batch, max_new_tokens=tokens, do_sample=False)
        new = out[:, batch["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def needle_rows(
    tokenizer: PreTrainedTokenizerFast,
    haystack: Haystack,
    needles: Sequence[Needle],
    *,
    longest: int = 1000,
    lengths: int = 5,
    depths: int = 5,
    seed: int = 42,
) -> list[dict[str, Any]]:
    """Build the cells of a small grid, 200 to `longest` tokens."""
    return build(tokenizer, haystack, needles, grid(200, longest, lengths, depths), seed)


def recalls(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[dict[str, Any]],
    *,
    prefix: bool = True,
) -> list[float]:
    """Return the keyword recall of each row, without a chat template."""
    prompts = [
        PROMPT.format(**row) + (" " + row["response_prefix"] if prefix else "") for row in rows
    ]
    outputs = generate(model, tokenizer, prompts)
    return [keyword_recall(out, row["keywords"]) for out, row in zip(outputs, rows, strict=True)]


def reading_scores(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    template: str,
) -> list[bool]:
    """Return for each question whether the first sentence of the answer holds the reference."""
    prompts = [template.format(context=q.context, question=q.question) for q in questions]
    outputs = generate(model, tokenizer, prompts)
    return [
        contains(first_sentence(out), [q.answer]) for out, q in zip(outputs, questions, strict=True)
    ]


def by_heart_scores(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, count: int = 200
) -> list[bool]:
    """Return for each question asked without a document whether the answer is the known one."""
    asked = by_heart(world, count)
    outputs = generate(model, tokenizer, [f"Question: {question}" for question, _ in asked])
    return [
        re.sub(r"\W+", " ", fact.answer).lower() in re.sub(r"\W+", " ", out).lower()
        for out, (_, fact) in zip(outputs, asked, strict=True)
    ]
