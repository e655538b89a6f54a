"""Prompts longer than the window, and answers that meet their token limit, inside harness runs."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from ctx_models import model_names
from ctx_models.prompts import PromptText
from ctx_models.registry import register_model
from ctx_models.spans import Segment, render, tokenize
from ctx_models.window import frame, overlong, shortened
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from tests.ctx_models import offline_tasks

register_model()
SQUAD = "nano_squad_contains"
TOYS = TaskManager(include_path=str(offline_tasks.FOLDER), include_defaults=False)


def evaluate(task: str = SQUAD, /, manager: TaskManager | None = None, **settings: Any) -> dict:
    """Twelve questions to nano-chat in its template; `settings` are model arguments."""
    options = settings.pop("options", {})
    options = {"batch_size": 4, **options}
    return simple_evaluate(
        model="hf-ctx",
        model_args={"pretrained": "nano-chat", **settings},
        tasks=[task],
        task_manager=manager or harness.task_manager([task], {"questions": 12}),
        device="cpu",
        bootstrap_iters=0,
        apply_chat_template=True,
        **options,
    )


def scores(results: dict, task: str = SQUAD) -> dict[str, Any]:
    return results["results"][task]


def column(results: dict, name: str, task: str = SQUAD) -> list[Any]:
    return [sample.get(name) for sample in results["samples"][task]]


class TestMark:
    def test_counts_what_every_prompt_lost(self):
        results = evaluate(alpha=0.5, max_length=170)
        assert scores(results)["cut,none"] == 1.0
        assert scores(results)["contains,none"] == 0.25
        # 100 tokens are the answer's: what is left of a prompt is 70.
        lengths = [lost + 70 for lost in column(results, "cut")]
        tokenizer = AutoTokenizer.from_pretrained(model_names.resolve("nano-chat"))
        sent = [sample["arguments"][0][0] for sample in results["samples"][SQUAD]]
        assert all(isinstance(prompt, PromptText) for prompt in sent)
        assert lengths == [len(tokenize(tokenizer, one.rendered).input_ids) for one in sent]

    def test_says_nothing_was_cut_where_nothing_was(self):
        results = evaluate()
        assert scores(results)["cut,none"] == scores(results)["unfinished,none"] == 0.0
        assert results["higher_is_better"][SQUAD]["cut"] is False
        assert set(column(results, "cut")) == {0}

    def test_is_the_same_steered_and_plain(self):
        steered = column(evaluate(alpha=0.5, max_length=300), "cut")
        assert steered == column(evaluate(max_length=300), "cut")
        assert 0 < sum(map(bool, steered)) < 12

    def test_is_no_part_of_a_mean_over_tasks(self):
        few = {"questions": 2, "lengths": 1, "depths": 1, "max_length": 200}
        manager = harness.task_manager(["nano_context_awareness"], few)
        results = evaluate("nano_context_awareness", manager, max_length=400)
        assert not [name for name in scores(results, "nano_context_awareness") if "cut" in name]
        assert "cut,none" in scores(results)

    def test_counts_log_likelihoods(self):
        results = evaluate("toy_choice", TOYS, max_length=60)
        lost = column(results, "cut", "toy_choice")
        # The questions grow; the last are longer than the window.
        assert lost[0] == 0 < lost[-1]
        assert scores(results, "toy_choice")["cut,none"] == sum(map(bool, lost)) / len(lost)
        assert "unfinished,none" not in scores(results, "toy_choice")

    def test_survives_the_answer_cache(self, tmp_path):
        options = {"use_cache": str(tmp_path / "cache")}
        first = evaluate(max_length=300, options=options)
        again = evaluate(max_length=300, options=options)
        assert column(again, "cut") == column(first, "cut")
        assert column(again, "unfinished") == column(first, "unfinished")


class TestUnfinished:
    def test_is_an_answer_that_met_its_limit(self):
        results = evaluate(options={"gen_kwargs": {"max_gen_toks": 3}})
        assert scores(results)["unfinished,none"] == 1.0

    def test_is_no_answer_that_a_stop_string_ended(self):
        results = evaluate(options={"gen_kwargs": {"max_gen_toks": 30, "until": [" is"]}})
        ended = [" is" not in one for one in column(results, "filtered_resps")]
        assert any(ended)
        assert column(results, "unfinished") == [0.0] * 12


class TestSkipAndRefuse:
    def test_skip_leaves_documents_out_of_every_score(self):
        whole, skipped = evaluate(), evaluate(max_length=340, overlength="skip")
        kept = [place for place, lost in enumerate(column(skipped, "cut")) if not lost]
        assert 0 < len(kept) < 12
        hits = [column(whole, "contains")[place] for place in kept]
        assert scores(skipped)["contains,none"] == sum(hits) / len(hits)
        assert scores(skipped)["cut,none"] == (12 - len(kept)) / 12

    def test_skip_leaves_out_choices(self):
        results = evaluate("toy_choice", TOYS, max_length=60, overlength="skip")
        lost = column(results, "cut", "toy_choice")
        assert [one is None for one in column(results, "acc", "toy_choice")] == [
            one > 0 for one in lost
        ]

    def test_refuse_names_the_longest_document(self):
        with pytest.raises(UserError, match=r"4 of 12 .* document 9 of .* has 83"):
            evaluate(max_length=300, overlength="refuse")

    def test_skip_is_refused_where_a_process_has_nothing_left(self):
        asked = [Instance("generate_until", {}, ("", {}), 0, ("task", doc, 1)) for doc in (0, 2)]

        def everyone(found: list[Any]) -> list[Any]:
            """Beside this process one that has as much to do, and kept all of it."""
            return [*found, {"task": 2} if isinstance(found[0], dict) else found[0]]

        assert overlong(asked, [0, 5], "skip", everyone) == {1: 5}
        with pytest.raises(UserError, match="skip leaves process 0 no document of task: start"):
            overlong(asked, [1, 5], "skip", everyone)

    @pytest.mark.parametrize(("name", "allowed"), [("overlength", "mark"), ("cut", "left")])
    def test_says_which_values_there_are(self, name, allowed):
        with pytest.raises(UserError, match=f"{name}='middle': choose {allowed} or"):
            evaluate(**{name: "middle"})


class TestFrame:
    def test_takes_tokens_out_of_the_middle_of_the_user_s_text(self):
        tokenizer = AutoTokenizer.from_pretrained(model_names.resolve("nano-chat"))
        text = " ".join(f"word{number}" for number in range(60))
        prompt = render(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)
        whole = tokenize(tokenizer, prompt)
        ids, segments = shortened(whole, 80, "frame")
        lost = len(whole.input_ids) - 80
        first = next(place for place in range(80) if ids[place] != whole.input_ids[place])
        assert ids == whole.input_ids[:first] + whole.input_ids[first + lost :]
        frame_of = [one for one in whole.segments if one != Segment.USER]
        assert [one for one in segments if one != Segment.USER] == frame_of
        before = segments[:first].count(Segment.USER)
        assert abs(before - (segments.count(Segment.USER) - before)) <= 1

    @pytest.mark.slow
    def test_runs_plain_and_steered_and_on_choices(self):
        plain, steered = (evaluate(max_length=170, cut="frame", alpha=a) for a in (1.0, 0.5))
        assert column(plain, "cut") == column(steered, "cut")
        choices = evaluate("toy_choice", TOYS, max_length=60, cut="frame")
        left = evaluate("toy_choice", TOYS, max_length=60)
        assert column(choices, "cut", "toy_choice") == column(left, "cut", "toy_choice")

    def test_is_refused_where_the_frame_alone_does_not_fit(self):
        with pytest.raises(UserError, match="cut=frame keeps all but the user's text, 3 tokens"):
            frame([Segment.TEMPLATE] * 3 + [Segment.USER] * 4, 2)
