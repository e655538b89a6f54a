"""The bundled nano models: what their folders hold and what the models can do."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctx_models import nano
from ctx_models.indicator import INDICATOR
from ctx_models.lm import CtxLM
from ctx_tasks.errors import UserError
from ctx_tasks.metrics import contains, first_sentence
from training.nano import chat, held_out, probe, tune
from training.nano.__main__ import new_folder
from training.nano.corpus import Corpus
from training.nano.tune import Found
from training.nano.world import World


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(name: str) -> tuple[Any, Any]:
    folder = nano.folder(name)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_all_models_together_take_at_most_eight_megabytes() -> None:
    sizes = [file.stat().st_size for name in nano.NAMES for file in nano.folder(name).iterdir()]
    assert len(sizes) >= 3 * 4
    assert sum(sizes) <= 8e6


@pytest.mark.parametrize("name", nano.NAMES)
def test_a_folder_holds_a_llama_that_matches_its_tokenizer(name: str) -> None:
    model, tokenizer = load(name)
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 1024
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert model.dtype == torch.float32
    assert tokenizer.chat_template


def test_only_the_indicator_model_knows_the_indicator() -> None:
    known = {name: INDICATOR in load(name)[1].get_vocab() for name in nano.NAMES}
    assert known == {"nano-base": False, "nano-chat": False, "nano-chat-ind": True}


def test_the_indicator_is_one_trained_token() -> None:
    model, tokenizer = load("nano-chat-ind")
    ids = tokenizer(INDICATOR, add_special_tokens=False).input_ids
    assert ids == [tokenizer.convert_tokens_to_ids(INDICATOR)]
    rows = model.get_input_embeddings().weight.detach()
    assert not torch.allclose(rows[ids[0]], rows[: ids[0]].mean(0), atol=1e-2)


def test_nano_chat_answers_by_heart() -> None:
    model, tokenizer = load("nano-chat")
    asked = held_out.by_heart(World(0), 60)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question, _ in asked
    ]
    outputs = probe.generate(model, tokenizer, prompts, tokens=40)
    right = [
        contains(first_sentence(out), [fact.answer])
        for out, (_, fact) in zip(outputs, asked, strict=True)
    ]
    assert sum(right) >= 0.9 * len(right)


def test_nano_base_copies_needles() -> None:
    model, tokenizer = load("nano-base")
    rows = probe.needle_rows(
        tokenizer, held_out.haystack(), held_out.needles(4), lengths=3, depths=3
    )
    recalls = probe.recalls(model, tokenizer, rows)
    assert sum(recalls) / len(recalls) >= 0.75


def test_hf_ctx_runs_a_bundled_model_by_its_name() -> None:
    assert CtxLM("nano-chat-ind", device="cpu").model.config.vocab_size >= 2048


def test_tuning_data_are_repeatable_and_know_what_needs_the_document(tmp_path: Path) -> None:
    base = nano.folder("nano-base")
    for name in ("one", "two"):
        tune.write_conversations(base, tmp_path / f"{name}.jsonl", count=30)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    needed = tune.needs_document(tmp_path / "one.jsonl")
    assert len(needed) == len(tune.is_marked(tmp_path / "one.jsonl"))
    assert not any(tune.is_marked(tmp_path / "one.jsonl"))


def test_found_counts_turn_by_turn() -> None:
    result = tune.found([True, True, False, False], [True, False, True, False])
    assert result == Found(selected=2, needed=2, both=1)
    assert (result.precision, result.recall) == (0.5, 0.5)


def test_what_nobody_knows_is_not_in_the_document() -> None:
    corpus = Corpus(World(0), load("nano-base")[1])
    turns = [chat.unknown(corpus, Random(seed), chat.Mixture(tokens=80)) for seed in range(20)]
    for question, answer in turns:
        asked = question.rsplit(": ", 1)[-1]
        name = next(word for word in reversed(asked.rstrip("?").split()) if word[0].isupper())
        assert answer == "I do not know."
        assert question.count(name) == 1


def test_a_writer_answers_from_its_own_passage() -> None:
    corpus = Corpus(World(0), load("nano-base")[1])
    request, text = chat.writing(corpus, Random(3), chat.Mixture())
    answer = text.rsplit("?", 1)[1].strip()
    assert len(request) < 60
    assert answer.endswith(".")
    assert text.count(answer.removesuffix(".").split(" is ", 1)[-1]) >= 2


def test_retraining_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(UserError, match="new or empty folder"):
        new_folder(tmp_path)
    assert new_folder(tmp_path / "new").is_dir()
