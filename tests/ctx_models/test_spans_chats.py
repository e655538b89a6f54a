"""Chats as people have them: parts, clocks, switches of thinking, tools, vocabularies, length."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ctx_models.spans import Segment, render, segment
from tests import tiny
from tests.ctx_models.test_spans import HI, PARTS_ONLY, braced, tokenizer


def test_parts_are_found_where_the_template_reads_only_parts() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]
    rendered = render(tiny.tokenizer(PARTS_ONLY), parts)
    assert braced(rendered) == "[INST] {0:USER:Hello!} [/INST]"


def test_blank_user_content_may_vanish() -> None:
    assert render(tiny.tokenizer(PARTS_ONLY), [{"role": "user", "content": " "}]).spans == ()


def test_a_clock_of_days_is_template() -> None:
    tok = tiny.tokenizer("{{ strftime_now('%d %b %Y') }} {{ messages[0].content | trim }}")
    rendered = render(tok, [{"role": "user", "content": "Hello! "}])
    assert [rendered.text[s.start : s.end] for s in rendered.spans] == ["Hello!"]


# As Nemotron's and others do with the switch of thinking.
SWITCH = (
    "{% for m in messages %}<{{ m['content'].replace('/think', '').replace('/no_think', '')"
    ".strip() }}>{% if '/no_think' in m['content'] %}!{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Which paths? /think", "<{0:USER:Which paths?}>"),
        ("Which paths?\n/no_think ", "<{0:USER:Which paths?}>!"),
        ("/no_think Which paths?", "<{0:USER:Which paths?}>!"),
        ("see a/think there /think", "<{0:USER:see a}{0:USER:there}>"),
    ],
)
def test_a_switch_of_thinking_is_rendered_as_the_tokenizer_does(typed: str, expected: str) -> None:
    tok, messages = tiny.tokenizer(SWITCH), [{"role": "user", "content": typed}]
    rendered = render(tok, messages)
    assert rendered.text == tok.apply_chat_template(messages, tokenize=False)
    assert braced(rendered).replace("} ", "}") == expected


def test_a_switch_that_the_template_leaves_alone_is_content() -> None:
    typed = "Which paths? /no_think"
    rendered = render(tokenizer("thinking"), [{"role": "user", "content": typed}])
    assert f"{{0:USER:{typed}}}" in braced(rendered)


def test_tool_calls_and_their_answers_are_template() -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.content is not none %}{{ m.content }}"
        "{% endif %}{% if m.tool_calls %}{{ m.tool_calls[0].name }}{% endif %}{% endfor %}"
    )
    messages = [
        HI,
        {"role": "assistant", "content": None, "tool_calls": [{"name": "clock"}]},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "It is noon."},
    ]
    rendered = render(tiny.tokenizer(template), messages)
    expected = "<user>{0:USER:Hello!}<assistant>clock<tool>noon<assistant>{3:ASSISTANT:It is noon.}"
    assert braced(rendered) == expected


def vocabulary_that_holds_its_control_tokens(kind: str) -> Any:
    """A tokenizer whose model finds `<|im_end|>` in plain text: its vocabulary has it."""
    words = ["<unk>", "<|im_start|>", "<|im_end|>", "user", "hello", "\n"]
    vocabulary = {word: number for number, word in enumerate(words)}
    if kind == "BPE":  # merges are ignored for what is a word of the vocabulary, as in Llama 3
        letters = sorted({letter for word in words for letter in word} - vocabulary.keys())
        vocabulary |= {letter: len(words) + n for n, letter in enumerate(letters)}
        model = models.BPE(vocabulary, [], unk_token="<unk>", ignore_merges=True)
    else:
        model = getattr(models, kind)(vocabulary, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"<\|im_start\|>|<\|im_end\|>"), "isolated"),
            pre_tokenizers.WhitespaceSplit(),
        ]
    )
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    special = [AddedToken(word, special=True) for word in words[1:3]]
    tok.add_tokens(special)
    tok.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
        "'<|im_end|>' }}{% endfor %}"
    )
    return tok


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "BPE"])
def test_control_tokens_of_a_vocabulary_stay_text_too(kind: str) -> None:
    tok = vocabulary_that_holds_its_control_tokens(kind)
    typed = "hello <|im_end|> hello <unk>"
    segmented = segment(tok, [{"role": "user", "content": typed}])
    tokens = tok.convert_ids_to_tokens(segmented.input_ids)
    assert tokens[0] == "<|im_start|>"
    assert tokens.count("<|im_end|>") == 1
    assert segmented.segments[-1] is Segment.SPECIAL
    assert tokens.count("hello") == 2
    clean = segment(tok, [{"role": "user", "content": "hello there"}])
    assert clean.input_ids == tok(clean.text).input_ids


def test_merges_cannot_make_a_control_token_of_typed_text() -> None:
    letters = "</s>abc"
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary |= {"</": 7, "</s": 8, "</s>": 9}
    merges = [("<", "/"), ("</", "s"), ("</s", ">")]
    tok = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, merges)), eos_token="</s>"
    )
    tok.chat_template = "{{ messages[0].content }}{{ eos_token }}"
    segmented = segment(tok, [{"role": "user", "content": "a</s>b"}])
    assert tok.convert_ids_to_tokens(segmented.input_ids) == ["a", "</s", ">", "b", "</s>"]


def thoughtful(turns: int) -> list[dict[str, Any]]:
    """Questions, and answers with thoughts that a template like Qwen3's cuts but for the last."""
    talk = []
    for turn in range(turns):
        thought = f"<think>\na\n</think>\n\nanswer {turn}"
        talk += [{"role": "user", "content": f"question {turn}"}]
        talk += [{"role": "assistant", "content": thought}]
    return [*talk, HI]


def test_many_turns_are_rendered_as_often_as_few() -> None:
    def draws(turns: int) -> int:
        tok, count = tokenizer("thinking"), itertools.count(1)
        plain = tok.apply_chat_template

        def counted(*args: Any, **kwargs: Any) -> str:
            next(count)
            return plain(*args, **kwargs)

        tok.apply_chat_template = counted
        assert len(render(tok, thoughtful(turns)).spans) == 2 * turns + 1
        return next(count)

    assert draws(64) == draws(8) < 24


def test_time_grows_with_the_turns_and_not_with_their_square() -> None:
    tok = tokenizer("thinking")

    def processor_seconds(turns: int) -> float:
        start = time.process_time()
        render(tok, thoughtful(turns))
        return time.process_time() - start

    processor_seconds(4)
    assert processor_seconds(400) < 8 * processor_seconds(100)
