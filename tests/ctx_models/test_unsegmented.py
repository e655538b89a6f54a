"""Documents whose prompt cannot be told from its template, inside harness runs."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.tasks import TaskManager

from ctx_models import unsegmented
from ctx_models.lm import CtxLM
from ctx_models.rescore import Recorded
from ctx_models.unsegmented import Unsegmented
from ctx_tasks.errors import UserError
from tests import tiny
from tests.commands import as_process

DOCUMENTS = 120
# A greeting for texts that begin with a date: marks before the text hide that from the template.
GREETS = (
    "{% for m in messages %}{{ m.role }}: {% if m.content.startswith('2026') %}Hello. {% endif %}"
    "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SENTENCE = "the chat template rewrites the user content"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = GREETS
    tokenizer.save_pretrained(folder)
    tiny.model("llama").save_pretrained(folder)
    return str(folder)


def task(kind: str, dated: tuple[int, ...]) -> dict[str, Any]:
    """120 questions, those at the places `dated` with a date before them."""
    rows = [
        {
            "text": f"{'2026: ' if place in dated else ''}Who keeps mill {place}?",
            "choices": ["a", "b"],
        }
        for place in range(DOCUMENTS)
    ]
    metric = "exact_match" if kind == "generate_until" else "acc"
    settings: dict[str, Any] = {
        "task": f"many_{kind}",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "{{text}}",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
    }
    if kind == "generate_until":
        generation = {"do_sample": False, "max_gen_toks": 1, "until": ["</s>"]}
        return settings | {"doc_to_target": "a", "generation_kwargs": generation}
    return settings | {"doc_to_target": 0, "doc_to_choice": "choices"}


def evaluate(
    checkpoint: str, kind: str, dated: tuple[int, ...], alpha: float = 0.5, **options: Any
) -> dict[str, Any]:
    lm = options.pop("lm", None) or CtxLM(checkpoint, alpha=alpha, batch_size=40, device="cpu")
    return simple_evaluate(
        model=lm,
        tasks=[task(kind, dated)],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=True,
        bootstrap_iters=0,
        **options,
    )


@pytest.mark.parametrize(
    ("kind", "metric"), [("generate_until", "exact_match"), ("multiple_choice", "acc")]
)
def test_one_of_many_is_counted_and_listed_and_in_no_score(checkpoint, kind, metric, caplog):
    caplog.set_level(logging.WARNING)
    found, clean = (evaluate(checkpoint, kind, dated) for dated in ((7,), ()))
    name = f"many_{kind}"
    assert found["results"][name]["unsegmented,none"] == 1 / DOCUMENTS
    assert clean["results"][name]["unsegmented,none"] == 0
    samples, others = (
        {sample["doc_id"]: sample for sample in run["samples"][name]} for run in (found, clean)
    )
    missing = samples.pop(7)
    assert missing["unsegmented"] == 1
    assert metric not in missing
    assert SENTENCE in missing["arguments"][0][0]
    scores = [samples[place][metric] for place in samples]
    assert scores == [others[place][metric] for place in samples]
    assert found["results"][name][f"{metric},none"] == sum(scores) / len(scores)
    ours = "ctx_models.unsegmented"
    [said] = [one.getMessage() for one in caplog.records if one.name == ours]
    assert f"1 of {DOCUMENTS} documents" in said
    assert f"document 7 of {name}" in said


@pytest.mark.parametrize("kind", ["generate_until", "multiple_choice"])
def test_more_than_one_in_a_hundred_end_the_run_before_anything_is_run(checkpoint, kind):
    lm = CtxLM(checkpoint, alpha=0.5, batch_size=40, device="cpu")
    ran: list[Any] = []
    lm.model.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(UserError, match=f"2 of 120 .* first, document 7 of many_.*: {SENTENCE}"):
        evaluate(checkpoint, kind, (7, 90), lm=lm)
    assert ran == []


@pytest.mark.slow
def test_what_is_missing_is_a_share_of_the_documents_of_all_processes(checkpoint):
    start = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    script = ("--main_process_port", "0", "-m", "tests.ctx_models.unsegmented_process", checkpoint)
    done = as_process(*start, *script, ACCELERATE_USE_CPU="true")
    assert done.code == 0, done.err
    # One of the 60 of process 1, which alone would be too many.
    assert f"missing {1 / DOCUMENTS}" in done.out


def test_a_template_that_rewrites_whatever_is_said_is_refused_at_once(checkpoint):
    lm = CtxLM(checkpoint, alpha=0.5, device="cpu")
    lm.tokenizer.chat_template = "{{ messages[0].content | length }}"
    with pytest.raises(UserError, match=SENTENCE):
        lm.apply_chat_template([{"role": "user", "content": "Who keeps the mill?"}])


def test_a_conversation_of_other_roles_is_one_document_s_misfortune(checkpoint):
    lm = CtxLM(checkpoint, alpha=0.5, device="cpu")
    lm.tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + GREETS
    )
    turn = {"role": "user", "content": "Who keeps the mill?"}
    with pytest.raises(UserError, match="too many"):
        lm.apply_chat_template([turn, turn, turn])
    assert not isinstance(lm.apply_chat_template([turn]), Unsegmented)
    assert isinstance(lm.apply_chat_template([turn, turn, turn]), Unsegmented)


def test_all_of_them_have_the_sentence_of_one(checkpoint):
    with pytest.raises(UserError, match=f"^{SENTENCE}"):
        evaluate(checkpoint, "generate_until", tuple(range(DOCUMENTS)))


def test_without_steering_nothing_is_missing(checkpoint):
    found = evaluate(checkpoint, "generate_until", (7, 90), alpha=1.0)["results"]
    assert "unsegmented,none" not in found["many_generate_until"]


def test_a_killed_run_goes_on_with_its_missing_document(checkpoint, tmp_path):
    options = {"use_cache": str(tmp_path / "cache")}
    lm = CtxLM(checkpoint, alpha=0.5, batch_size=40, device="cpu")
    hook = lm.model.register_forward_pre_hook(_after(2))
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, "generate_until", (7,), lm=lm, **options)
    hook.remove()
    # Fewer than a hundred are left: one missing of these would be too many.
    found = evaluate(checkpoint, "generate_until", (7,), **options)["results"]
    assert found["many_generate_until"]["unsegmented,none"] == 1 / DOCUMENTS


def _after(batches: int) -> Any:
    """A hook that interrupts the run after so many batches of one token."""
    ran = iter(range(batches))

    def hook(*_: Any) -> None:
        if next(ran, None) is None:
            raise KeyboardInterrupt

    return hook


@pytest.mark.parametrize("kind", ["generate_until", "multiple_choice"])
def test_a_saved_answer_says_again_that_it_is_missing(checkpoint, kind):
    name = f"many_{kind}"
    found = evaluate(checkpoint, kind, (7,))
    saved = json.loads(json.dumps(found["samples"][name], default=str))
    saved = sorted(saved, key=lambda line: line["doc_id"])
    again = simple_evaluate(
        model=Recorded({name: saved}),
        tasks=[task(kind, (7,))],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    assert again["results"][name] == found["results"][name]


def test_a_process_that_has_nothing_to_run_says_so(monkeypatch):
    """One of two hundred, whose one document of all cannot be segmented."""

    def everyone(_: Any, found: list[Any]) -> list[Any]:
        return [*found, 199] if isinstance(found[0], int) else found

    monkeypatch.setattr(unsegmented, "everyone", everyone)
    lm = SimpleNamespace(cache_hook=CacheHook(None))
    alone = Instance("generate_until", {}, (Unsegmented(SENTENCE), {}), 0, ("many", 0, 1))
    with pytest.raises(UserError, match="start fewer processes"):
        unsegmented.texts(lm, [alone], lambda _: pytest.fail("nothing may run"))
