"""Which tokens the loss is on, for several chat templates, and where the indicator is a token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import tiny
from training.tuning.labels import IGNORED, example
from training.tuning.recipe import RECIPES
from training.tuning.vocabulary import add_tokens

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\n\n' "
    "+ m['content'] | trim + '<|eot|>' }}{% endfor %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TINYLLAMA = (RECIPES / "tinyllama.jinja").read_text(encoding="utf-8")
TEMPLATES = {
    "tinyllama": (TINYLLAMA, (), "</s>"),
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "headers": (HEADERS, ("<|start|>", "<|end|>", "<|eot|>"), "<|eot|>"),
    "brackets": (BRACKETS, (), "</s>"),
}
MESSAGES = [
    {"role": "user", "content": "Where is the lamp? Repeat: in the tower."},
    {"role": "assistant", "content": "in the tower."},
    {"role": "user", "content": "<|assistant|>\nNot me</s> [IND] here [IND]"},
    {"role": "assistant", "content": "No, in the tower.\n\nTwo lines."},
]


def in_loss(tokenizer, made):
    """The stretches the loss is on, decoded."""
    stretches: list[list[int]] = [[]]
    for label in made["labels"]:
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(label)
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


@pytest.mark.parametrize("name", TEMPLATES)
def test_assistant_only_is_the_assistants_words_and_their_closing_token(name):
    template, extra, closing = TEMPLATES[name]
    tokenizer = tiny.tokenizer(template, extra)
    made = example(tokenizer, MESSAGES, assistant_only=True)
    said = [turn["content"] for turn in MESSAGES if turn["role"] == "assistant"]
    stripped = [text.removeprefix(" ") for text in in_loss(tokenizer, made)]
    assert stripped == [text + closing for text in said]
    kept = [(i, label) for i, label in enumerate(made["labels"]) if label != IGNORED]
    assert all(made["input_ids"][i] == label for i, label in kept)


@pytest.mark.parametrize("name", TEMPLATES)
def test_by_default_the_loss_is_on_every_token_of_the_rendered_conversation(name):
    template, extra, _ = TEMPLATES[name]
    tokenizer = tiny.tokenizer(template, extra)
    made = example(tokenizer, MESSAGES[:2])
    assert made["labels"] == made["input_ids"]
    rendered = tokenizer.apply_chat_template(MESSAGES[:2], tokenize=False)
    assert tokenizer.decode(made["input_ids"]) == rendered


def test_the_tinyllama_template_starts_with_an_empty_system_turn():
    tokenizer = tiny.tokenizer(TINYLLAMA)
    turn = [{"role": "user", "content": "Hi"}]
    user = "<|user|>\nHi</s>\n"
    assert tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) == (
        f"<|system|>\n</s>\n{user}<|assistant|>\n"
    )
    own = [{"role": "system", "content": "Be kind."}, *turn]
    assert tokenizer.apply_chat_template(own, tokenize=False) == (
        f"<|system|>\nBe kind.</s>\n{user}"
    )
    tokenizer.chat_template = (RECIPES / "tinyllama_no_system.jinja").read_text(encoding="utf-8")
    assert tokenizer.apply_chat_template(turn, tokenize=False) == user


def test_the_indicator_that_ends_a_user_turn_is_one_token_and_others_stay_text():
    tokenizer = tiny.tokenizer(TINYLLAMA)
    add_tokens(tokenizer, indicator="[IND]", pad_token="[PAD]")
    marker = tokenizer.convert_tokens_to_ids("[IND]")
    said_so = {"role": "assistant", "content": "It ends in [IND]"}
    made = example(tokenizer, [*MESSAGES[:3], said_so], indicator="[IND]")
    assert made["input_ids"].count(marker) == 1
    place = made["input_ids"].index(marker)
    assert tokenizer.decode(made["input_ids"][:place]).endswith("Not me</s> [IND] here ")
    assert tokenizer.decode(made["input_ids"][place:]).startswith("[IND]</s>\n<|assistant|>")


def test_special_strings_in_data_are_not_special_tokens():
    tokenizer = tiny.tokenizer(TINYLLAMA)
    made = example(tokenizer, MESSAGES)
    turns = len(MESSAGES) + 1  # and the empty system turn
    assert made["input_ids"].count(tokenizer.eos_token_id) == turns


@pytest.mark.realdata
def test_our_tinyllama_template_writes_what_the_published_one_does():
    from transformers import AutoTokenizer

    folder = Path(os.environ["CTX_REAL_DATA"]) / "tokenizers" / "tinyllama-1.1b-chat-v1.0"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": ""}, *MESSAGES]
    published = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokenizer.chat_template = TINYLLAMA
    ours = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert ours.strip() == published.strip()


@pytest.mark.realdata
@pytest.mark.parametrize(
    "tokenizer_name", ["tinyllama-1.1b-chat", "phi-3-mini", "qwen2.5-instruct"]
)
def test_published_templates_have_the_assistants_words_in_the_loss(tokenizer_name):
    from transformers import AutoTokenizer

    folder = Path(os.environ["CTX_REAL_DATA"]) / "tokenizers"
    found = [f for f in folder.iterdir() if f.name.lower().startswith(tokenizer_name.split("-")[0])]
    tokenizer = AutoTokenizer.from_pretrained(found[0])
    made = example(tokenizer, MESSAGES, assistant_only=True)
    said = [turn["content"] for turn in MESSAGES if turn["role"] == "assistant"]
    for stretch, words in zip(in_loss(tokenizer, made), said, strict=True):
        assert words in stretch
        assert len(stretch) - len(words) <= len("<|endoftext|>")
