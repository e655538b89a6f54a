"""`ctx-eval sweep` on the bundled models: cells, resuming, failures, mistakes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ctx_models import nano
from ctx_models.sweep import plan as sweep_plan
from ctx_models.sweep import run as sweep
from ctx_tasks.errors import UserError
from ctx_tasks.results import read_documents, read_runs
from tests.commands import Done, as_process, ctx_eval, words
from tests.ctx_models import offline_tasks

PLAN = {
    "checkpoints": [
        {"name": "chat", "model_args": {"pretrained": "nano-chat"}},
        {
            "name": "marked",
            "model_args": {"pretrained": "nano-chat-ind"},
            "arms": ["chat", {"indicator": "[IND]"}],
        },
    ],
    "arms": ["chat", "raw", "chat+prefix", {"alpha": 0.01}],
    "begun": False,
    "tasks": ["nano_nih_recall", "nano_squad_contains"],
    "metadata": {"lengths": 2, "depths": 2, "max_length": 300, "questions": 4},
    "batch_size": 4,
    "device": "cpu",
}


def command(folder: Path, *arguments: str, plan: dict | None = None) -> list[object]:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({**(plan or PLAN), "output": str(folder / "out")}))
    return ["sweep", file, *arguments]


def answers(output: Path) -> dict[str, list]:
    """What was asked and said in each sample file of each cell."""
    found = {}
    for one in read_runs([output]):
        for name, result in one.tasks.items():
            lines = [(d["doc_hash"], d["arguments"], d["resps"]) for d in read_documents(result)]
            found[f"{one.path.parent.relative_to(output)} {name}"] = lines
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, ctx_eval(*command(folder))


def test_every_checkpoint_is_run_in_its_own_arms_or_the_files(swept):
    folder, done = swept
    assert done.code == 0, done.err
    found = {(one.checkpoint, one.arm.name) for one in read_runs([folder / "out"])}
    files = {"chat", "raw", "chat, prefix", "chat, α 0.01 constant"}
    own = {("marked", "chat"), ("marked", "chat, [IND]")}
    assert found == {("chat", arm) for arm in files} | own


def test_every_cell_keeps_its_log(swept):
    cells = [record.parent for record in (swept[0] / "out").rglob("cell.json")]
    assert len(cells) == 6
    for cell in cells:
        log = (cell / "log.txt").read_text()
        assert "Loading weights: 100%" in log
        assert "Running generate_until requests: 100%" in log
    assert not list((swept[0] / "out").rglob(".*"))


def test_arms_see_the_same_documents_and_are_run_as_they_say(swept):
    said = answers(swept[0] / "out")
    hashes = {
        key: [doc_hash for doc_hash, _, _ in lines] for key, lines in said.items() if "nih" in key
    }
    assert len(hashes) == 6
    assert len({tuple(sorted(found)) for found in hashes.values()}) == 1
    prompts = {key: lines[0][1]["gen_args_0"]["arg_0"] for key, lines in said.items()}
    for key, prompt in prompts.items():
        assert ("<|user|>" in prompt) == ("raw" not in key), key
        assert ("[IND]" in prompt) == ("IND" in key), key
    assert said["chat/chat-alpha-0.01 nano_nih_recall"] != said["chat/chat nano_nih_recall"]


@pytest.mark.slow
def test_a_cells_command_gives_its_answers(swept, tmp_path):
    record = json.loads((swept[0] / "out" / "chat" / "chat-alpha-0.01" / "cell.json").read_text())
    name, *arguments = shlex.split(record["command"])
    assert name == "ctx-eval"
    output = str(swept[0] / "out")
    assert ctx_eval(*(word.replace(output, str(tmp_path)) for word in arguments)).code == 0
    [alone] = read_runs([tmp_path])
    cell = answers(swept[0] / "out")
    for name, result in alone.tasks.items():
        lines = [(d["doc_hash"], d["arguments"], d["resps"]) for d in read_documents(result)]
        assert lines == cell[f"chat/chat-alpha-0.01 {name}"]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_as_if_nothing_had_been(swept, tmp_path):
    arguments = command(tmp_path)
    line = words("ctx_models.cli", *arguments)
    deadline = time.monotonic() + 240
    for cells in (1, 4):
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
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
    assert ctx_eval(*arguments).code == 0
    assert answers(tmp_path / "out") == answers(swept[0] / "out")
    again = {p for p, before in kept.items() if p.stat().st_mtime_ns != before}
    assert again == {broken / "cell.json"}


def test_other_settings_are_run_again_and_a_dry_run_says_so(swept):
    folder, _ = swept
    done = ctx_eval(*command(folder, "--dry-run"))
    assert done.out.count("(finished in") == 6
    assert "nano_squad_contains, 8 documents (finished in" in done.out
    begun = "chat: chat, prefix: nano_nih_recall_prefix, nano_squad_contains_prefix, 8 documents"
    assert begun in done.out
    assert "6 cells, 0 to do, 0 documents; about" in done.out
    other = {**PLAN, "metadata": {**PLAN["metadata"], "questions": 3}}
    done = ctx_eval(*command(folder, "--dry-run", plan=other))
    assert "6 cells, 6 to do, 42 documents; how long" in done.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"armz": []}, "unknown key 'armz'"),
        ({"arms": []}, "arms must be a list with at least one entry"),
        ({"arms": ["cooked"]}, "arm 'cooked' must be raw, chat, raw+prefix, chat+prefix or"),
        ({"arms": [{"alfa": 1}]}, "unknown key 'alfa'"),
        ({"arms": [{"alpha": 1.5}]}, "alpha=1.5 is not allowed"),
        ({"arms": [{"layers": "x"}]}, "layers='x' cannot be read"),
        ({"arms": [{"heads": "nowhere.json"}]}, "nowhere.json"),
        ({"arms": ["chat", "chat"]}, "arms chat stand there twice"),
        ({"arms": [{"alpha": 0.5}, {"alpha": 0.5, "name": "x"}]}, "chat-alpha-0.5 and x are the"),
        ({"checkpoints": [{"name": "a", "arms": ["cooked"]}]}, "checkpoint a: arm 'cooked' must"),
        ({"checkpoints": [{"name": "a", "arms": []}]}, "arms must be a list with at least one"),
        ({"tasks": []}, "tasks must be a list"),
        ({"checkpoints": [{"model_args": {}}]}, "must be a mapping with name and model_args"),
        ({"checkpoints": [{"name": "a", "model_args": {"alpha": 0.5}}]}, "alpha belongs to an arm"),
        (
            {"checkpoints": [{"name": "a", "model": "hf", "model_args": {}}]},
            "only models hf-ctx and vllm-ctx know alpha, not that of a",
        ),
    ],
)
def test_mistakes_are_all_named_before_anything_loads(tmp_path, change, message):
    command(tmp_path, plan={**PLAN, **change})
    with pytest.raises(UserError) as raised:
        sweep_plan.read(tmp_path / "sweep.yaml")
    assert message in str(raised.value)


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_what_a_tokenizer_cannot_take_is_refused_before_anything_runs(tmp_path, flags):
    """A word that is no token, a chat model whose template is gone; raw needs neither."""
    bare = tmp_path / "bare"
    shutil.copytree(nano.folder("nano-chat"), bare)
    (bare / "chat_template.jinja").unlink()
    checkpoints = [
        {"name": "chat", "model_args": {"pretrained": "nano-chat"}},
        {"name": "bare", "model_args": {"pretrained": str(bare)}, "arms": ["raw", "chat"]},
    ]
    plan = {**PLAN, "checkpoints": checkpoints, "arms": ["chat", {"indicator": "[IND]"}]}
    done = ctx_eval(*command(tmp_path, *flags, plan=plan))
    assert done.code == 2
    [said] = done.err.splitlines()
    assert "chat in arm chat-indicator-[IND]: indicator='[IND]' is not one added token" in said
    assert "bare in arm chat: this tokenizer has no chat template" in said
    assert "arm raw" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_misspelt_task_is_one_sentence(tmp_path, flags):
    done = ctx_eval(*command(tmp_path, *flags, plan={**PLAN, "tasks": ["nano_squad_contain"]}))
    assert done.code == 2
    [said] = done.err.splitlines()
    assert "no task 'nano_squad_contain' (did you mean nano_squad_contains?)" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arms": [{"alhpa": 0.5}]}, "unknown key 'alhpa' (did you mean alpha?)"),
        ({"arms": [{"nonsense": 0.5}]}, "unknown key 'nonsense' (known: chat, prefix, alpha"),
        ({"taks": []}, "unknown key 'taks' (did you mean tasks?)"),
        (
            {"checkpoints": [{"name": "mine", "model_args": {"pretrained": "nano-chta"}}]},
            "mine: 'nano-chta' is neither a folder here nor a model of ours (did you mean nano-c",
        ),
        (
            {"checkpoints": [{"name": "mine", "model_arg": {}}]},
            "mine: unknown key 'model_arg' (did you mean model_args?)",
        ),
    ],
)
def test_a_misspelt_name_in_a_sweep_file_is_told_with_the_one_that_was_meant(
    tmp_path, change, said
):
    done = ctx_eval(*command(tmp_path, "--dry-run", plan={**PLAN, **change}))
    assert done.code == 2
    [line] = done.err.splitlines()
    assert said in line


def test_each_arm_is_also_run_with_its_answer_begun_unless_told_not_to(tmp_path):
    arms = ["chat", {"alpha": 0.5}, {"indicator": "[IND]", "name": "mine"}, "chat+prefix"]
    plan = {**PLAN, "arms": arms, "tasks": ["nano_context_awareness", "nano_by_heart"]}
    command(tmp_path, plan={**plan, "begun": True})
    cells = sweep_plan.cells(sweep_plan.read(tmp_path / "sweep.yaml"))
    found = [cell.arm.folder for cell in cells if cell.checkpoint.name == "chat"]
    assert found == [
        *("chat", "chat-alpha-0.5", "chat-prefix-alpha-0.5", "mine", "mine-prefix", "chat-prefix")
    ]
    assert cells[2].tasks == ["nano_context_awareness_prefix"]
    command(tmp_path, plan=plan)
    asked = sweep_plan.cells(sweep_plan.read(tmp_path / "sweep.yaml"))
    assert [cell.arm.folder for cell in asked if cell.checkpoint.name == "chat"] == [
        *("chat", "chat-alpha-0.5", "mine", "chat-prefix")
    ]


def test_a_folder_of_the_users_own_tasks_is_taken_and_an_edited_task_is_run_again(tmp_path):
    tasks = shutil.copytree(offline_tasks.FOLDER, tmp_path / "tasks")
    plan = {
        **{key: value for key, value in PLAN.items() if key != "metadata"},
        "checkpoints": PLAN["checkpoints"][:1],
        "arms": [{"alpha": 0.5}],
        "tasks": ["toy_generate"],
        "include_path": str(tasks),
    }
    assert ctx_eval(*command(tmp_path, plan=plan)).code == 0
    record = json.loads((tmp_path / "out" / "chat" / "chat-alpha-0.5" / "cell.json").read_text())
    assert f"--include_path {tasks}" in record["command"]
    assert "1 cells, 0 to do" in ctx_eval(*command(tmp_path, "--dry-run", plan=plan)).out
    task = tasks / "toy_generate.yaml"
    task.write_text(task.read_text().replace("{{text}}", "{{text}} Say it."))
    assert "1 cells, 1 to do" in ctx_eval(*command(tmp_path, "--dry-run", plan=plan)).out
    nowhere = {**plan, "include_path": "nowhere"}
    done = ctx_eval(*command(tmp_path, "--dry-run", plan=nowhere))
    assert done.code == 2
    assert "include_path nowhere is no folder; name that of your task files" in done.err


def test_where_every_checkpoint_names_its_arms_the_file_needs_none(tmp_path):
    plan = {key: value for key, value in PLAN.items() if key != "arms"}
    own = [{"name": "a", "model_args": {}, "arms": ["raw"]}, {"name": "b", "model_args": {}}]
    command(tmp_path, plan={**plan, "checkpoints": own[:1]})
    [cell] = sweep_plan.cells(sweep_plan.read(tmp_path / "sweep.yaml"))
    assert cell.arm.folder == "raw"
    command(tmp_path, plan={**plan, "checkpoints": own})
    with pytest.raises(UserError, match="arms must be a list with at least one entry"):
        sweep_plan.read(tmp_path / "sweep.yaml")


def test_a_begun_arm_needs_a_task_that_begins_the_answer(tmp_path):
    command(tmp_path, plan={**PLAN, "tasks": ["nano_by_heart"]})
    with pytest.raises(UserError, match="chat: chat, prefix: none of the tasks begins an answer"):
        sweep.check(sweep_plan.read(tmp_path / "sweep.yaml"))


@pytest.mark.slow
def test_several_mistakes_are_one_message(tmp_path):
    plan = {**PLAN, "arms": ["cooked", {"alpha": 2}], "tasks": []}
    done = as_process("ctx_models.cli", *command(tmp_path, plan=plan))
    assert done.code == 2
    assert all(part in done.err for part in ("cooked", "alpha=2", "tasks must be"))


@pytest.mark.slow
def test_a_checkpoint_that_does_not_load_leaves_the_others_alone(tmp_path):
    lost = {"name": "lost", "model_args": {"pretrained": str(tmp_path / "nowhere")}}
    plan = {**PLAN, "checkpoints": [lost, PLAN["checkpoints"][0]], "arms": ["raw"]}
    done = ctx_eval(*command(tmp_path, plan=plan))
    assert done.code == 1
    assert "failed: lost: raw: " in done.err
    assert [one.checkpoint for one in read_runs([tmp_path / "out"])] == ["chat"]
    log = tmp_path / "out" / "lost" / "raw" / "log.txt"
    assert str(log) in done.err
    assert "Traceback (most recent call last)" in log.read_text()
    assert "could not be loaded" in log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(swept, tmp_path):
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m")
    done = as_process(*launch, "ctx_models.cli", *command(tmp_path), ACCELERATE_USE_CPU="true")
    assert done.code == 0, done.err
    single, double = answers(swept[0] / "out"), answers(tmp_path / "out")
    assert single.keys() == double.keys()
    for key, lines in single.items():
        assert sorted(map(str, lines)) == sorted(map(str, double[key])), key
