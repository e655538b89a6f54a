"""`hf-ctx` inside real harness runs, against plain `hf` and against the naive model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctx_models.indicator import add_indicator
from ctx_models.registry import register_model
from ctx_models.spans import Segment, raw, render, segment, tokenize, with_response
from ctx_models.steering import Steering, steer
from ctx_tasks.arm import parse_layers
from ctx_tasks.errors import UserError
from tests import tiny
from tests.commands import as_process, ctx_eval
from tests.ctx_models import naive, offline_tasks
from tests.ctx_models.test_steering import alpha_table

register_model()
# Without the harness's own 14,000 YAML files, whose index takes ten seconds.
TASKS = TaskManager(include_path=str(offline_tasks.FOLDER), include_defaults=False)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """A tiny Llama whose tokenizer has `[IND]`, saved to disk."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny.tokenizer()
    add_indicator(tokenizer, "[IND]")
    tokenizer.save_pretrained(folder)
    tiny.model("llama").save_pretrained(folder)
    return str(folder)


def evaluate(checkpoint: str, *tasks: str, model: str = "hf-ctx", **options: Any) -> dict:
    """Run tasks on the CPU through the harness; `model_args` and other options as given."""
    model_args = {"pretrained": checkpoint, **options.pop("model_args", {})}
    return simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=list(tasks),
        task_manager=TASKS,
        device="cpu",
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )


