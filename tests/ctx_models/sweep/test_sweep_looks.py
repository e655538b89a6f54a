"""`attention: true` in a sweep: the file of each cell, resuming, rescoring, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ctx_models.sweep import plan as sweep_plan
from ctx_models.sweep import run as sweep
from ctx_tasks import looks
from ctx_tasks.errors import UserError
from ctx_tasks.result_files import attention_file
from ctx_tasks.results import read_documents, read_runs
from tests.commands import ctx_eval

PLAN = {
    "checkpoints": [{"name": "chat", "model_args": {"pretrained": "nano-chat"}}],
    "arms": ["raw", "chat+prefix", {"alpha": 0.01}],
    "begun": False,
    "tasks": ["nano_squad_contains"],
    "metadata": {"questions": 3},
    "batch_size": 4,
    "device": "cpu",
    "attention": True,
}


def command(folder: Path, *flags: str, **changes: object) -> list[object]:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({**PLAN, "output": str(folder / "out"), **changes}))
    return ["sweep", file, *flags]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    done = ctx_eval(*command(folder))
    assert done.code == 0, done.err
    return folder


def read_looks(folder: Path) -> dict[str, dict[str, looks.Look]]:
    found = {}
    for one in read_runs([folder / "out"]):
        for task, result in one.tasks.items():
            assert result.samples_file is not None
            found[one.arm.name] = looks.read(attention_file(result.samples_file, task))
            hashes = {line["doc_hash"] for line in read_documents(result)}
            assert found[one.arm.name].keys() == hashes
    return found


@pytest.mark.slow
def test_every_arm_says_where_its_answers_looked_on_the_same_documents(swept):
    found = read_looks(swept)
    assert found.keys() == {"raw", "chat, prefix", "chat, α 0.01 constant"}
    assert len({tuple(sorted(of_arm)) for of_arm in found.values()}) == 1
    for key in found["raw"]:
        totals = {arm: of_arm[key].totals for arm, of_arm in found.items()}
        assert totals["raw"].template == 0
        assert totals["chat, prefix"].template > 0.01
        assert totals["chat, α 0.01 constant"].user > totals["chat, prefix"].user


@pytest.mark.slow
def test_a_cell_is_finished_with_what_was_asked_for(swept):
    kept = json.loads(next((swept / "out").rglob("cell.json")).read_text())
    assert any(name.startswith("attention_nano_squad") for name in kept["files"])
    assert "(finished in" in ctx_eval(*command(swept, "--dry-run")).out
    assert "3 cells, 0 to do" in ctx_eval(*command(swept, "--dry-run")).out
    # Without it asked for the same cells will do; a torn file is no part of a finished one.
    assert "3 cells, 0 to do" in ctx_eval(*command(swept, "--dry-run", attention=False)).out
    torn = next((swept / "out").rglob("attention_*"))
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-9])
    assert "3 cells, 1 to do" in ctx_eval(*command(swept, "--dry-run")).out
    torn.write_bytes(whole)


@pytest.mark.slow
def test_a_finished_cell_without_it_is_run_again_in_its_place(tmp_path):
    changes = {"arms": ["raw"], "metadata": {"questions": 1}}
    assert ctx_eval(*command(tmp_path, attention=False, **changes)).code == 0
    assert not list(tmp_path.rglob("attention_*"))
    for _ in range(2):
        assert ctx_eval(*command(tmp_path, **changes)).code == 0
        assert len(list(tmp_path.rglob("attention_*"))) == 1
    plan = sweep_plan.read(tmp_path / "sweep.yaml")
    assert all(sweep.finished(cell) for cell in sweep_plan.cells(plan))
    assert ctx_eval("rescore", tmp_path / "out").code == 0
    assert read_looks(tmp_path)["raw"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": "yes"}, "attention must be true or false, not 'yes'"),
        (
            {"checkpoints": [{"name": "a", "model": "hf", "model_args": {}}], "arms": ["raw"]},
            "attention can be measured of model hf-ctx only, not of a",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_loads(tmp_path, change, message):
    command(tmp_path, **change)
    with pytest.raises(UserError, match=message):
        sweep_plan.read(tmp_path / "sweep.yaml")
