"""`ctx-eval run`: its help, and what it refuses in a sentence, most before a model loads."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from ctx_models import nano
from ctx_models.cli import main
from ctx_models.registry import check_model
from ctx_tasks.arm import ARGUMENTS
from ctx_tasks.catalogue import task_folder, tasks
from ctx_tasks.errors import UserError

TASK = ("--tasks", "nano_squad_contains", "--device", "cpu", "--limit", "1")
OURS = ("--model", "hf-ctx", "--model_args", "pretrained=nano-chat", *TASK)


@pytest.fixture(autouse=True)
def the_harness_logs_to_an_older_stderr(monkeypatch):
    """It takes the one there was when it was first asked; pytest has closed that since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def run(*arguments: str) -> int:
    try:
        main(["run", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


class TestHelp:
    @pytest.fixture
    def said(self, capsys) -> str:
        assert run("--help") == 0
        return str(capsys.readouterr().out)

    def test_begins_with_ours_and_goes_on_with_the_harness_s(self, said):
        ours, _, theirs = said.partition("What follows is the harness's own help.")
        assert ours.startswith("usage: ctx-eval run --model hf-ctx")
        assert all(task.name in ours for task in tasks())
        assert all(name in ours for name in nano.NAMES)
        assert "--gen_kwargs" in theirs

    def test_names_every_argument_of_the_model(self, said):
        for name in ("pretrained", *ARGUMENTS):
            assert f"\n  {name}=" in said

    def test_is_what_no_arguments_give(self, said, capsys):
        assert run() == 0
        assert capsys.readouterr().out == said


MISTAKES = {
    "model misspelt": (
        ("--model", "hfctx", *TASK),
        "--model hfctx is not known: did you mean hf-ctx?",
    ),
    "model unknown": (("--model", "zzzz", *TASK), "choose one of"),
    "bundled model with hf": (
        ("--model", "hf", "--model_args", "pretrained=nano-chat", *TASK),
        "pretrained=nano-chat is a model of ours, which hf does not know: use --model hf-ctx",
    ),
    "argument misspelt": (
        ("--model", "hf-ctx", "--model_args", "pretraind=nano-chat", *TASK),
        "pretraind=nano-chat is not a model argument: did you mean pretrained?",
    ),
    "argument of hf misspelt": (
        ("--model", "hf-ctx", "--model_args", "pretrained=nano-chat,dtyp=float32", *TASK),
        "dtyp=float32 is not a model argument: did you mean dtype?",
    ),
    "metadata misspelt": (
        (*OURS, "--metadata", json.dumps({"lenghts": 3})),
        "--metadata has the unknown key 'lenghts': did you mean lengths?",
    ),
    "results below a file": (
        (*OURS, "--output_path", f"{__file__}/results"),
        "a file lies where a folder should be",
    ),
    "sampling without temperature": (
        (*OURS, "--gen_kwargs", "do_sample=True"),
        "do_sample=True samples at a temperature, but there is none",
    ),
    "no room beside the answer": (
        ("--model", "hf-ctx", "--model_args", "pretrained=nano-chat,max_length=100", *TASK),
        "max_length=100 leaves no room for a prompt beside an answer of up to max_gen_toks=100",
    ),
    "thinking without its end": (
        ("--model", "hf-ctx", "--model_args", "pretrained=nano-chat,enable_thinking=True", *TASK),
        "enable_thinking=True needs think_end_token",
    ),
    "a kernel that is not installed": (
        (
            *("--model", "hf-ctx", "--model_args"),
            "pretrained=nano-chat,attn_implementation=flash_attention_2",
            *TASK,
        ),
        "needs a package that is not here",
    ),
    "a tracker that is not installed": (
        (*OURS, "--wandb_args", "project=x"),
        "--wandb_args needs the package wandb, which is not installed",
    ),
    "samples without a place": ((*OURS, "--log_samples"), "Specify --output_path"),
    "no such config": (("--config", "nowhere.yaml", *TASK), "Config file not found"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(name, capsys, monkeypatch):
    # Not installed, wherever the test runs.
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments, sentence = MISTAKES[name]
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("ctx-eval: ")
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_task_that_nobody_has_is_named_with_the_one_that_was_meant(capsys):
    """After the harness's own 14,000 were looked through."""
    assert run("--model", "hf-ctx", "--tasks", "nih_recal,nih_recall") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Tasks not found: nih_recal; did you mean nih_recall?" in last


def test_a_limit_that_the_task_overrules_is_told_with_the_name_that_works(capsys):
    assert run(*OURS, "--gen_kwargs", "max_new_tokens=3") == 0
    assert (
        "max_new_tokens=3 has no effect, the task's own max_gen_toks=100 wins: write max_gen_toks=3"
    ) in capsys.readouterr().err


def test_our_tasks_are_found_without_the_harness_s_and_without_a_warning(capsys, monkeypatch):
    looked: list[str] = []
    build = TaskIndex.build

    def watched(paths: list[Path]) -> object:
        looked.extend(map(str, paths))
        return build(paths)

    monkeypatch.setattr(TaskIndex, "build", staticmethod(watched))
    assert run(*OURS) == 0
    assert "overrides existing task" not in capsys.readouterr().err
    assert set(looked) == {str(task_folder())}
    assert lm_eval.tasks.TaskManager is TaskManager


@pytest.mark.parametrize("name", ["hf-ctx", "hf", "dummy"])
def test_known_models_pass(name):
    check_model(name, "someone/else")


def test_a_folder_with_a_bundled_name_is_no_bundled_model(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="model of ours"):
        check_model("hf", "nano-chat")
    (tmp_path / "nano-chat").mkdir()
    monkeypatch.chdir(tmp_path)
    check_model("hf", "nano-chat")
