"""The table of benchmarks, and that every prompt stands in it once, however often it is written."""

from __future__ import annotations

import importlib
import inspect

import pytest
import yaml
from jinja2 import Environment
from lm_eval.tasks import TaskManager

from ctx_tasks import columns
from ctx_tasks.catalogue import task_folder, tasks
from ctx_tasks.needle import PROMPT
from training.nano import corpus

DOC = {"context": "A {passage}.", "question": "Which?"}


@pytest.fixture(scope="module")
def configs() -> dict[str, dict]:
    """Each task's YAML as the harness reads it, by name; MT-Bench has classes, not prompts."""
    manager = TaskManager(include_path=str(task_folder()), include_defaults=False)
    return {name: manager._entry(name).cfg or {} for name in manager.all_subtasks}


def test_the_table_names_the_tasks_and_groups_that_there_are():
    assert columns.TASKS.keys() | columns.GROUPS.keys() == {task.name for task in tasks()}


def test_a_prompt_in_a_yaml_is_the_one_the_python_side_uses(configs):
    """Needle test and attention command fill PROMPT; the nano models are trained on the others."""
    same, pieces, bare = corpus.PASSAGE_PROMPTS
    prompts = {columns.NEEDLE: PROMPT, columns.SQUAD: same, columns.DROP: same}
    prompts[columns.QUAC] = pieces
    asked = {name: at for name, at in columns.TASKS.items() if at.benchmark.context}
    for name, at in asked.items():
        expected = bare if at.kind == "plain" else prompts[at.benchmark]
        assert _prompt(configs[name]["doc_to_text"]) == expected.format(**DOC), name


def _prompt(written: str) -> str:
    """What a task's `doc_to_text` makes of `DOC`: a template, or a function of ours."""
    if "{{" in written:
        return Environment(keep_trailing_newline=True).from_string(written).render(DOC)
    return _function(written)(DOC)


def _function(written: str):
    module, _, name = written.rpartition("/")[2].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_a_begun_task_is_its_benchmark_with_a_prefix(configs):
    for name, at in columns.TASKS.items():
        assert bool(configs[name].get("gen_prefix")) == at.begun, name
        if at.begun:
            plain = {**configs[at.benchmark.named(at.kind)]}
            begun = {key: value for key, value in configs[name].items() if key != "gen_prefix"}
            assert {**begun, "task": ""} == {**plain, "task": ""}


@pytest.mark.parametrize("benchmark", columns.BENCHMARKS, ids=lambda one: one.heading)
def test_the_option_of_a_benchmark_is_one_of_its_loader(benchmark, configs):
    loader = configs[benchmark.named(benchmark.kinds[0])]["custom_dataset"]
    options = inspect.signature(_function(loader)).parameters
    assert benchmark.option is None or benchmark.option in options


@pytest.mark.parametrize("group", columns.GROUPS)
def test_a_group_is_the_context_benchmarks_of_its_kind(group, configs):
    file = next(task.path for task in tasks() if task.name == group)
    kind, begun = columns.GROUPS[group]
    members = yaml.load(file.read_text(), Loader=yaml.BaseLoader)["task"]
    assert [columns.heading(member) for member in members] == columns.context(kind)
    assert all(columns.TASKS[member].begun == begun for member in members)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("nih_recall_prefix", "NIH recall"),
        ("squad_contains_plain", "SQuAD (plain)"),
        ("nano_drop_contains", "DROP (nano)"),
        ("nano_by_heart", "by heart (nano)"),
        ("prose_nih_recall_prefix", "NIH recall (prose)"),
        ("mt_bench", "MT-Bench"),
        ("mmlu", "mmlu"),
    ],
)
def test_bundled_data_and_other_prompts_have_columns_of_their_own(task, expected):
    assert columns.heading(task) == expected


def test_columns_stand_in_the_order_of_the_table():
    shown = ["mmlu", "MT-Bench", "DROP (nano)", "Avg.", "QuAC", "by heart (nano)", "NIH recall"]
    assert columns.ordered(shown) == [
        *("NIH recall", "QuAC", "Avg.", "DROP (nano)", "MT-Bench", "by heart (nano)", "mmlu")
    ]


def test_the_average_of_another_prompt_takes_the_one_needle_test():
    [(name, parts)] = columns.averages(["NIH recall", *columns.context("plain")])
    assert name == "Avg. (plain)"
    assert parts == ("NIH recall", "SQuAD (plain)", "QuAC (plain)", "DROP (plain)")
