"""The README's commands, typed as they stand, in order, in one new folder.

A block of `bash` runs here, offline and on bundled models; one of `sh` names a model of the
reader's. Left out is what installs or tests this package.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ctx_tasks import paper
from ctx_tasks.rows import read_rows
from tests.training.tuning import inputs as tuning

ROOT = Path(__file__).parents[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def type_commands(script: str, folder: Path) -> str:
    """What the commands print, typed one after the other; fails where one of them does."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": paths, "PATH": programs, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, script + done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_that_needs_no_network_runs(readme: str, tmp_path: Path) -> None:
    [sweep] = blocks(readme, "yaml")
    (tmp_path / "sweep.yaml").write_text(sweep, encoding="utf-8")
    lines = "".join(blocks(readme, "bash")).splitlines(keepends=True)
    script = "".join(line for line in lines if not line.startswith("pip "))
    assert script.count("ctx-eval ") >= 9
    printed = type_commands(script, tmp_path)
    assert "The chat template lowers nano-chat's context score, the answer begun" in printed
    assert "template tax" in printed
    assert "gate: " in printed
    for written in ("ctx-demo/table.md", "report.html", "baseline.json", "figures"):
        assert (tmp_path / written).exists()


@pytest.mark.slow
def test_the_commands_for_tuning_run_as_they_stand(tmp_path: Path) -> None:
    tuning.write_data(tmp_path / "chats.jsonl", tuning.conversations(24, indicator=None))
    text = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
    printed = type_commands("".join(blocks(text, "bash")), tmp_path)
    assert "24 conversations read" in printed
    assert "nano_context_awareness" in printed
    marked = list(read_rows(tmp_path / "data" / "marked.jsonl"))
    assert sum(json.dumps(row).count(" [IND]") for row in marked) > 0
    for written in ("layers.png", "data/marked.jsonl.lengths.png", "runs/ind/model.safetensors"):
        assert (tmp_path / written).is_file()


def test_the_table_of_the_papers_versions_is_that_of_the_code() -> None:
    text = (ROOT / "ctx_tasks" / "README.md").read_text(encoding="utf-8")
    assert paper.table().strip() in text


def test_the_readme_is_short_and_its_links_lead_somewhere(readme: str) -> None:
    assert len(readme.splitlines()) <= 220
    linked = re.findall(r"\]\(([^)#]+)", readme)
    local = [link for link in linked if "://" not in link]
    assert len(local) > 8
    assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("package", ["ctx_tasks", "ctx_models", "training"])
def test_every_room_and_file_has_its_line_in_the_readme_of_its_package(package: str) -> None:
    text = (ROOT / package / "README.md").read_text(encoding="utf-8")
    rooms = [f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")]
    alone = [path.name for path in (ROOT / package).glob("*.py") if path.name[0] != "_"]
    assert [name for name in [*rooms, *alone] if f"`{name}`" not in text] == []
