"""`ctx-eval sweep` on the bundled models: cells, resuming, failures, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ctx_models.sweep import plan as sweep_plan
from ctx_tasks.errors import UserError
from ctx_tasks.results import read_documents, read_runs

PLAN = {
    "checkpoints": [
        {"name": "chat", "model_args": {"pretrained": "nano-chat"}},
        {"name": "marked", "model_args": {"pretrained": "nano-chat-ind"}},
    ],
    "arms": ["chat", "raw", "chat+prefix", {"alpha": 0.01}, {"indicator": "[IND]"}],
    "tasks": ["nano_nih_recall", "nano_squad_contains"],
    "metadata": {"lengths": 2, "depths": 2, "max_length": 300, "questions": 4},
    "batch_size": 4,
    "device": "cpu",
}
FAILING = "chat, chat-indicator-[IND]"


def command(folder: Path, *arguments: str, plan: dict | None = None) -> list[str]:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({**(plan or PLAN), "output": str(folder / "out")}))
    return [sys.executable, "-m", "ctx_models.cli", "sweep", str(file), *arguments]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True)


def answers(output: Path) -> dict[str, list]:
    """What was asked and said in each sample file of each cell."""
    found = {}
    for one in read_runs([output]):
        for name, result in one.tasks.items():
            lines = [(d["doc_hash"], d["arguments"], d["resps"]) for d in read_documents(result)]
            found[f"{one.path.parent.relative_to(output)} {name}"] = lines
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(command(folder))


def test_every_cell_is_there_and_the_failing_one_is_named(swept):
    folder, done = swept
    assert done.returncode == 1
    assert f"failed: {FAILING}: indicator='[IND]' is not one added token" in done.stderr
    assert "Traceback" not in done.stderr
    found = {(one.checkpoint, one.arm.name) for one in read_runs([folder / "out"])}
    arms = {"chat", "raw", "chat, prefix", "chat, α 0.01 constant"}
    both = {(name, arm) for name in ("chat", "marked") for arm in arms}
    assert found == both | {("marked", "chat, [IND]")}


def test_arms_see_the_same_documents_and_are_run_as_they_say(swept):
    said = answers(swept[0] / "out")
    hashes = {
        key: [doc_hash for doc_hash, _, _ in lines] for key, lines in said.items() if "nih" in key
    }
    assert len(hashes) == 9
    assert len({tuple(sorted(found)) for found in hashes.values()}) == 1
    prompts = {key: lines[0][1]["gen_args_0"]["arg_0"] for key, lines in said.items()}
    for key, prompt in prompts.items():
        assert ("<|user|>" in prompt) == ("raw" not in key), key
        assert ("[IND]" in prompt) == ("IND" in key), key
    assert said["chat/chat-alpha-0.01 nano_nih_recall"] != said["chat/chat nano_nih_recall"]


@pytest.mark.slow
def test_a_cells_command_gives_its_answers(swept, tmp_path):
    record = json.loads((swept[0] / "out" / "chat" / "chat-alpha-0.01" / "cell.json").read_text())
    words = record["command"].replace(str(swept[0] / "out"), str(tmp_path))
    words = words.replace("ctx-eval", f"{sys.executable} -m ctx_models.cli", 1)
    assert subprocess.run(words, shell=True).returncode == 0
    [alone] = read_runs([tmp_path])
    cell = answers(swept[0] / "out")
    for name, result in alone.tasks.items():
        lines = [(d["doc_hash"], d["arguments"], d["resps"]) for d in read_documents(result)]
        assert lines == cell[f"chat/chat-alpha-0.01 {name}"]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_as_if_nothing_had_been(swept, tmp_path):
    words = command(tmp_path)
    deadline = time.monotonic() + 240
    for cells in (1, 4):
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while len(list((tmp_path / "out").glob("*/[!.]*/cell.json"))) < cells:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/[!.]*/cell.json")}
    # A cell that was tampered with is not finished.
    broken = next(iter(kept)).parent
    next(broken.glob("samples_*")).write_text("")
    assert run(words).returncode == 1
    assert answers(tmp_path / "out") == answers(swept[0] / "out")
    again = {p for p, before in kept.items() if p.stat().st_mtime_ns != before}
    assert again == {broken / "cell.json"}


def test_other_settings_are_run_again_and_a_dry_run_says_so(swept):
    folder, _ = swept
    done = run(command(folder, "--dry-run"))
    assert done.stdout.count("(finished in") == 9
    assert "nano_squad_contains, 8 documents (finished in" in done.stdout
    assert "chat+prefix: nano_nih_recall_prefix, 4 documents" in done.stdout
    assert "10 cells, 1 to do, 8 documents; about" in done.stdout
    other = {**PLAN, "metadata": {**PLAN["metadata"], "questions": 3}}
    assert (
        "10 cells, 10 to do, 64 documents; how long"
        in run(command(folder, "--dry-run", plan=other)).stdout
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"armz": []}, "unknown key 'armz'"),
        ({"arms": []}, "arms must be a list with at least one entry"),
        ({"arms": ["cooked"]}, "arm 'cooked' must be raw, chat, chat+prefix or"),
        ({"arms": [{"alfa": 1}]}, "unknown key 'alfa'"),
        ({"arms": [{"alpha": 1.5}]}, "alpha=1.5 is not allowed"),
        ({"arms": [{"layers": "x"}]}, "layers='x' cannot be read"),
        ({"arms": [{"heads": "nowhere.json"}]}, "nowhere.json"),
        ({"arms": ["chat", "chat"]}, "arms chat stand there twice"),
        ({"arms": [{"prefix": True}], "tasks": ["squad_contains"]}, "none of the tasks begins"),
        ({"tasks": []}, "tasks must be a list"),
        ({"checkpoints": [{"model_args": {}}]}, "must be a mapping with name and model_args"),
        ({"checkpoints": [{"name": "a", "model_args": {"alpha": 0.5}}]}, "alpha belongs to an arm"),
        (
            {"checkpoints": [{"name": "a", "model": "hf", "model_args": {}}]},
            "only model hf-ctx knows alpha, not that of a",
        ),
    ],
)
def test_mistakes_are_all_named_before_anything_loads(tmp_path, change, message):
    command(tmp_path, plan={**PLAN, **change})
    with pytest.raises(UserError) as raised:
        sweep_plan.read(tmp_path / "sweep.yaml")
    assert message in str(raised.value)


def test_several_mistakes_are_one_message(tmp_path):
    done = run(command(tmp_path, plan={**PLAN, "arms": ["cooked", {"alpha": 2}], "tasks": []}))
    assert done.returncode == 2
    assert all(part in done.stderr for part in ("cooked", "alpha=2", "tasks must be"))
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_checkpoint_that_does_not_load_leaves_the_others_alone(tmp_path):
    lost = {"name": "lost", "model_args": {"pretrained": str(tmp_path / "nowhere")}}
    plan = {**PLAN, "checkpoints": [lost, PLAN["checkpoints"][0]], "arms": ["raw"]}
    done = run(command(tmp_path, plan=plan))
    assert done.returncode == 1
    assert "failed: lost, raw: " in done.stderr
    assert [one.checkpoint for one in read_runs([tmp_path / "out"])] == ["chat"]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(swept, tmp_path):
    words = command(tmp_path)[3:]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "-m", "ctx_models.cli", *words]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run(launch, env=environment, capture_output=True)
    single, double = answers(swept[0] / "out"), answers(tmp_path / "out")
    assert single.keys() == double.keys()
    for key, lines in single.items():
        assert sorted(map(str, lines)) == sorted(map(str, double[key])), key
