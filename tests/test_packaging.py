"""The wheel in a fresh environment: plain lm_eval finds the tasks, uninstalling leaves nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from ctx_models import nano
from ctx_tasks.catalogue import tasks
from tests import tiny

ROOT = Path(__file__).parents[1]
PACKAGES = ("ctx_tasks", "ctx_models", "training")
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT, cwd=folder)
    [built] = folder.glob("lm_eval_ctx-*.whl")
    return built


@pytest.fixture(params=["wheel", "editable"])
def environment(request, tmp_path, wheel) -> Path:
    """A new venv with lm-eval and us inside; other dependencies are borrowed, not reinstalled."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    harness = f"lm-eval=={importlib.metadata.version('lm-eval')}"
    ours = [wheel] if request.param == "wheel" else ["-e", ROOT]
    install = (python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed")
    run(*install, harness, *ours, cwd=tmp_path)
    return tmp_path


def test_the_wheel_holds_every_yaml_and_essay(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = "lm_eval/tasks/context_awareness/"
    yaml = [name for name in names if name.startswith(inside) and name.endswith(".yaml")]
    assert len(yaml) == len(tasks())
    bases = [name for name in names if name.startswith(inside) and "_base" in name]
    assert len(bases) == 6
    essays = [name for name in names if name.startswith("ctx_tasks/needle/haystack/")]
    assert len([name for name in essays if name.endswith(".txt")]) >= 10
    assert "ctx_tasks/nano_world/data/needles.yaml" in names
    for checkpoint in nano.NAMES:
        assert f"ctx_models/nano/{checkpoint}/model.safetensors" in names


def test_the_wheel_is_the_packages_and_nothing_beside_them(wheel):
    """Every file of the packages in git, the README's pictures apart, and our task files."""
    listed = run("git", "ls-files", *PACKAGES, "task_configs", cwd=ROOT).splitlines()
    expected = {
        name.replace("task_configs/", "lm_eval/tasks/context_awareness/", 1)
        for name in listed
        if not name.startswith("ctx_models/nano/pictures/")
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= found
    kinds = {Path(name).suffix for name in found}
    assert {".yaml", ".jinja", ".txt", ".jsonl", ".safetensors"} <= kinds
    assert not {".png", ".pyc"} & kinds


def test_an_index_shows_a_readme_whose_links_leave_it(wheel):
    """Where the readme stands alone, a relative link or picture leads nowhere."""
    [metadata] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    readme = zipfile.ZipFile(wheel).read(metadata).decode()
    linked = re.findall(r"\]\(([^)]+)\)", readme)
    assert len([link for link in linked if link.endswith(".png")]) >= 3
    assert [link for link in linked if not link.startswith(("https://", "#"))] == []


def test_installed_from_any_directory_and_gone_when_uninstalled(environment):
    """`lm_eval` lists and runs our tasks with any backend; `ctx-eval` steers; nothing stays."""
    bin_folder = environment / "venv" / "bin"
    listed = run(bin_folder / "lm_eval", "ls", "tasks", cwd=environment)
    for task in tasks():
        assert task.name in listed
    assert "nih_recall_prefix" in run(bin_folder / "ctx-eval", "ls", cwd=environment)
    assert "Usage: ctx-train" in run(bin_folder / "ctx-train", "--help", cwd=environment)
    assert score(environment, "lm_eval", "hf", "") is not None
    assert score(environment, "ctx-eval", "hf-ctx", ",alpha=0.9") is not None
    run(bin_folder / "python", "-m", "pip", "uninstall", "-y", "-q", "lm-eval-ctx", cwd=environment)
    [packages] = (environment / "venv" / "lib").glob("python*/site-packages")
    left = [path for name in ("ctx_*", "training", "lm_eval_ctx*") for path in packages.glob(name)]
    assert not left
    assert not (packages / "lm_eval" / "tasks" / "context_awareness").exists()
    assert not (bin_folder / "ctx-eval").exists()


def score(environment: Path, program: str, model: str, arguments: str) -> float:
    """Run two tasks on a tiny model; the mean recall found in the results file."""
    checkpoint = environment / "checkpoint"
    tiny.tokenizer().save_pretrained(checkpoint)
    tiny.model().save_pretrained(checkpoint)
    squad = environment / "squad.jsonl"
    answers = {"text": ["Ada"], "answer_start": [0]}
    row = {"id": "1", "title": "", "context": "Ada keeps it.", "question": "Who?"}
    squad.write_text(json.dumps({**row, "answers": answers}))
    metadata = {"max_length": 300, "lengths": 2, "depths": 2, "squad_files": str(squad)}
    output = environment / f"out-{program}"
    run(
        *(environment / "venv" / "bin" / program, "run", "--model", model, "--device", "cpu"),
        *("--model_args", f"pretrained={checkpoint}{arguments}", "--apply_chat_template"),
        *("--tasks", "nih_recall,squad_contains", "--metadata", json.dumps(metadata)),
        *("--output_path", output),
        cwd=environment,
    )
    [written] = output.rglob("results_*.json")
    results = json.loads(written.read_text())["results"]
    assert results["squad_contains"]["contains,none"] in (0.0, 1.0)
    return results["nih_recall"]["recall,none"]