def answers(results: dict, task: str) -> list[Any]:
    """The raw responses of a task, in the order of its documents."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


def prompts(results: dict, task: str) -> list[str]:
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["arguments"][0][0] for sample in samples]


BOTH = ("toy_generate", "toy_choice")


class TestAlphaOne:
    @pytest.mark.parametrize("chat", [True, False])
    def test_equals_hf_to_the_bit(self, checkpoint, chat):
        ours = evaluate(checkpoint, *BOTH, apply_chat_template=chat, batch_size=2)
        plain = evaluate(checkpoint, *BOTH, model="hf", apply_chat_template=chat, batch_size=2)
        for task in BOTH:
            assert answers(ours, task) == answers(plain, task)
            assert prompts(ours, task) == prompts(plain, task)


class TestSteered:
    def test_generations_equal_steering_each_prompt_alone(self, checkpoint):
        results = evaluate(
            checkpoint,
            "toy_generate",
            model_args={"alpha": 0.3},
            apply_chat_template=True,
            batch_size=4,
        )
        found = [answer[0][0] for answer in answers(results, "toy_generate")]
        assert found == [alone(checkpoint, doc["text"]) for doc in documents()]
        assert found != [alone(checkpoint, doc["text"], alpha=1.0) for doc in documents()]

    @pytest.mark.parametrize("chat", [True, False])
    @pytest.mark.parametrize("window", [2048, 40], ids=["whole", "truncated"])
    def test_log_likelihoods_equal_the_naive_model(self, checkpoint, chat, window):
        results = evaluate(
            checkpoint,
            "toy_choice",
            model_args={"alpha": 0.3, "schedule": "compound", "max_length": window},
            apply_chat_template=chat,
            batch_size=3,
        )
        steering = Steering(0.3, schedule="compound")
        for doc, found in zip(documents(), answers(results, "toy_choice"), strict=True):
            for choice, answer in zip(doc["choices"], found, strict=True):
                prompt = (doc["text"], choice, chat)
                expected = naive_log_likelihood(checkpoint, *prompt, steering, window)
                assert answer[0][0] == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("task", BOTH)
    @pytest.mark.parametrize("batch_size", [5, "auto"])
    def test_batch_size_does_not_matter(self, checkpoint, task, batch_size):
        options = {"model_args": {"alpha": 0.5, "max_length": 256}, "apply_chat_template": True}
        one = answers(evaluate(checkpoint, task, batch_size=1, **options), task)
        many = answers(
            evaluate(checkpoint, task, batch_size=batch_size, max_batch_size=4, **options), task
        )
        for first, second in zip(flat(one), flat(many), strict=True):
            assert first == pytest.approx(second, abs=1e-4)

    def test_left_truncation_keeps_masks_aligned(self, checkpoint):
        """With a window of 40 tokens most prompts lose their beginning."""
        options = {
            "model_args": {"alpha": 0.4, "max_length": 40},
            "apply_chat_template": True,
        }
        results = evaluate(checkpoint, "toy_generate", batch_size=3, **options)
        found = [answer[0][0] for answer in answers(results, "toy_generate")]
        assert found == [
            alone(checkpoint, doc["text"], alpha=0.4, window=40 - 8) for doc in documents()
        ]

    @pytest.mark.parametrize("multiturn", [True, False])
    def test_few_shot_turns_are_all_user_text(self, checkpoint, multiturn):
        """Every question of the few shots is in U; answers and markers are not."""
        options = {
            "apply_chat_template": True,
            "num_fewshot": 2,
            "fewshot_as_multiturn": multiturn,
        }
        results = evaluate(checkpoint, "toy_generate", model_args={"alpha": 0.3}, **options)
        plain = evaluate(checkpoint, "toy_generate", model="hf", **options)
        assert prompts(results, "toy_generate") == prompts(plain, "toy_generate")
        assert answers(results, "toy_generate") != answers(plain, "toy_generate")
        assert prompts(results, "toy_generate")[0].count("<|user|>") == (3 if multiturn else 1)

    def test_a_system_message_the_template_refuses_is_left_out_as_in_hf(self, tmp_path):
        template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            + tiny.CHAT_TEMPLATE
        )
        tiny.tokenizer(template).save_pretrained(tmp_path)
        tiny.model().save_pretrained(tmp_path)
        options = {"apply_chat_template": True, "system_instruction": "Be brief."}
        steered = evaluate(str(tmp_path), "toy_generate", model_args={"alpha": 0.5}, **options)
        plain = evaluate(str(tmp_path), "toy_generate", model="hf", **options)
        assert prompts(steered, "toy_generate") == prompts(plain, "toy_generate")

    def test_settings_are_in_the_results(self, checkpoint):
        results = evaluate(
            checkpoint,
            "toy_generate",
            model_args={"alpha": 0.9, "layers": "0-1", "indicator": "[IND]"},
            apply_chat_template=True,
            limit=2,
        )
        recorded = results["config"]["ctx"]
        assert recorded["alpha"] == 0.9
        assert recorded["layers"] == [0, 1]
        assert recorded["indicator"] == "[IND]"
        assert recorded["attention"] == "ctx: decode+mask row"
        assert len(recorded["chat_template"]) == 16

    def test_perplexity_tasks_are_refused(self, checkpoint):
        lm = model(checkpoint, alpha=0.5)
        request = lm_eval_instance("some text without a question", "loglikelihood_rolling")
        with pytest.raises(UserError, match="no user turn"):
            lm.loglikelihood_rolling([request])


class TestIndicator:
    @pytest.mark.parametrize("alpha", [1.0, 0.5])
    def test_is_the_last_token_of_the_user_turn(self, checkpoint, alpha):
        lm = model(checkpoint, alpha=alpha, indicator="[IND]")
        prompt = lm.apply_chat_template([{"role": "user", "content": "Who [IND] is it?"}])
        assert prompt == "<|user|>\nWho [IND] is it? [IND]</s>\n<|assistant|>\n"
        ids, _ = lm.tok_batch_encode([prompt])
        indicator = lm.tokenizer.convert_tokens_to_ids("[IND]")
        # Typed by the user it stays text; ours is one token, right before the turn ends.
        assert ids[0].tolist().count(indicator) == 1
        where = ids[0].tolist().index(indicator)
        assert ids[0, where + 1] == lm.tokenizer.eos_token_id

    def test_without_a_chat_template_ends_the_prompt(self, checkpoint):
        lm = model(checkpoint, indicator="[IND]")
        ids, _ = lm.tok_batch_encode(["Who is it?"])
        assert ids[0, -1] == lm.tokenizer.convert_tokens_to_ids("[IND]")

    def test_reaches_every_user_turn_on_request(self, checkpoint):
        lm = model(checkpoint, indicator="[IND]", indicator_turns="all")
        turns = [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
        ]
        assert lm.apply_chat_template(turns).count("[IND]") == 2

    def test_changes_the_answers(self, checkpoint):
        options = {"apply_chat_template": True}
        plain = evaluate(checkpoint, *BOTH, **options)
        marked = evaluate(checkpoint, *BOTH, model_args={"indicator": "[IND]"}, **options)
        for task in BOTH:
            assert answers(plain, task) != answers(marked, task)


class TestCaches:
    def test_a_cache_of_another_alpha_is_refused_and_the_same_resumes(self, checkpoint, tmp_path):
        cache = str(tmp_path / "answers")
        options = {"use_cache": cache, "apply_chat_template": True}
        first = evaluate(checkpoint, "toy_generate", model_args={"alpha": 0.5}, **options)
        with pytest.raises(UserError, match=r"alpha=0\.5 but this run has alpha=0\.6"):
            evaluate(checkpoint, "toy_generate", model_args={"alpha": 0.6}, **options)
        again = evaluate(checkpoint, "toy_generate", model_args={"alpha": 0.5}, **options)
        assert answers(first, "toy_generate") == answers(again, "toy_generate")

    def test_a_cache_of_plain_hf_is_refused(self, checkpoint, tmp_path):
        cache = str(tmp_path / "answers")
        evaluate(checkpoint, "toy_generate", model="hf", use_cache=cache)
        with pytest.raises(UserError, match="left no fingerprint"):
            evaluate(checkpoint, "toy_generate", use_cache=cache)

    def test_a_cache_of_retrained_weights_is_refused(self, checkpoint, tmp_path):
        folder = tmp_path / "model"
        tiny.tokenizer().save_pretrained(folder)
        tiny.model(seed=0).save_pretrained(folder)
        cache = str(tmp_path / "answers")
        evaluate(str(folder), "toy_generate", use_cache=cache)
        tiny.model(seed=1).save_pretrained(folder)
        with pytest.raises(UserError, match="weights="):
            evaluate(str(folder), "toy_generate", use_cache=cache)

    def test_cached_requests_keep_their_segments_and_indicator(self, checkpoint):
        """Prompts pickled by --cache_requests come back steered, and never another arm's."""
        options = {"apply_chat_template": True, "cache_requests": True}
        arms = [{"alpha": 0.3}, {"alpha": 0.3, "indicator": "[IND]"}, {}]
        fresh = [evaluate(checkpoint, *BOTH, model_args=arm, **options) for arm in arms]
        cached = [evaluate(checkpoint, *BOTH, model_args=arm, **options) for arm in arms]
        for task in BOTH:
            for before, after in zip(fresh, cached, strict=True):
                assert answers(before, task) == answers(after, task)
            assert answers(fresh[0], task) != answers(fresh[1], task)


