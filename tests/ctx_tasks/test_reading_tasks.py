"""The reading tasks run by the harness: exact prompts, exact scores, in process and by its CLI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.dummy import DummyLM
from lm_eval.tasks import TaskManager

from tests import tiny
from tests.commands import ROOT, lm_eval
from tests.ctx_tasks import reading_data as data
from tests.scripted import Scripted

CONFIGS = ROOT / "task_configs"
SETTINGS = {"until": [". "], "max_gen_toks": 100, "do_sample": False}


Run = Callable[..., tuple[dict[str, Any], Scripted]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Evaluate one task on the small rows; returns the harness's results and the model."""

    def evaluate(task: str, answers: dict[str, str], **settings: Any) -> Any:
        manager = TaskManager(
            include_path=str(CONFIGS), include_defaults=False, metadata=data.write_all(tmp_path)
        )
        model = Scripted(answers)
        results = simple_evaluate(
            model=model, tasks=[task], task_manager=manager, bootstrap_iters=10, **settings
        )
        return results, model

    return evaluate


def scores(results: dict[str, Any], task: str) -> dict[str, float]:
    """Each metric's value, without the harness's bookkeeping and the standard errors."""
    found = results["results"][task].items()
    return {
        key.removesuffix(",none"): value
        for key, value in found
        if key.endswith(",none") and "_stderr" not in key
    }


SQUAD_ANSWERS = {
    "Who lit the lamp?": "It was ADA, of course. Or Bob.",
    "When was it lit?": "Some day. In 1999.",
    "How many boats left?": "thirty-three of them",
}


def test_squad_scores_only_the_first_sentence(run: Run) -> None:
    results, _ = run("squad_contains", SQUAD_ANSWERS)
    found = scores(results, "squad_contains")
    hits = ("contains", "contains_words", "contains_verbatim", "score")
    expected = {**dict.fromkeys(hits, 2 / 3), "empty": 0, "dangling": 0}
    assert found == pytest.approx(expected)


def test_the_first_versions_rule_wants_the_reference_as_written_but_for_case(run: Run) -> None:
    answers = {**SQUAD_ANSWERS, "Who lit the lamp?": "a,d,a", "When was it lit?": "IN 1999"}
    results, _ = run("squad_contains", answers)
    found = scores(results, "squad_contains")
    assert (found["contains"], found["contains_verbatim"]) == pytest.approx((1, 2 / 3))


