"""MT-Bench's questions in each format, the judge's messages, and both turns through the harness."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from ctx_models import nano
from ctx_models.registry import register_model
from ctx_tasks.catalogue import task_folder
from ctx_tasks.errors import UserError
from ctx_tasks.mt_bench.data import (
    WITH_REFERENCE,
    fill,
    identity,
    judge_data,
    judge_messages,
    questions,
)
from ctx_tasks.mt_bench.task import first_samples
from tests.commands import as_process
from tests.ctx_tasks import mt_bench_data as data

REAL = Path(os.environ.get("CTX_REAL_DATA", ".")) / "mt_bench"


# ---- data --------------------------------------------------------------------------------------


def test_the_release_and_the_hub_give_the_same_questions(tmp_path):
    release, hub = {}, {}
    folder = data.write_all(tmp_path / "release")
    columns = data.write_lines(tmp_path / "hub.jsonl", data.hub_rows())
    first = questions(mt_bench_files=str(folder), data_used=release)["test"]
    second = questions(mt_bench_files=[str(columns)], data_used=hub)["test"]
    assert list(first) == list(second)
    assert len(first) == 8
    asked = "How high is tower 1?And who built tower 1?"
    assert first[1] == {
        "id": str(int(hashlib.sha256(asked.encode()).hexdigest(), 16) % 10**8),
        "category": "math",
        "turns": ["How high is tower 1?", "And who built tower 1?"],
    }
    assert release["sha256"] == hub["sha256"]
    assert release["rows"] == 8
    assert release["source"] == str(folder)


def test_each_turn_has_its_prompt_and_right_or_wrong_categories_a_reference(tmp_path):
    found = judge_data(str(data.write_all(tmp_path)))
    writing, maths = data.questions(2)

    def asked(row: dict[str, Any], turn: int) -> str:
        question = {"id": "", **row}
        system, user = judge_messages(found, question, ["One.", "Two."], turn)  # type: ignore[arg-type]
        assert system == {"role": "system", "content": "You are a judge."}
        assert user["role"] == "user"
        return user["content"]

    assert asked(writing, 0) == "Rate it.\nQ: How high is tower 0?\nA: One."
    assert asked(maths, 0) == "Rate it.\nQ: How high is tower 1?\nR: Forty metres.\nA: One."
    assert asked(writing, 1) == (
        "Q: How high is tower 0?\nA: One.\nQ: And who built tower 0?\nA: Two."
    )
    assert "R: The {guild}.\nA: One.\nA: Two." in asked(maths, 1)


def test_braces_and_placeholders_in_an_answer_stay_as_they_are():
    values = {"question": "{answer} {0} %s", "answer": "{question} {{x}} \\1 {"}
    assert fill("{question}|{answer}", values) == "{answer} {0} %s|{question} {{x}} \\1 {"


def test_what_the_judge_is_told_decides_the_hash_and_nothing_else(tmp_path):
    first = judge_data(str(data.write_all(tmp_path / "a")))
    same = judge_data(str(data.write_all(tmp_path / "b")))
    rows = data.prompts()
    rows[0]["prompt_template"] += "!"
    data.write_lines(data.write_all(tmp_path / "c") / "judge_prompts.jsonl", rows)
    assert first.sha256 == same.sha256 != judge_data(str(tmp_path / "c")).sha256
    needed = [identity(data.questions()[number]["turns"]) for number in (1, 2, 5, 6)]
    assert list(first.references) == needed


# file name, its rows, what the sentence must say
BROKEN: dict[str, tuple[str, list[Any], str]] = {
    "one turn": (
        "question.jsonl",
        [{**data.questions(1)[0], "turns": ["a"]}],
        r"question\.jsonl.*two turns",
    ),
    "no category": ("question.jsonl", [{"question_id": 1, "turns": ["a", "b"]}], "category"),
    "twice": ("question.jsonl", data.questions(1) * 2, "tower 0.* is there twice"),
    "no question": ("question.jsonl", [], "no MT-Bench question"),
    "prompt missing": ("judge_prompts.jsonl", data.prompts()[1:], "lack single-v1;"),
    "placeholder unknown": (
        "judge_prompts.jsonl",
        [{**data.prompts()[0], "prompt_template": "{answer} {secret}"}],
        r"judge_prompts\.jsonl \(single-v1\).*secret.*question, answer",
    ),
    "reference where none is": (
        "judge_prompts.jsonl",
        [{**data.prompts()[0], "prompt_template": "{answer} {ref_answer_1}"}],
        "ref_answer_1",
    ),
    "answer not shown": (
        "judge_prompts.jsonl",
        [{**data.prompts()[2], "prompt_template": "{question_1} {answer_1}"}],
        "no answer_2",
    ),
    "reference of one turn": (
        "reference_answer_gpt-4.jsonl",
        [{"question_id": 901, "choices": [{"turns": ["a"]}]}],
        "is no reference answer",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_is_told_in_one_sentence(name, tmp_path):
    file, rows, message = BROKEN[name]
    data.write_lines(data.write_all(tmp_path) / file, rows)
    read = questions if file == "question.jsonl" else lambda mt_bench_files: judge_data(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read(mt_bench_files=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_question_without_its_reference_answer_is_named(tmp_path):
    data.write_lines(data.write_all(tmp_path) / "reference_answer_gpt-4.jsonl", data.references(2))
    row = data.questions()[2]
    with pytest.raises(UserError, match=r"tower 2\?' \(coding\) has no reference"):
        judge_messages(judge_data(str(tmp_path)), {"id": "", **row}, ["a", "b"], 0)  # type: ignore[arg-type,typeddict-item]


@pytest.mark.realdata
def test_the_published_files_are_read_whole():
    rows = list(questions(mt_bench_files=str(REAL))["test"])
    found = judge_data(str(REAL))
    assert len(rows) == 80
    assert rows[0]["id"] == "44067482"  # the hub's prompt_id of this question
    assert set(Counter(row["category"] for row in rows).values()) == {10}
    for row in rows:
        for turn in (0, 1):
            system, user = judge_messages(found, row, ["{question} ONE", "{answer} TWO"], turn)
            assert "{answer} TWO" in user["content"] or turn == 0
            assert "{question} ONE" in user["content"]
            reference = found.references.get(row["id"], ["\0"] * 2)[turn]
            assert (reference in user["content"]) == (row["category"] in WITH_REFERENCE)
            assert "[[" in system["content"] + user["content"]


# ---- through the harness -------------------------------------------------------------------------


def metadata(folder: Path, **more: Any) -> dict[str, Any]:
    return {"mt_bench_files": str(data.write_all(folder / "data", 4)), **more}


def evaluate(task: str, model_args: dict[str, Any], given: dict[str, Any], **settings: Any) -> Any:
    """One run in this process; `given` is --metadata."""
    register_model()
    settings = {"apply_chat_template": True, "fewshot_as_multiturn": True, **settings}
    return simple_evaluate(
        model=settings.pop("model", "hf-ctx"),
        model_args=model_args,
        tasks=[task],
        task_manager=TaskManager(
            include_path=str(task_folder()), include_defaults=False, metadata=model_args | given
        ),
        device="cpu",
        gen_kwargs={"max_gen_toks": 8},
        bootstrap_iters=0,
        **settings,
    )


def prompts(results: Any, task: str) -> list[str]:
    return [str(sample["arguments"][0][0]) for sample in results["samples"][task]]


INDICATED = {"pretrained": str(nano.folder("nano-chat-ind")), "indicator": "[IND]"}


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_indicator_is_left_out_unless_asked_for(tmp_path, template, alpha):
    """The same with the harness's flattening of turns; steering stays on."""
    how = {"apply_chat_template": template, "fewshot_as_multiturn": False, "limit": 2}
    model = {**INDICATED, "alpha": alpha}
    bare = {key: value for key, value in model.items() if key != "indicator"}
    given = metadata(tmp_path)
    without = evaluate("mt_bench", model, given, **how)
    assert "[IND]" not in "".join(prompts(without, "mt_bench"))
    expected = evaluate("mt_bench", bare, given, **how)
    answers = [[s["resps"] for s in run["samples"]["mt_bench"]] for run in (without, expected)]
    assert answers[0] == answers[1]
    asked = evaluate("mt_bench", model, {**given, "mt_bench_indicator": True}, **how)
    answered = [s["resps"] for s in asked["samples"]["mt_bench"]]
    assert answered != answers[0]
    if template:
        assert "tower 0? [IND]</s>" in prompts(asked, "mt_bench")[0]