class TestCommandLine:
    def test_run_steers_and_writes_results(self, checkpoint, tmp_path):
        done = ctx_eval(
            "run",
            *("--model", "hf-ctx", "--model_args", f"pretrained={checkpoint},alpha=0.9"),
            *("--tasks", "toy_generate", "--include_path", offline_tasks.FOLDER),
            *("--apply_chat_template", "--device", "cpu", "--log_samples"),
            *("--output_path", tmp_path / "out"),
        )
        assert done.code == 0, done.err
        [written] = (tmp_path / "out").rglob("results_*.json")
        assert json.loads(written.read_text())["config"]["ctx"]["alpha"] == 0.9

    @pytest.mark.slow
    def test_two_processes_equal_one(self, checkpoint, tmp_path):
        arguments = [
            *("ctx_models.cli", "run", "--model", "hf-ctx", "--tasks", ",".join(BOTH)),
            *("--model_args", f"pretrained={checkpoint},alpha=0.4,indicator=[IND]"),
            *("--include_path", offline_tasks.FOLDER, "--apply_chat_template"),
            *("--device", "cpu", "--batch_size", "2", "--log_samples", "--output_path"),
        ]
        # `--cpu` would quietly start one process whatever their number.
        launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        launch += ["--main_process_port", "0", "-m"]
        for name, start in (("one", []), ("two", launch)):
            done = as_process(*start, *arguments, tmp_path / name, ACCELERATE_USE_CPU="true")
            assert done.code == 0, done.err
        assert "on rank 1" in done.err
        for task in BOTH:
            one, two = (logged(tmp_path / name, task) for name in ("one", "two"))
            assert len(one) == len(two) == 6
            for doc, answer in one.items():
                for first, second in zip(flat(answer), flat(two[doc]), strict=True):
                    assert first == pytest.approx(second, abs=1e-4)


