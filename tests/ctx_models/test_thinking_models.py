"""A model that thinks in several sentences, inside the real harness: what it says is a script."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance

from ctx_models.lm import CtxLM
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from tests.ctx_models.test_cut import SQUAD, TOYS, column, scores

ASSISTANT = "<|assistant|>\n"
# As Qwen3's: without thinking the template writes an empty thought.
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
THOUGHT = "<think>\nThe user asks for a ware. It is named above. So I say it.\n</think>\n\n"
ANSWER = "It is salt. I am sure. "


class Script:
    """The tokens that a model may write next, by what it was asked and has written so far."""

    def __init__(self, tokenizer: Any, says: dict[str, str]) -> None:
        self._tokenizer, self._says = tokenizer, says
        self.prompts: list[str] = []

    def __call__(self, row: int, ids: torch.Tensor) -> list[int]:
        prompt, _, written = self._tokenizer.decode(ids).rpartition(ASSISTANT)
        self.prompts.append(prompt)
        text = next(text for asked, text in self._says.items() if asked in prompt)
        # Where the template or the task wrote the beginning, the model goes on with its answer.
        begun, _, answer = written.rpartition("</think>\n\n")
        rest = text[len(written) :] if text.startswith(written) else ANSWER[len(answer) :]
        assert begun or text.startswith(written)
        found: list[int] = self._tokenizer.encode(rest, add_special_tokens=False)
        return found[:1] or [self._tokenizer.eos_token_id]


def scripted(says: str | dict[str, str], **settings: Any) -> CtxLM:
    """nano-chat, whose every token is taken from a script; generation is transformers' own."""
    model = CtxLM("nano-chat", device="cpu", batch_size=4, think_end_token="</think>", **settings)
    model.tokenizer.chat_template = TEMPLATE
    script = Script(model.tokenizer, {"": says} if isinstance(says, str) else says)
    model.model.generate = functools.partial(model.model.generate, prefix_allowed_tokens_fn=script)
    return model


def evaluate(model: CtxLM, task: str = SQUAD, **options: Any) -> dict[str, Any]:
    """Four questions; the task stops at ". "."""
    found = simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=harness.task_manager([task], {"questions": 4}),
        bootstrap_iters=0,
        **{"apply_chat_template": True, **options},
    )
    assert found is not None
    return dict(found)


def ask(model: CtxLM, *questions: str, **settings: Any) -> list[Any]:
    """Answers to questions of a user, with the notes on them."""
    settings = {"until": [". "], "max_gen_toks": 20, "do_sample": False, **settings}
    asked = [model.apply_chat_template([{"role": "user", "content": one}]) for one in questions]
    return model.generate_until(
        [Instance("generate_until", {}, (one, settings), place) for place, one in enumerate(asked)],
        disable_tqdm=True,
    )


class TestCloses:
    @pytest.mark.parametrize("settings", [{}, {"alpha": 0.5}, {"enable_thinking": True}])
    def test_stop_strings_sleep_until_the_tag(self, settings):
        found = evaluate(scripted(THOUGHT + ANSWER, think_tokens=100, **settings))
        assert column(found, "filtered_resps") == [["It is salt"]] * 4
        assert scores(found)["unfinished,none"] == scores(found)["empty,none"] == 0.0

    def test_the_thought_does_not_use_up_the_answer_s_tokens(self):
        [answer] = ask(scripted(THOUGHT + ANSWER, think_tokens=100), "Which ware?", max_gen_toks=3)
        assert "It is salt".startswith(answer)
        assert answer
        assert answer.note.unfinished

    def test_the_user_s_tag_closes_nothing(self):
        model = scripted(THOUGHT + ANSWER, think_tokens=100)
        [answer] = ask(model, "What does </think> mean? Say it. </think>\n\nNow.")
        assert answer == "It is salt"

    def test_a_second_tag_is_part_of_the_answer(self):
        model = scripted(THOUGHT + "It ends at </think> always. Yes", think_tokens=100)
        assert ask(model, "Where?") == ["It ends at </think> always"]


class TestDoesNotClose:
    def test_the_answer_is_empty_and_unfinished(self):
        found = evaluate(scripted("<think>\nI wonder. Or not. " * 20, think_tokens=40))
        assert column(found, "filtered_resps") == [[""]] * 4
        assert scores(found)["unfinished,none"] == scores(found)["empty,none"] == 1.0

    def test_beside_one_that_does(self):
        says = {"mill": "<think>\nI wonder. " * 20, "": THOUGHT + ANSWER}
        open_, closed = ask(scripted(says, think_tokens=60), "Who keeps the mill?", "Which ware?")
        assert (open_, closed) == ("", "It is salt")
        assert (open_.note.unfinished, closed.note.unfinished) == (True, False)

    def test_a_thought_that_the_model_ends_without_its_tag(self):
        [answer] = ask(scripted("<think>\nI stop here. ", think_tokens=60), "Which ware?")
        assert answer == ""
        assert answer.note.unfinished


class TestTemplate:
    """`enable_thinking` reaches a template that knows it."""

    def test_true_asks_for_a_thought(self):
        model = scripted(THOUGHT + ANSWER, think_tokens=100, enable_thinking=True)
        found = evaluate(model)
        for [prompt] in column(found, "arguments"):
            assert prompt[0].endswith(ASSISTANT)

    def test_false_asks_for_the_answer_alone(self):
        found = evaluate(scripted(THOUGHT + ANSWER, enable_thinking=False))
        for [prompt] in column(found, "arguments"):
            assert prompt[0].endswith("<think>\n\n</think>\n\n")
        assert column(found, "filtered_resps") == [["It is salt"]] * 4
        assert "think_tokens" not in found["config"]["ctx"]


class TestBegunAnswer:
    TASK = "nano_squad_contains_prefix"

    def test_begins_after_the_closed_thought(self):
        model = scripted(THOUGHT + "The ware is salt. ", think_tokens=100)
        written: list[str] = []
        script = model.model.generate.keywords["prefix_allowed_tokens_fn"]

        def noted(row: int, ids: torch.Tensor) -> list[int]:
            written.append(model.tokenizer.decode(ids).rpartition(ASSISTANT)[2])
            return script(row, ids)

        model.model.generate.keywords["prefix_allowed_tokens_fn"] = noted
        found = evaluate(model, self.TASK)
        assert column(found, "filtered_resps", self.TASK) == [["ware is salt"]] * 4
        begun = [one for one in written if one.startswith(f"{THOUGHT}The")]
        assert begun
        assert all(THOUGHT.startswith(one[: len(THOUGHT)]) for one in written)

    def test_is_refused_without_a_template_in_which_to_think(self):
        with pytest.raises(UserError, match="think_end_token needs the chat template, .* begun"):
            evaluate(scripted(THOUGHT + ANSWER), self.TASK, apply_chat_template=False)


def test_choices_are_refused():
    with pytest.raises(UserError, match="A log-likelihood leaves no room for a thought"):
        simple_evaluate(
            model=scripted(THOUGHT),
            tasks=["toy_choice"],
            task_manager=TOYS,
            apply_chat_template=True,
        )
