"""Models that think: the bundled model, whose answers are read as a thought and an answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from transformers import AutoTokenizer

from ctx_models import model_names
from ctx_models.lm import CtxLM
from ctx_models.thinking import Closed, Thinking, continued
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from tests.ctx_models.test_cut import SQUAD, TOYS, column, evaluate, scores

# "The best ware of Shire is" plays the thought. Its " of" would be the end of it, and of the
# answer, to a model class that looks for stop strings in a thought.
STOP = {"gen_kwargs": {"until": [" of"]}}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(model_names.resolve("nano-chat"))


@pytest.fixture(scope="module")
def plain() -> dict:
    return evaluate()


class TestAnswers:
    @pytest.mark.parametrize("settings", [{}, {"alpha": 0.99}])
    def test_follow_the_tag_whatever_stop_strings_the_thought_holds(self, plain, settings):
        found = evaluate(
            think_end_token=" is", think_tokens=30, max_length=600, options=STOP, **settings
        )
        for before, after in zip(
            column(plain, "filtered_resps"), column(found, "filtered_resps"), strict=True
        ):
            _, tag, answer = before[0].partition(" is ")
            assert after[0] == (answer if tag else "")
        thought = [" is " in answer[0] for answer in column(plain, "filtered_resps")]
        assert column(found, "unfinished") == [float(not one) for one in thought]
        assert any(thought)

    def test_are_empty_and_unfinished_where_the_thought_never_closes(self):
        found = evaluate(think_end_token="</think>", think_tokens=20)
        assert column(found, "filtered_resps") == [[""]] * 12
        assert scores(found)["unfinished,none"] == scores(found)["empty,none"] == 1.0

    def test_have_a_budget_beside_the_thought_s(self, plain):
        options = {"gen_kwargs": {"max_gen_toks": 2}}
        found = evaluate(think_end_token=" is", think_tokens=30, options=options)
        closed = [one[0] for one in column(found, "filtered_resps") if one[0]]
        assert closed
        assert scores(found)["unfinished,none"] == 1.0

    def test_no_thought_without_thinking(self, plain):
        found = evaluate(think_end_token="</think>", enable_thinking=False)
        assert column(found, "filtered_resps") == column(plain, "filtered_resps")
        assert scores(found)["unfinished,none"] == scores(plain)["unfinished,none"]

    def test_a_begun_answer_begins_after_the_thought(self):
        manager = harness.task_manager(["nano_squad_contains_prefix"], {"questions": 4})
        name = "nano_squad_contains_prefix"
        found = evaluate(name, manager, think_end_token=" is", think_tokens=30)
        for prompt in column(found, "arguments", name):
            assert prompt[0][0].prefix == "The"
            assert not prompt[0][0].endswith("The")

    @pytest.mark.slow
    def test_steering_of_the_answer_alone_leaves_the_thought(self):
        settings = {"think_end_token": " is", "think_tokens": 30, "alpha": 0.3}
        whole = evaluate(**settings)
        answer = evaluate(steer_thought=False, **settings)
        # Steered so strongly the model does not come to its "is"; unsteered it does.
        assert scores(answer)["empty,none"] < scores(whole)["empty,none"]


class TestRefused:
    def test_a_log_likelihood(self):
        with pytest.raises(UserError, match="leaves no room for a thought"):
            evaluate("toy_choice", TOYS, think_end_token="</think>")

    def test_a_thought_as_long_as_the_window(self):
        with pytest.raises(UserError, match="think_tokens=200 and the answer: lower think_tokens"):
            evaluate(think_end_token="</think>", think_tokens=200, max_length=300)

    @pytest.mark.parametrize(
        ("name", "value"), [("think_tokens", 0), ("think_tokens", "x"), ("steer_thought", "maybe")]
    )
    def test_a_setting_that_is_none(self, name, value):
        with pytest.raises(UserError, match=f"{name}={value!r}: "):
            evaluate(think_end_token="</think>", **{name: value})


class TestThought:
    def test_ends_at_its_first_tag_with_the_blanks_after_it(self, tokenizer):
        thinking = Thinking(tokenizer, "</think>", 100)
        text = "He asks. She is not sure. </think>\n\nParis </think>"
        ids = tokenizer.encode(text, add_special_tokens=False)
        end = thinking.closed(ids)
        assert end is not None
        assert tokenizer.decode(ids[:end]).rstrip() == "He asks. She is not sure. </think>"
        assert tokenizer.decode(ids[end:]).strip() == "Paris </think>"
        assert thinking.closed(ids[: end // 2]) is None

    def test_may_end_at_a_token_id(self, tokenizer):
        thinking = Thinking(tokenizer, 7, 100)
        letters = tokenizer.encode("Paris", add_special_tokens=False)
        assert thinking.closed([5, 6, 7, *letters]) == 3
        assert thinking.closed(letters) is None

    def test_is_not_closed_by_a_tag_in_the_prompt(self, tokenizer):
        thinking = Thinking(tokenizer, "</think>", 100)
        prompt = tokenizer.encode("What does </think> mean?", add_special_tokens=False)
        thought = tokenizer.encode("It is a tag. ", add_special_tokens=False)
        closed = tokenizer.encode("</think> A tag", add_special_tokens=False)
        ends = Closed(thinking, len(prompt))
        assert ends(torch.tensor([prompt + thought]), None).tolist() == [False]
        assert ends(torch.tensor([prompt + thought + closed]), None).tolist() == [True]

    def test_stands_between_prompt_and_prefix(self):
        found = continued(
            [([1, 2], [False, True]), ([3], [True])], [[4], [5, 6]], [[7], []], pad=0, kept=False
        )
        assert found.ids.tolist() == [[1, 2, 4, 7], [0, 3, 5, 6]]
        assert found.mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
        assert found.user.tolist() == [[False, True, False, False], [False, True, False, False]]


def test_results_say_how_it_thinks():
    model = CtxLM("nano-chat", think_end_token="</think>", think_tokens=64, device="cpu")
    results = simple_evaluate(
        model=model,
        tasks=[SQUAD],
        task_manager=harness.task_manager([SQUAD], {"questions": 1}),
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    assert results is not None
    ours = results["config"]["ctx"]
    assert (ours["think_end_token"], ours["think_tokens"]) == ("</think>", 64)