def test_a_run_reports_answers_and_no_score(tmp_path):
    for predict_only in (False, True):
        results = evaluate("mt_bench", INDICATED, metadata(tmp_path), predict_only=predict_only)
        reported = {name.split(",")[0] for name in results["results"]["mt_bench"] if "," in name}
        # What became of prompts and answers is no score.
        told = ("cut", "unfinished", "unsegmented")
        assert reported == {*told, *(f"{name}_stderr" for name in told)}
        assert len(results["samples"]["mt_bench"]) == 4
        assert all(sample["filtered_resps"][0] for sample in results["samples"]["mt_bench"])


def test_the_harness_insists_on_the_sample_file(tmp_path):
    with pytest.raises(ValueError, match="log_samples"):
        evaluate("mt_bench", INDICATED, metadata(tmp_path), log_samples=False)


def run_here(folder: Path, task: str, model: str, arguments: str, given: dict[str, Any]) -> None:
    """A run in this process that leaves the harness's own files."""
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    model_args = dict(part.split("=") for part in arguments.split(","))
    results = evaluate(task, model_args, given, model=model, evaluation_tracker=tracker)
    logged = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=logged)
    tracker.save_results_samples(task, logged[task])


def run_there(folder: Path, task: str, model: str, arguments: str, given: dict[str, Any]) -> None:
    """Plain `lm_eval` for hf, `ctx-eval` for hf-ctx."""
    plain = ("lm_eval", "run", "--include_path", task_folder())
    done = as_process(
        *(plain if model == "hf" else ("ctx_models.cli", "run")),
        *("--model", model, "--model_args", arguments, "--tasks", task),
        *("--apply_chat_template", "--log_samples", "--output_path", folder / "out"),
        *("--metadata", json.dumps(given), "--gen_kwargs", "max_gen_toks=8", "--device", "cpu"),
    )
    assert done.code == 0, done.err


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    [path] = (folder / "out").rglob(f"samples_{task}_20*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "run", [run_here, pytest.param(run_there, marks=pytest.mark.slow)], ids=["here", "there"]
)
@pytest.mark.parametrize(
    ("model", "more"), [("hf", ""), ("hf-ctx", ",alpha=0.5,indicator=[IND]")], ids=["hf", "hf-ctx"]
)
def test_the_second_turn_follows_the_models_own_first_answer(tmp_path, model, more, run):
    """With plain hf, and with steering and an indicator."""
    arguments = f"pretrained={nano.folder('nano-chat-ind')}{more}"
    given = metadata(tmp_path)
    run(tmp_path, "mt_bench", model, arguments, given)
    given["mt_bench_first"] = str(tmp_path / "out")
    run(tmp_path, "mt_bench_2turn", model, arguments, given)
    first, second = samples(tmp_path, "mt_bench"), samples(tmp_path, "mt_bench_2turn")
    assert [one["doc_hash"] for one in first] == [one["doc_hash"] for one in second]
    for one, two in zip(first, second, strict=True):
        [answer] = one["filtered_resps"]
        assert two["filtered_resps"] == [[answer, two["resps"][0][0]]]
        prompt = two["arguments"]["gen_args_0"]["arg_0"]
        asked, again = two["doc"]["turns"]
        turns = f"<|user|>\n{asked}</s>\n<|assistant|>\n{answer}</s>\n<|user|>\n{again}</s>\n"
        assert prompt.endswith(f"{turns}<|assistant|>\n")


