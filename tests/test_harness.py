"""The private names of lm-eval that we use: all there, and reached for in one file."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from functools import reduce
from pathlib import Path

import pytest
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from ctx_tasks import harness
from ctx_tasks.catalogue import task_folder, tasks

ROOT = Path(__file__).parents[1]
NAMES = [(module, name) for module, names in harness.PRIVATE.items() for name in names]
# What `_behind`, `build_task`, `insist_on_samples` and `name_model` read of objects, not classes.
OWN = {"_entry", "_factory", "_metric_fn_list", "general_config_tracker"}


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{m}.{n}" for m, n in NAMES])
def test_the_harness_has_every_private_name(module, name):
    version = importlib.metadata.version("lm-eval")
    try:
        reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        pytest.fail(f"lm-eval {version} has no {module}.{name}: see ctx_tasks/harness.py ({error})")


def test_a_task_manager_builds_from_its_entries():
    manager = TaskManager(include_path=str(task_folder()), include_defaults=False)
    assert callable(manager._factory.build)
    assert harness.build_task(manager, "nowhere", {}) is None


def test_git_is_asked_for_a_commit_but_not_heard(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert evaluator.get_git_commit_hash() is None
    assert "fatal: " in capfd.readouterr().err
    with harness.git_unheard():
        assert evaluator.get_git_commit_hash() is None
        assert not capfd.readouterr().err


def attributes(path: Path) -> set[str]:
    """Names after a dot, and modules imported, in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lm_eval"):
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return found


@pytest.mark.parametrize("package", ["ctx_tasks", "ctx_models", "training"])
def test_no_other_file_reaches_for_one(package):
    private = {
        *OWN,
        "lm_eval.utils",
        "lm_eval.models.utils",
        *(module for module in harness.PRIVATE if "._" in module),
    }
    for path in (ROOT / package).rglob("*.py"):
        used = private & attributes(path)
        assert not used or path.name == "harness.py" or types_alone(path, used), (path, used)


def types_alone(path: Path, used: set[str]) -> bool:
    """Whether a file names the module of an index entry for its type, and nothing else."""
    return used == {"lm_eval.tasks._index"} and "if TYPE_CHECKING:" in path.read_text()


class TestEntries:
    def manager(self, folder: Path) -> TaskManager:
        return TaskManager(
            include_path=[str(task_folder()), str(folder)], include_defaults=False, metadata={}
        )

    def test_a_group_is_the_tasks_behind_it(self, tmp_path):
        found = harness.entries(self.manager(tmp_path), ["nano_context_awareness", "nih_recall"])
        assert {entry.name for entry in found} == {
            *("nano_nih_recall", "nano_squad_contains", "nano_quac_contains"),
            *("nano_drop_contains", "nih_recall"),
        }

    @pytest.mark.parametrize("name", ["hellaswag", "nano_*", "task.yaml", "mine"])
    def test_what_needs_the_harness_s_own_tasks_is_none(self, tmp_path, name):
        (tmp_path / "mine.yaml").write_text("group: mine\ntask: [nih_recall, hellaswag]\n")
        assert harness.entries(self.manager(tmp_path), [name]) is None

    def test_a_group_of_the_user_with_our_tasks_needs_no_others(self, tmp_path):
        member = "{task: nih_recall, num_fewshot: 0}"
        (tmp_path / "mine.yaml").write_text(f"group: mine\ntask: [{member}, squad_contains]\n")
        found = harness.entries(self.manager(tmp_path), ["mine"])
        assert [entry.name for entry in found] == ["nih_recall", "squad_contains"]


def test_our_names_are_indexed_alone():
    assert set(harness.task_manager(["nih_recall"]).all_tasks) == {one.name for one in tasks()}


@pytest.mark.slow
def test_another_name_brings_the_harness_s_own_without_a_warning_about_ours(caplog):
    manager = harness.task_manager(["hellaswag", "nih_recall"])
    assert {"hellaswag", "nih_recall"} <= set(manager.all_tasks)
    assert "overrides existing task" not in caplog.text
