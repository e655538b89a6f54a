"""Every YAML under task_configs loads, builds and renders, and states what a score depends on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from ctx_tasks import nano_world
from ctx_tasks.needle import prompt_spread
from ctx_tasks.prompts import ANSWER_PREFIX
from tests import tiny
from tests.commands import ROOT
from tests.ctx_tasks import conflict_data, mt_bench_data
from tests.ctx_tasks import reading_data as data
from tests.scripted import Scripted

CONFIGS = ROOT / "task_configs"
TASKS = {
    "conflict_closed_book",
    "conflict_contains",
    "drop_contains",
    "drop_contains_plain",
    "drop_contains_prefix",
    "nano_by_heart",
    "nano_conflict_closed_book",
    "nano_conflict_contains",
    "nano_drop_contains",
    "nano_drop_contains_prefix",
    "nano_nih_recall",
    "nano_nih_recall_prefix",
    "nano_quac_contains",
    "nano_quac_contains_prefix",
    "nano_squad_contains",
    "nano_squad_contains_prefix",
    "nih_recall",
    "nih_recall_prefix",
    "prose_drop_contains",
    "prose_drop_contains_prefix",
    "prose_nih_recall",
    "prose_nih_recall_prefix",
    "prose_quac_contains",
    "prose_quac_contains_prefix",
    "prose_squad_contains",
    "prose_squad_contains_prefix",
    "quac_contains",
    "quac_contains_plain",
    "quac_contains_prefix",
    "squad_contains",
    "squad_contains_plain",
    "squad_contains_prefix",
}
# Their answers are rated after the run: no target, no score yet.
RATED = {"mt_bench", "mt_bench_2turn"}
GROUPS = {
    *("context_awareness", "context_awareness_prefix"),
    *("nano_context_awareness", "nano_context_awareness_prefix"),
    *("prose_context_awareness", "prose_context_awareness_prefix"),
}
AVERAGED = ["nih_recall", "squad_contains", "quac_contains", "drop_contains"]
each_task = pytest.mark.parametrize("name", sorted(TASKS | RATED))
each_scored_task = pytest.mark.parametrize("name", sorted(TASKS))


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """The tasks on small local data: no hub, no harness defaults."""
    folder = tmp_path_factory.mktemp("tasks")
    tiny.tokenizer().save_pretrained(folder / "tokenizer")
    mt_bench_data.write_answers(folder, model_args={})
    metadata: dict[str, Any] = {
        **data.write_all(folder),
        "tokenizer": str(folder / "tokenizer"),
        "lengths": 2,
        "depths": 2,
        "min_length": 200,
        "max_length": 300,
        "conflict_files": conflict_data.write_all(folder),
        "mt_bench_files": str(mt_bench_data.write_all(folder / "mt_bench")),
        "mt_bench_first": str(folder),
    }
    return TaskManager(include_path=str(CONFIGS), include_defaults=False, metadata=metadata)


def build(manager: TaskManager, name: str) -> Task:
    task = manager.load([name])["tasks"][name]
    assert isinstance(task, Task)
    return task


def test_there_is_a_yaml_for_each_task_and_group_and_no_other(manager: TaskManager) -> None:
    assert len(list(CONFIGS.rglob("*.yaml"))) == 40
    assert set(manager.all_tasks) == TASKS | RATED | GROUPS


def test_every_yaml_is_indexed_under_its_own_file_name() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        # BaseLoader leaves the harness's !function tags alone.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        assert path.stem in (content.get("task"), content.get("group"))


@each_task
def test_task_renders_a_prompt_and_a_target(manager: TaskManager, name: str) -> None:
    task = build(manager, name)
    documents = list(task.eval_docs)
    assert len(documents) >= 2
    for document in documents:
        prompt = task.doc_to_text(document)
        assert prompt.strip()
        assert "{{" not in prompt
        assert bool(task.doc_to_target(document)) == (name in TASKS)


@each_task
def test_task_states_what_a_score_depends_on(manager: TaskManager, name: str) -> None:
    config = build(manager, name).config
    assert config.generation_kwargs["do_sample"] is False
    assert isinstance(config.generation_kwargs["until"], list)
    longest = 1024 if name in RATED else 50 if "nih" in name else 100
    assert config.generation_kwargs["max_gen_toks"] == longest
    assert config.output_type == "generate_until"
    assert config.metadata["version"] == 1.0
    main = "rating" if name in RATED else "score"
    assert main in {metric["metric"] for metric in config.metric_list}
    for metric in config.metric_list:
        spread = metric["metric"] == "prompt_spread"
        assert metric["aggregation"] == (prompt_spread if spread else "mean")
        assert isinstance(metric["higher_is_better"], bool)


def outputs(document: dict[str, Any], text: str) -> list[str]:
    """`text`, and where a task also asks without the passage, the answer that is in memory."""
    return [text, *(names[0] for names in document.get("memory_answers", [])[:1])]


@each_scored_task
def test_task_scores_an_output_with_the_metrics_it_states(manager: TaskManager, name: str) -> None:
    task = build(manager, name)
    stated = {metric["metric"] for metric in task.config.metric_list}
    scored: set[str] = set()
    for document in task.eval_docs:
        scores = task.process_results(document, outputs(document, "Some output. And more."))
        assert all(0.0 <= value <= 1.0 for value in scores.values())
        scored |= set(scores)
    # Reported where a needle is asked for in several wordings.
    assert scored == stated - {"prompt_spread"}


@each_scored_task
def test_task_reports_answers_without_a_word(manager: TaskManager, name: str) -> None:
    task = build(manager, name)
    better = {metric["metric"]: metric["higher_is_better"] for metric in task.config.metric_list}
    document = next(iter(task.eval_docs))
    reference = document["needle"] if "needle" in document else document["target"]
    for output, empty, dangling in [("", 1, 0), ("Well:\n", 1, 1), (f"{reference}:", 0, 0)]:
        found = task.process_results(document, outputs(document, output))
        assert (found["empty"], found["dangling"]) == (empty, dangling)
    assert better["empty"] is better["dangling"] is False


@pytest.mark.parametrize("name", AVERAGED)
@pytest.mark.parametrize("kind", ["", "nano_", "prose_"])
def test_the_begun_task_differs_from_its_twin_by_the_prefix_alone(
    manager: TaskManager, kind: str, name: str
) -> None:
    plain, begun = (build(manager, f"{kind}{name}{end}") for end in ("", "_prefix"))
    assert plain.config.gen_prefix is None
    needle = "nih" in name
    words = nano_world.ANSWER_PREFIX if kind == "nano_" else ANSWER_PREFIX
    assert begun.config.gen_prefix == ("response_prefix" if needle else words)
    assert list(plain.eval_docs) == list(begun.eval_docs)
    document = next(iter(plain.eval_docs))
    assert plain.doc_to_text(document) == begun.doc_to_text(document)
    for key in ("generation_kwargs", "metric_list", "process_results"):
        assert getattr(plain.config, key) == getattr(begun.config, key)


@pytest.mark.parametrize("folder", sorted({path.parent for path in CONFIGS.glob("*/*.yaml")}))
def test_every_folder_has_a_readme_with_its_tasks_and_a_changelog(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Changelog" in text
    assert "2411.02688" in text
    assert all(path.stem in text for path in folder.glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_a_group_is_the_unweighted_mean_of_its_four_scores(manager: TaskManager, name: str) -> None:
    group = manager.load([name])["groups"][name]
    assert isinstance(group, Group)
    first, _, end = name.partition("context_awareness")
    averaged_tasks = [f"{first}{one}{end}" for one in AVERAGED]
    assert group.child_names == averaged_tasks
    values = dict(zip(averaged_tasks, [0.9846, 0.5918, 0.1130, 0.2739], strict=True))
    sizes = dict(zip(averaged_tasks, [400, 10570, 1000, 9536], strict=True))
    results: dict[str, Any] = {
        name: {"score,none": values[name], "score_stderr,none": 0.02, "sample_len": sizes[name]}
        for name in averaged_tasks
    }
    averaged = group.aggregate(results)
    assert averaged["score,none"] == pytest.approx((0.9846 + 0.5918 + 0.1130 + 0.2739) / 4)
    assert averaged["score_stderr,none"] == pytest.approx(math.sqrt(4 * 0.02**2) / 4)


def test_the_harness_reports_the_groups_average(manager: TaskManager) -> None:
    model = Scripted({"": "Ada will eat a sandwich"})
    results = simple_evaluate(
        model=model, tasks=["context_awareness"], task_manager=manager, bootstrap_iters=10
    )
    # Two keywords of seven; one of three SQuAD, one of two QuAC and no DROP questions.
    expected = (2 / 7 + 1 / 3 + 1 / 2 + 0) / 4
    assert results["groups"]["context_awareness"]["score,none"] == pytest.approx(expected)
    assert results["results"]["context_awareness"]["score_stderr,none"] > 0
