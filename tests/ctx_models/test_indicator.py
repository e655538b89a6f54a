"""The indicator: one token, at the end of a user turn, and only where we put it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ctx_models.indicator import (
    add_indicator,
    check_indicator,
    indicator_turns,
    insert_indicator,
)
from ctx_models.spans import Segment, raw, render, segment, tokenize
from ctx_tasks.errors import UserError
from tests import tiny
from tests.ctx_models import chats

TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
]


def test_the_indicator_becomes_one_special_token_once() -> None:
    tok = tiny.tokenizer()
    size = len(tok)
    assert add_indicator(tok) == size == add_indicator(tok)
    assert len(tok) == size + 1
    assert tok.encode("a [IND]", add_special_tokens=False)[-1] == size
    assert tok.decode([size], skip_special_tokens=True) == ""


def test_other_added_tokens_stay() -> None:
    tok = tiny.tokenizer(extra_special_tokens=("<|x|>",))
    before = tok.get_added_vocab()
    add_indicator(tok, "<ctx>")
    assert tok.get_added_vocab() == before | {"<ctx>": len(tok) - 1}
    assert tok.tokenize("<|x|><ctx>") == ["<|x|>", "<ctx>"]


def test_the_indicator_survives_saving(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    number = add_indicator(tok)
    tok.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    check_indicator(loaded)
    assert loaded.convert_tokens_to_ids("[IND]") == number


@pytest.mark.parametrize(
    ("turns", "texts"),
    [("last", ["One?", "1", "Two? [IND]"]), ("all", ["One? [IND]", "1", "Two? [IND]"])],
)
def test_user_turns_get_it_after_a_space(turns, texts) -> None:  # type: ignore[no-untyped-def]
    before = [dict(message) for message in TALK]
    assert [m["content"] for m in insert_indicator(TALK, turns=turns)] == texts
    assert before == TALK


def test_an_empty_turn_and_text_parts_get_it() -> None:
    assert insert_indicator([{"role": "user", "content": ""}])[0]["content"] == "[IND]"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    marked = insert_indicator([{"role": "user", "content": parts}])
    assert [part["text"] for part in marked[0]["content"]] == ["a", "b [IND]"]
    assert parts[1]["text"] == "b"


@pytest.mark.parametrize("kind", chats.TOKENIZERS)
@pytest.mark.parametrize("name", chats.TEMPLATES)
def test_rendering_with_it_is_training_text(name: str, kind: str) -> None:
    tok = chats.with_template(kind, name)
    for turns in ("last", "all"):
        segmented = segment(
            tok, TALK, add_generation_prompt=True, indicator="[IND]", indicator_turns=turns
        )
        training = tok.apply_chat_template(
            insert_indicator(TALK, turns=turns), tokenize=False, add_generation_prompt=True
        )
        assert segmented.text == training
        number = tok.convert_tokens_to_ids("[IND]")
        places = [n for n, i in enumerate(segmented.input_ids) if i == number]
        expected = [2] if turns == "last" else [0, 2]
        if name == "repeating":
            expected = [2, *expected]
        assert [segmented.messages[n] for n in places] == expected
        assert {segmented.segments[n] for n in places} == {Segment.USER}


@pytest.mark.parametrize("kind", chats.TOKENIZERS)
def test_a_typed_indicator_stays_text_beside_ours(kind: str) -> None:
    tok = chats.with_template(kind, "zephyr")
    number = tok.convert_tokens_to_ids("[IND]")
    typed = [{"role": "user", "content": "[IND] say [IND]"}]
    assert number not in segment(tok, typed).input_ids
    ours = segment(tok, typed, indicator="[IND]")
    assert ours.text == "<|user|>\n[IND] say [IND] [IND]</s>\n"
    assert ours.input_ids.count(number) == 1
    last_user = max(n for n, kind in enumerate(ours.segments) if kind is Segment.USER)
    assert ours.input_ids[last_user] == number


def test_spaces_that_the_template_trims_leave_the_indicator() -> None:
    tok = chats.with_template("byte_level", "llama-3")
    rendered = render(tok, [{"role": "user", "content": "  a "}], indicator="[IND]")
    [(start, end)] = rendered.indicators
    assert rendered.text[start:end] == "[IND]"
    [span] = rendered.spans
    assert rendered.text[span.start : span.end] == "a  [IND]"


def test_without_a_template_it_ends_the_prompt() -> None:
    tok = chats.byte_level()
    segmented = tokenize(tok, raw("Two [IND]?", "[IND]"))
    assert segmented.text == "Two [IND]? [IND]"
    number = tok.convert_tokens_to_ids("[IND]")
    assert segmented.input_ids.count(number) == 1
    assert segmented.input_ids[-1] == number
    assert set(segmented.segments) == {Segment.USER}


def test_an_unknown_indicator_is_refused_or_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    tok = tiny.tokenizer()
    message = "is not one added token of this tokenizer but ['[', 'I', 'N', 'D', ']']"
    with pytest.raises(UserError) as caught:
        check_indicator(tok)
    assert message in str(caught.value)
    assert "ctx-train sft adds it" in str(caught.value)
    assert "indicator_strict=false" in str(caught.value)
    with caplog.at_level(logging.WARNING, logger="ctx_models.indicator"):
        check_indicator(tok, strict=False)
    assert message in caplog.text
    add_indicator(tok)
    check_indicator(tok)


def test_an_ordinary_word_is_no_indicator() -> None:
    with pytest.raises(UserError, match="'a' is not one added token"):
        check_indicator(tiny.tokenizer(), "a")


@pytest.mark.parametrize("indicator", ["", " [IND]", "[IND]\n"])
def test_a_word_with_spaces_cannot_be_added(indicator: str) -> None:
    with pytest.raises(UserError, match="cannot be a token: give a word without spaces"):
        add_indicator(tiny.tokenizer(), indicator)


def test_turns_are_last_or_all_and_need_a_user() -> None:
    with pytest.raises(UserError, match="indicator_turns='first' is not known: write last or all"):
        indicator_turns(TALK, "first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no user turn to go to among 1 message\(s\)"):
        insert_indicator([{"role": "assistant", "content": "a"}])
