"""The public names are pinned, and importing the packages or asking for help stays light."""

from __future__ import annotations

import subprocess
import sys

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


def test_importing_the_needle_task_pulls_neither_the_harness_nor_datasets():
    heavy = "{'torch', 'transformers', 'datasets', 'lm_eval'}"
    assert run_python(f"import sys, ctx_tasks.needle; print({heavy} & set(sys.modules))") == "set()"


def test_the_tasks_never_import_torch():
    modules = "needle, reading, metrics, catalogue, errors"
    code = f"import sys; from ctx_tasks import {modules}; print('torch' in sys.modules)"
    assert run_python(code) == "False"


LIGHT = [
    ("ctx_models.cli", ["--help"]),
    ("ctx_models.cli", ["run", "--help"]),
    ("ctx_models.cli", ["sweep", "--help"]),
    ("ctx_models.cli", ["demo", "--help"]),
    ("ctx_models.cli", ["ls"]),
    ("training.cli", ["--help"]),
    ("training.cli", ["sft", "--help"]),
]
# Measured: 190 to 290. Anything heavy (torch, transformers, datasets, matplotlib) brings hundreds.
MOST_MODULES = 340


@pytest.mark.parametrize(("module", "arguments"), LIGHT, ids=lambda value: str(value))
def test_help_imports_little(module, arguments):
    code = (
        f"import sys; from {module} import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "print(len(sys.modules), heavy)"
    )
    count, heavy = run_python(code).splitlines()[-1].split(maxsplit=1)
    assert heavy == "set()"
    assert int(count) < MOST_MODULES


def test_importing_the_model_makes_it_known_to_the_harness():
    code = (
        "import ctx_models.lm\n"
        "from lm_eval.api.registry import get_model\n"
        "print(get_model('hf-ctx').__name__, get_model('hf').__name__)"
    )
    assert run_python(code) == "CtxLM HFLM"
