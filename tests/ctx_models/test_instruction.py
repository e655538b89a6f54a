"""A sentence as a remedy: where it stands, what it counts as, and what refuses it."""

from __future__ import annotations

import pytest

from ctx_models import Segment
from ctx_models.arm import read_arm
from ctx_models.instruction import insert_instruction
from ctx_models.lm import CtxLM, PromptText
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from ctx_tasks.prompts import WithoutIndicator

SENTENCE = "Answer from the passage only, please."
CHAT = [
    {"role": "user", "content": "First?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Second?"},
    {"role": "assistant", "content": "It is"},
]


@pytest.fixture(scope="module")
def lm() -> CtxLM:
    return CtxLM("nano-chat-ind", device="cpu")


def user_text(prompt: str) -> str:
    assert isinstance(prompt, PromptText)
    spans = [span for span in prompt.rendered.spans if span.segment == Segment.USER]
    return "".join(prompt[span.start : span.end] for span in spans)


def test_it_follows_the_last_user_turn_and_leaves_the_messages_alone():
    told = insert_instruction(CHAT, SENTENCE, "user")
    assert told[2]["content"] == f"Second?\n{SENTENCE}"
    assert [told[i] for i in (0, 1, 3)] == [CHAT[i] for i in (0, 1, 3)]
    assert CHAT[2]["content"] == "Second?"


def test_a_system_turn_is_made_or_continued():
    assert insert_instruction(CHAT, SENTENCE, "system")[0]["content"] == SENTENCE
    system = {"role": "system", "content": "Be kind."}
    [first, *others] = insert_instruction([system, *CHAT], SENTENCE, "system")
    assert first["content"] == f"Be kind.\n{SENTENCE}"
    assert others == CHAT


def test_a_task_that_wants_no_indicator_still_says_so():
    messages = [{"role": "user", "content": WithoutIndicator("Write a poem.")}]
    told = insert_instruction(messages, SENTENCE, "user")
    assert isinstance(told[0]["content"], WithoutIndicator)


def test_in_the_user_turn_it_is_user_text_before_the_indicator(lm):
    lm.set_arm(read_arm(Arm(instruction=SENTENCE, indicator="[IND]")))
    prompt = lm.apply_chat_template([{"role": "user", "content": "Who?"}])
    assert f"Who?\n{SENTENCE} [IND]" in prompt
    assert SENTENCE in user_text(prompt)


def test_in_the_system_turn_it_is_not_user_text(lm):
    lm.set_arm(read_arm(Arm(instruction=SENTENCE, instruction_turn="system")))
    prompt = lm.apply_chat_template([{"role": "user", "content": "Who?"}])
    assert SENTENCE in prompt
    assert user_text(prompt) == "Who?"


def test_the_prompt_is_the_templates_own_with_the_sentence_in_the_message(lm):
    lm.set_arm(read_arm(Arm()))
    plain = lm.apply_chat_template([{"role": "user", "content": f"Who?\n{SENTENCE}"}])
    lm.set_arm(read_arm(Arm(instruction=SENTENCE)))
    assert lm.apply_chat_template([{"role": "user", "content": "Who?"}]) == plain


def test_without_a_template_it_is_refused_and_not_lost(lm):
    lm.set_arm(read_arm(Arm(instruction=SENTENCE)))
    with pytest.raises(UserError, match="--apply_chat_template"):
        lm.tok_batch_encode(["Who?"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instruction": " "}, "instruction is empty"),
        ({"instruction": SENTENCE, "chat": False}, "put into a turn of a chat"),
        ({"instruction": SENTENCE, "instruction_turn": "last"}, "choose user or system"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        read_arm(Arm.of(settings))