def test_the_second_turn_is_the_same_over_two_processes(tmp_path):
    """Each process continues the answers of its own share of the documents."""
    model = {"pretrained": str(nano.folder("nano-chat"))}
    data.write_answers(tmp_path, 4, model_args=model)
    given = metadata(tmp_path, mt_bench_first=str(tmp_path))
    whole = evaluate("mt_bench_2turn", model, given)["samples"]["mt_bench_2turn"]
    manager = TaskManager(
        include_path=str(task_folder()), include_defaults=False, metadata=model | given
    )
    shares = []
    for rank in (0, 1):
        task = manager.load(["mt_bench_2turn"])["tasks"]["mt_bench_2turn"]
        task.build_all_requests(
            rank=rank,
            world_size=2,
            apply_chat_template=True,
            chat_template=lambda messages, **_: str(messages),
        )
        shares.append([instance.doc["id"] for instance in task.instances])
        for instance in task.instances:
            which = instance.doc["turns"][0][-2]
            assert f"My answer {which}." in instance.arguments[0]
            instance.resps = ["Two."]
        task.apply_filters()
        pairs = [instance.filtered_resps["none"] for instance in task.instances]
        assert all(pair[0].startswith("My answer") and pair[1] == "Two." for pair in pairs)
    assert not set(shares[0]) & set(shares[1])
    assert {*shares[0], *shares[1]} == {sample["doc"]["id"] for sample in whole}