def test_answers_without_a_word_are_counted_and_not_averaged_in(run: Run) -> None:
    answers = {
        "Who lit the lamp?": "Ada:",
        "When was it lit?": "The year:",
        "How many boats left?": "",
    }
    results, _ = run("squad_contains", answers)
    found = scores(results, "squad_contains")
    assert (found["empty"], found["dangling"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["score"] == pytest.approx(1 / 3)


def test_whole_words_are_stricter(run: Run) -> None:
    answers = {**SQUAD_ANSWERS, "How many boats left?": "threefold"}
    results, _ = run("squad_contains", answers)
    found = scores(results, "squad_contains")
    assert (found["contains"], found["contains_words"]) == pytest.approx((2 / 3, 1 / 3))


def test_quac_counts_unanswerable_questions_as_the_paper_does(run: Run) -> None:
    results, _ = run("quac_contains", {"Who lit it?": "Ada did", "Who sank?": "the Wren"})
    expected = {
        **dict.fromkeys(("contains", "contains_words", "contains_verbatim", "score"), 0.5),
        "empty": 0.0,
        "dangling": 0.0,
        "contains_answerable": 1.0,
    }
    assert scores(results, "quac_contains") == expected


def test_quac_marker_in_the_output_hits_an_unanswerable_question(run: Run) -> None:
    results, _ = run("quac_contains", {"Who lit it?": "Bob", "Who sank?": "CANNOTANSWER."})
    found = scores(results, "quac_contains")
    assert (found["contains"], found["contains_answerable"]) == (0.5, 0.0)


def test_drop_reports_the_papers_and_the_released_rule(run: Run) -> None:
    answers = {"How many?": "three boats", "When?": "On 4 May 1820", "First two?": "the Gull"}
    results, _ = run("drop_contains", answers)
    # three: a later annotator's; 4 May 1820: the first answer; Gull: one span of two.
    hits = ("contains", "contains_words", "contains_released", "score")
    expected = {**dict.fromkeys(hits, 2 / 3), "empty": 0, "dangling": 0}
    assert scores(results, "drop_contains") == pytest.approx(expected)
    by_document = [sample["contains_released"] for sample in results["samples"]["drop_contains"]]
    assert by_document == [0.0, 1.0, 1.0]


def test_drop_wants_every_span_in_any_order(run: Run) -> None:
    answers = {"How many?": "", "When?": "1821", "First two?": "the Gull and the Wren left"}
    results, _ = run("drop_contains", answers)
    assert scores(results, "drop_contains")["contains"] == pytest.approx(1 / 3)


PROMPTS = [
    (
        "squad_contains",
        f"{data.LAMP}\nAnswer the question according to the above passage: Who lit the lamp?",
    ),
    ("squad_contains_plain", f"{data.LAMP} Who lit the lamp?"),
    (
        "quac_contains",
        f"{data.LAMP}\nAnswer the question with pieces from the the above passage: Who lit it?",
    ),
    ("quac_contains_plain", f"{data.LAMP} Who lit it?"),
    (
        "drop_contains",
        f"{data.HARBOUR}\nAnswer the question according to the above passage: How many?",
    ),
    ("drop_contains_plain", f"{data.HARBOUR} How many?"),
    (
        "drop_contains_prefix",
        f"{data.HARBOUR}\nAnswer the question according to the above passage: How many? "
        'The answer is "',
    ),
]


@pytest.mark.parametrize(("task", "expected"), PROMPTS)
def test_prompts_and_generation_are_the_papers(run: Run, task: str, expected: str) -> None:
    _, model = run(task, {"": "x"})
    assert model.prompts[0] == expected
    assert all(settings == SETTINGS for settings in model.settings)


def test_shots_come_from_other_questions(run: Run) -> None:
    _, model = run("squad_contains", {"": "x"}, num_fewshot=2)
    assert len(model.prompts) == 3
    for prompt, row in zip(model.prompts, data.SQUAD, strict=True):
        assert prompt.count(row["question"]) == 1
        assert prompt.count("Answer the question according to") == 3


def test_results_say_which_data_it_was(run: Run, tmp_path: Path) -> None:
    results, _ = run("squad_contains", {"": "x"})
    used = results["configs"]["squad_contains"]["metadata"]["data_used"]
    document = results["samples"]["squad_contains"][0]["doc"]
    assert used == {
        "source": str(tmp_path / "squad.jsonl"),
        "sha256": document["data_hash"],
        "rows": 3,
    }
    assert results["versions"]["squad_contains"] == 1.0


def test_every_metric_has_a_standard_error(run: Run) -> None:
    results, _ = run("squad_contains", SQUAD_ANSWERS)
    found = results["results"]["squad_contains"]
    # Two of three hit: sqrt(p (1 - p) / (n - 1)).
    assert found["contains_stderr,none"] == pytest.approx((2 / 3 * 1 / 3 / 2) ** 0.5)
    assert isinstance(found["contains_words_stderr,none"], float)


def test_dummy_model_of_the_harness(tmp_path: Path) -> None:
    # The harness's dummy answers "lol" to everything.
    rows = [data.squad_row("1", "c", "q?", "lol"), data.squad_row("2", "c", "r?", "other")]
    path = data.write_lines(tmp_path / "a.jsonl", rows)
    manager = TaskManager(
        include_path=str(CONFIGS), include_defaults=False, metadata={"squad_files": path}
    )
    dummy = DummyLM()
    # Its own tokenizer is on the hub; the harness asks for one to describe the run.
    dummy.tokenizer = tiny.tokenizer()
    results = simple_evaluate(model=dummy, tasks=["squad_contains"], task_manager=manager)
    assert scores(results, "squad_contains")["contains"] == 0.5


def own_generation(model: Any, tokenizer: Any, prompt: str) -> str:
    """What the model says to `prompt` in a chat, greedily, by transformers alone."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=100, do_sample=False)
    start = inputs["input_ids"].shape[1]
    answer: str = tokenizer.decode(tokens[0, start:], skip_special_tokens=True)
    return answer.split(". ")[0]


@pytest.mark.slow
def test_the_command_line_scores_a_real_model_as_computed_by_hand(tmp_path: Path) -> None:
    model, tokenizer = tiny.model("llama", seed=3), tiny.tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    ask = "\nAnswer the question according to the above passage: "
    said = [own_generation(model, tokenizer, f"{data.LAMP}{ask}{word}?") for word in "ABC"]
    words = [re.findall(r"[A-Za-z]{2,}", text) for text in said]
    assert all(words), "the tiny model says no word; choose another seed"
    # The first two questions get a word of the model's own output as reference; the third does not.
    texts = [words[0][-1], words[1][0].upper(), "xylophone"]
    rows = [
        data.squad_row(name, data.LAMP, f"{name}?", text)
        for name, text in zip("ABC", texts, strict=True)
    ]
    results = command_line(tmp_path, {"squad_files": data.write_lines(tmp_path / "s.jsonl", rows)})
    assert results["results"]["squad_contains"]["contains,none"] == pytest.approx(2 / 3)
    samples = next((tmp_path / "out").rglob("samples_squad_contains_*.jsonl")).read_text()
    answers = [json.loads(line)["filtered_resps"][0] for line in samples.splitlines()]
    assert answers == said


def command_line(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Run `lm_eval` on the model saved in `folder` and return its results file."""
    done = lm_eval(
        *("run", "--model", "hf"),
        *("--model_args", f"pretrained={folder / 'model'}", "--device", "cpu"),
        *("--tasks", "squad_contains", "--include_path", CONFIGS),
        *("--metadata", json.dumps(metadata), "--apply_chat_template"),
        *("--output_path", folder / "out", "--log_samples"),
        cwd=folder,
    )
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(next((folder / "out").rglob("results_*.json")).read_text())
    return found