class TestCommandLineMistakes:
    def test_the_sentence_is_printed_without_a_traceback(self, checkpoint):
        arguments = ("--model", "hf-ctx", "--model_args", f"pretrained={checkpoint},alpha=2")
        tasks = ("--tasks", "toy_generate", "--include_path", offline_tasks.FOLDER)
        done = ctx_eval("run", *arguments, *tasks)
        assert done.code == 2
        assert done.err.splitlines()[-1].startswith("ctx-eval: alpha=2.0 is not allowed")

    @pytest.mark.slow
    def test_an_unknown_task_is_named(self):
        done = ctx_eval("run", "--model", "hf-ctx", "--tasks", "nih_recal")
        assert done.code == 2
        assert "nih_recal" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "layers"),
    [("8-10", (8, 9, 10)), ("3+5", (3, 5)), (4, (4,)), ([1, 2], (1, 2)), (None, None)],
)
def test_layers_are_read(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["8-5", "first", "3+", [1, "x"]])
def test_layers_that_cannot_be_read_are_named(text):
    with pytest.raises(UserError, match=r"cannot be read: write ranges"):
        parse_layers(text)


def documents() -> list[dict]:
    return list(offline_tasks.questions()["test"])


def flat(nested: Any) -> list[Any]:
    if isinstance(nested, (list, tuple)):
        return [leaf for part in nested for leaf in flat(part)]
    return [nested]


def model(checkpoint: str, **model_args: Any):
    from ctx_models.lm import CtxLM

    return CtxLM(checkpoint, device="cpu", **model_args)


def lm_eval_instance(text: str, kind: str):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=(text,), idx=0)


def load(checkpoint: str):
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    return loaded, AutoTokenizer.from_pretrained(checkpoint)


def alone(checkpoint: str, text: str, alpha: float = 0.3, window: int | None = None) -> str:
    """The answer to one prompt, steered by hand."""
    loaded, tokenizer = load(checkpoint)
    prompt = segment(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)
    kept = slice(-window if window else None, None)
    ids = torch.tensor([prompt.input_ids[kept]])
    user = torch.tensor([prompt.segments[kept]]) == Segment.USER
    with steer(loaded, user, alpha=alpha):
        output = loaded.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def naive_log_likelihood(
    checkpoint: str, text: str, choice: str, chat: bool, steering: Steering, window: int
) -> float:
    """Sum of the choice's log-probabilities under the float64 model of `reference.py`."""
    loaded, tokenizer = load(checkpoint)
    messages = [{"role": "user", "content": text}]
    prompt = render(tokenizer, messages, add_generation_prompt=True) if chat else raw(text)
    continuation = choice if chat else f" {choice}"  # the harness has no delimiter after a template
    stripped = prompt.text.rstrip()
    moved = prompt.text[len(stripped) :]
    cut = replace(prompt, text=stripped)
    whole = tokenize(tokenizer, with_response(cut, moved + continuation))
    asked = len(whole.input_ids) - len(tokenize(tokenizer, cut).input_ids)
    ids = torch.tensor([whole.input_ids[-window - 1 :]])
    user = torch.tensor([whole.segments[-window - 1 :]]) == Segment.USER
    inputs = (ids[:, :-1], torch.ones_like(ids[:, :-1]), user[:, :-1])
    logits = naive.logits(loaded, *inputs, alpha_table(loaded, steering))
    chosen = logits[0, -asked:].log_softmax(-1).gather(1, ids[0, -asked:, None])
    return chosen.sum().item()


def logged(folder: Path, task: str) -> dict[int, Any]:
    [path] = folder.rglob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["doc_id"]: row["resps"] for row in rows}