# what differs in the first run or in this one, and the sentence
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "another model": ({"pretrained": "org/other"}, {}, {}, "pretrained=org/other, but this run"),
    "alpha then": ({"pretrained": "NANO", "alpha": 0.5}, {}, {}, "alpha=0.5, but .* alpha=None"),
    "alpha now": ({"pretrained": "NANO"}, {"alpha": 0.5}, {}, "alpha=None, but .* alpha=0.5"),
    "no template now": ({"pretrained": "NANO"}, {}, {"apply_chat_template": False}, "conversation"),
    "cached requests": ({"pretrained": "NANO"}, {}, {"cache_requests": True}, "--cache_requests"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_first_answers_of_anything_else_are_refused(name, tmp_path):
    then, now, settings, message = REFUSED[name]
    nano_chat = str(nano.folder("nano-chat"))
    then = {key: nano_chat if value == "NANO" else value for key, value in then.items()}
    data.write_answers(tmp_path, 4, model_args=then)
    given = metadata(tmp_path, mt_bench_first=str(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        evaluate("mt_bench_2turn", {"pretrained": nano_chat, **now}, given, **settings)
    assert "\n" not in str(caught.value)


def test_first_answers_to_other_questions_or_without_template_are_refused(tmp_path):
    model = {"pretrained": str(nano.folder("nano-chat"))}
    path = data.write_answers(tmp_path, 3, model_args=model)
    given = metadata(tmp_path, mt_bench_first=str(tmp_path))
    with pytest.raises(UserError, match="no answer to .*tower 3"):
        evaluate("mt_bench_2turn", model, given)
    path.write_text(
        path.read_text().replace('"chat_template_sha": "0"', '"chat_template_sha": null')
    )
    with pytest.raises(UserError, match="without chat template"):
        evaluate("mt_bench_2turn", model, given)
    path.unlink()
    with pytest.raises(UserError, match="does not say which model"):
        evaluate("mt_bench_2turn", model, given)


def test_first_answers_are_the_newest_of_a_folder(tmp_path):
    data.write_answers(tmp_path / "a", 1)
    newer = data.write_answers(tmp_path / "b", 1, date="2026-02-01T00-00-00.000001")
    data.write_answers(tmp_path / "c", 1, task="mt_bench_2turn", date="2026-03-01T00-00-00.000001")
    assert first_samples(str(tmp_path)).parent == newer.parent
    for given, message in [
        (None, "mt_bench_first"),
        (str(tmp_path / "c"), "where no samples_mt_bench_"),
        (str(tmp_path / "none"), "where no samples_mt_bench_"),
    ]:
        with pytest.raises(UserError, match=message):
            first_samples(given)
