"""Steered answers of whole runs, from their sample files, by an independent decoder.

It shares nothing with `hf-ctx` but tokenizer and weights: where the user's text lies is read from
the markers in the prompt, and each token is the largest logit of a float64 pass without cache,
padding or batch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctx_models import model_names
from ctx_models.steering import Steering
from tests.commands import ctx_eval
from tests.ctx_models import naive
from tests.ctx_models.test_steering import alpha_table
from tests.ctx_tasks.result_files import read_lines

ALPHA = 0.5
USER = re.compile(r"<\|user\|>\n(.*?)(?=</s>\n)", re.DOTALL)
RUNS: dict[str, tuple[tuple[Any, ...], int]] = {
    "base": ((), 2048),
    "cut": (("max_length=170",), 70),
    "few-shot": (("--num_fewshot", 1), 2048),
    "turns": (("--num_fewshot", 1, "--fewshot_as_multiturn", "true"), 2048),
    "system": (("--system_instruction", "Answer in one sentence."), 2048),
}


@pytest.fixture(scope="module")
def judge() -> tuple[Any, Any]:
    folder = model_names.resolve("nano-chat")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(folder), model


@torch.no_grad()
def decoded(judge: tuple[Any, Any], prompt: str, room: int, settings: dict[str, Any]) -> str:
    """The answer to a prompt, cut as the task's generation settings say."""
    tokenizer, model = judge
    whole = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    spans = [match.span(1) for match in USER.finditer(prompt)]
    assert spans
    user = [
        any(start < end_of and end > begin for begin, end_of in spans) and end > start
        for start, end in whole["offset_mapping"]
    ]
    ids, kept = whole["input_ids"][-room:], user[-room:]
    begin, limit = len(ids), settings["max_gen_toks"]
    mask = torch.tensor([kept + [False] * limit])
    with naive.naive(model, mask, alpha_table(model, Steering(ALPHA))) as twin:
        while len(ids) - begin < limit and ids[-1] != tokenizer.eos_token_id:
            visible = torch.ones(1, len(ids), dtype=torch.long)
            logits = twin(
                input_ids=torch.tensor([ids]), attention_mask=visible, use_cache=False
            ).logits
            ids = [*ids, int(logits[0, -1].argmax())]
            text = tokenizer.decode(ids[begin:], skip_special_tokens=True)
            if any(stop in text for stop in settings["until"]):
                break
    for stop in settings["until"]:
        text = text.split(stop)[0]
    return text


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_answer_equals_an_independent_decoder_s(judge, tmp_path: Path, name):
    flags, room = RUNS[name]
    windows = [flag for flag in flags if str(flag).startswith("max_length")]
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--tasks", "nano_squad_contains", "--apply_chat_template"),
        *("--model_args", ",".join(["pretrained=nano-chat", f"alpha={ALPHA}", *windows])),
        *("--metadata", json.dumps({"questions": 4}), "--batch_size", 3, "--device", "cpu"),
        *("--log_samples", "--output_path", tmp_path),
        *(flag for flag in flags if flag not in windows),
    )
    assert done.code == 0, done.err
    [file] = tmp_path.rglob("samples_*.jsonl")
    samples = read_lines(file)
    assert len(samples) == 4
    for sample in samples:
        prompt, settings = sample["arguments"]["gen_args_0"].values()
        assert (sample["cut"] > 0) == (name == "cut")
        assert sample["resps"][0][0] == decoded(judge, prompt, room, settings)
