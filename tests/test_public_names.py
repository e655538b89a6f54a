"""The public names are pinned, and importing the packages or asking for help stays light."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import ctx_models
import training


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_public_names():
    assert sorted(ctx_models.__all__) == [
        "Segment",
        "Segmented",
        "Steering",
        "segment",
        "segment_mass",
        "steer",
    ]
    for name in ctx_models.__all__:
        assert getattr(ctx_models, name).__module__.startswith("ctx_models.")
    assert training.__all__ == ["score_conversation"]
    assert training.score_conversation.__module__ == "training.dependency.equation"


@pytest.mark.parametrize("package", ["ctx_models", "training", "ctx_models.cli", "training.cli"])
def test_importing_pulls_neither_torch_nor_transformers(package):
    code = f"import sys, {package}; print({{'torch', 'transformers'}} & set(sys.modules))"
    assert run_python(code) == "set()"


def test_the_tasks_never_import_torch():
    modules = "needle, reading, metrics, catalogue, errors"
    code = f"import sys; from ctx_tasks import {modules}; print('torch' in sys.modules)"
    assert run_python(code) == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["ls"]])
def test_help_answers_within_a_second(arguments):
    """Best of three, because other tests share the machine."""
    command = [sys.executable, "-m", "ctx_models.cli", *arguments]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["ls"]])
def test_help_never_imports_torch(arguments):
    code = (
        "import sys; from ctx_models.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code).splitlines()[-1] == "False"
