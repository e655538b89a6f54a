"""Every field of an arm, from a line of a sweep file to what `compare` says: none may be forgotten.

Real runs of a bundled model on two documents; a field that is added to `Arm` fails here until it
has a value below, and then wherever it is dropped on its way.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctx_models.arm import read_arm
from ctx_models.cli import main
from ctx_models.registry import register_model
from ctx_models.sweep import plan as sweep_plan
from ctx_models.sweep import run as sweep
from ctx_tasks import harness
from ctx_tasks.arm import CHAT, FIELDS, Arm, split
from ctx_tasks.gate import baseline
from ctx_tasks.results import read_runs

HEADS = {"1": [0]}
# By field: settings that differ from chat in it, on top of what gives it an effect.
SETTINGS: dict[str, dict[str, Any]] = {
    "chat": {"chat": False},
    "prefix": {"prefix": True},
    "alpha": {"alpha": 0.5},
    "schedule": {"alpha": 0.5, "schedule": "compound"},
    "steer_generated": {"alpha": 0.5, "steer_generated": False},
    "steer_thought": {"alpha": 0.5, "steer_thought": False},
    "layers": {"alpha": 0.5, "layers": [1, 0]},
    "heads": {"alpha": 0.5, "heads": "heads.json"},
    "indicator": {"indicator": "[IND]"},
    "indicator_turns": {"indicator": "[IND]", "indicator_turns": "all"},
    "indicator_strict": {"indicator": "[IND]", "indicator_strict": False},
    "instruction": {"instruction": 'Answer from the passage only, in "one" word.'},
    "instruction_turn": {"instruction": "Be brief.", "instruction_turn": "system"},
}


def test_every_field_is_walked():
    assert set(SETTINGS) == set(FIELDS)
    for name, settings in SETTINGS.items():
        assert getattr(Arm.of(settings), name) != getattr(CHAT, name)


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> tuple[Path, sweep_plan.Plan]:
    """A sweep of one arm a field, and chat."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "heads.json").write_text(json.dumps(HEADS))
    SETTINGS["heads"]["heads"] = str(folder / "heads.json")
    content = {
        "checkpoints": [{"name": "marked", "model_args": {"pretrained": "nano-chat-ind"}}],
        "arms": [
            "chat",
            *({**settings, "name": f"by {name}"} for name, settings in SETTINGS.items()),
        ],
        "begun": False,
        "tasks": ["nano_nih_recall"],
        "metadata": {"lengths": 1, "depths": 2, "max_length": 250},
        "batch_size": 2,
        "device": "cpu",
        "output": str(folder / "out"),
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
    register_model()
    plan = sweep_plan.read(folder / "sweep.yaml")
    sweep.check(plan)
    assert sweep.run(plan) == {}
    return folder / "out" / "marked", plan


def expected(name: str) -> Arm:
    """The arm as results hold it: the heads themselves in place of their file."""
    settings = SETTINGS[name]
    return Arm.of({**settings, "heads": HEADS} if "heads" in settings else settings)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_field_survives_into_the_results_file(walked, name):
    [run] = read_runs([walked[0] / f"by-{name}"])
    assert run.arm == expected(name)
    assert run.arm != CHAT


def test_fields_stand_in_the_leaderboard_each_arm_with_a_name_of_its_own(walked, capsys):
    with pytest.raises(SystemExit):
        main(["leaderboard", str(walked[0]), "--format", "json"])
    arms = [row["arm"] for row in json.loads(capsys.readouterr().out)["rows"]]
    names = [arm.pop("name") for arm in arms]
    assert len(set(names)) == len(names) == len(SETTINGS) + 1
    assert all(expected(name).record() in arms for name in SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_compare_names_the_arm(walked, name, capsys):
    with pytest.raises(SystemExit) as done:
        main(["compare", str(walked[0] / "chat"), str(walked[0] / f"by-{name}")])
    assert done.value.code == 0
    said = capsys.readouterr().out.splitlines()
    assert f"B: marked, {expected(name).name}" in said
    [compared] = [line for line in said if line.startswith("What is compared")]
    assert f"{name} " in compared


@pytest.mark.parametrize("name", SETTINGS)
def test_a_gates_baseline_keeps_the_arm(walked, name):
    kept = baseline.text(baseline.read(walked[0] / f"by-{name}"))
    file = walked[0] / f".{name}.json"
    file.write_text(kept)
    [found] = baseline.read(file)
    assert found.arm == expected(name)


def test_the_command_of_each_arm_means_that_arm(walked):
    for cell in sweep_plan.cells(walked[1]):
        parsed = harness.run_parser().parse_args(shlex.split(cell.command)[2:])
        loads, arm = split(parsed.model_args)
        assert loads == cell.checkpoint.model_args
        assert read_arm(arm).steering == read_arm(cell.arm).steering
        assert arm.marks == cell.arm.marks
        assert getattr(parsed, "apply_chat_template", False) == cell.arm.chat
        assert parsed.tasks == cell.tasks
