"""`ctx-eval` and `ctx-train` speak alike: help, examples, versions, mistakes, and crashes."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ctx_models import cli as evaluation
from ctx_models.commands.entry import UNFORESEEN, new_app, start
from ctx_tasks.errors import UserError
from tests.commands import as_process, ctx_eval
from training import cli as tuning

MODULES = {"ctx-eval": "ctx_models.cli", "ctx-train": "training.cli"}
PROGRAMS = {"ctx-eval": evaluation.main, "ctx-train": tuning.main}
COMMANDS = [
    (program, str(command.name or command.callback.__name__))
    for program, app in (("ctx-eval", evaluation.app), ("ctx-train", tuning.app))
    for command in app.registered_commands
]
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]


def call(program: str, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program](list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_every_command_has_an_example(program, command, capsys):
    assert call(program, command, "--help") == 0
    said = capsys.readouterr().out
    _, _, example = said.partition("Example")
    assert f"{program} {command}" in example


@pytest.mark.slow
@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_every_command_starts_and_fails_in_processes_of_its_own(program, command):
    helped = as_process(MODULES[program], command, "--help")
    assert (helped.code, "Example" in helped.out) == (0, True)
    wrong = as_process(MODULES[program], command, "--nonsense")
    assert wrong.code == (3 if command == "gate" else 2)
    assert "--nonsense" in wrong.err


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_has_a_whole_line_for_each_command(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert call(program, "--help") == 0
    said = capsys.readouterr().out
    assert f"Usage: {program}" in said
    assert "..." not in said.replace("COMMAND [ARGS]...", "")
    assert "--install-completion" in said


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_version_is_ours_and_the_harness_s(program, capsys):
    assert call(program, "--version") == 0
    ours, theirs = (importlib.metadata.version(name) for name in ("lm-eval-ctx", "lm-eval"))
    assert capsys.readouterr().out == f"lm-eval-ctx {ours} (lm-eval {theirs})\n"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mistake", ["nonsense", "--nonsense"])
def test_a_wrong_command_or_option_exits_with_2(program, mistake, capsys):
    assert call(program, mistake) == 2
    assert mistake in capsys.readouterr().err


def test_options_are_read_with_dashes_and_underscores(capsys):
    for written in ("--max-length", "--max_length"):
        assert call("ctx-eval", "attention", "--by-head", "1", written, "x") == 2
        assert "Invalid value for '--max-length'" in capsys.readouterr().err


def broken(error: Exception) -> typer.Typer:
    app = new_app("For a test.")

    @app.command()
    def command() -> None:
        raise error from KeyError("the cause")

    return app


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("Name a folder."), 2, "ctx-x: Name a folder."),
        (
            RuntimeError("no luck\nand more"),
            UNFORESEEN,
            "ctx-x: RuntimeError: no luck (not foreseen: CTX_DEBUG=1 shows where it came from)",
        ),
    ],
)
@pytest.mark.parametrize("debug", ["", "1"])
def test_whatever_goes_wrong_is_one_sentence(error, code, sentence, debug, capsys, monkeypatch):
    """With CTX_DEBUG=1 the traceback stands before it, the cause included."""
    monkeypatch.setenv("CTX_DEBUG", debug)
    with pytest.raises(SystemExit) as ended:
        start(broken(error), "ctx-x", [])
    assert ended.value.code == code
    *before, last = capsys.readouterr().err.splitlines()
    assert last == sentence
    assert any("KeyError: 'the cause'" in line for line in before) == bool(debug)
    assert bool(before) == bool(debug)


def test_heads_typed_on_the_command_line_are_told_to_be_a_file():
    given = 'pretrained=nano-chat,alpha=0.5,heads={"1": [0]}'
    done = ctx_eval("run", "--model", "hf-ctx", "--model_args", given, "--tasks", "nano_by_heart")
    assert done.code == 2
    assert "Invalid JSON" in done.err
    assert done.err.rstrip().endswith("heads= is the name of a file.")


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "ctx_models", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Usage: ctx-eval" in done.stdout


@pytest.mark.parametrize(
    "command",
    [["ctx-train", "score", "--help"], ["ctx-eval", "ls"], ["python", "-m", "ctx_models", "ls"]],
)
def test_in_a_folder_with_a_training_of_its_own(command, tmp_path):
    done = in_a_folder_of_another(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize(
    "start",
    [["-m", "ctx_models.ctx_train"], ["-c", "from ctx_models.ctx_train import main; main()"]],
)
def test_ctx_train_is_found_where_another_training_comes_first(start, tmp_path, monkeypatch):
    """As `PYTHONPATH=. ctx-train`; the console script is the second of these."""
    assert 'ctx-train = "ctx_models.ctx_train:main"' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )
    paths = filter(None, [".", os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    done = in_a_folder_of_another(tmp_path, "python", *start, "score", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Score how far" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [["ctx-train", "score", "--help"], ["ctx-eval", "ls"]])
def test_launched_in_a_folder_with_a_training_of_its_own(command, tmp_path):
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0", "--no_python"]
    done = in_a_folder_of_another(tmp_path, *launch, str(BIN / command[0]), *command[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Score how far" if command[0] == "ctx-train" else "\nnih_recall ") == 2


def in_a_folder_of_another(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where `import training` would find something else."""
    (folder / "training").mkdir()
    (folder / "training" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    words = [str(BIN / command[0]), *command[1:]]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
