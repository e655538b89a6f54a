"""`ctx-eval tune` on the bundled models: what it writes, resuming, mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

from ctx_models import nano
from ctx_tasks import columns
from ctx_tasks.results import read_runs
from tests.commands import Done, ctx_eval, words
from tests.ctx_models import offline_tasks

METADATA = json.dumps({"questions": 16, "lengths": 2, "depths": 2, "max_length": 300})
TINY = (
    *("tune", "--tasks", "nano_squad_contains", "--at-most", "nano_by_heart=1"),
    *("--alphas", "0.01", "--schedules", "constant", "--metadata", METADATA),
    *("--batch-size", "8", "--device", "cpu"),
)


def tune(output: Path, *arguments: str) -> Done:
    return ctx_eval(*TINY, "-o", output, *arguments)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("tune") / "out"
    return folder, tune(folder)


def outcome(folder: Path) -> dict:
    [found] = json.loads((folder / "tune.json").read_text())
    return dict(found)


def test_the_cost_is_said_before_and_the_verdict_after(tuned):
    folder, done = tuned
    assert done.code == 0, done.err
    first, *_ = done.out.splitlines()
    # No [IND] in nano-chat's tokenizer.
    assert first.startswith("nano-chat: 2 candidates (2 on 0.25, 1 on 0.5, 1 on 1 of the choosing")
    found = outcome(folder)
    assert found["chosen"] == "none"
    assert "nano-chat: none. The best of 2 candidates" in done.out
    assert found["command"] in done.out
    assert {one["state"] for one in found["candidates"]} == {"dropped", "not shown"}
    assert found["candidates"][0]["documents"] > found["candidates"][-1]["documents"]


def test_the_leaderboard_shows_the_reporting_half_alone(tuned):
    folder, _ = tuned
    runs = read_runs([folder])
    assert {(run.arm.prefix, run.arm.name.split(",")[0]) for run in runs} == {
        (True, "chat"),
        (False, "chat"),
    }
    [squad] = [run.tasks["nano_squad_contains_prefix"] for run in runs if run.arm.prefix]
    assert squad.n == 8
    done = ctx_eval("leaderboard", folder)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_group_is_a_price_over_all_its_documents(tmp_path):
    """As `mmlu` is: documents count alike, whatever the size of their task."""
    group, tasks = "nano_context_awareness", [one.named("nano") for one in columns.CONTEXT]
    prices = [word for name in (group, *tasks) for word in ("--at-most", f"{name}=1")]
    metadata = json.dumps({**json.loads(METADATA), "lengths": 3, "depths": 4})
    done = tune(tmp_path, "--instruction", "none", "--metadata", metadata, *prices)
    assert done.code == 0, done.err
    losses = outcome(tmp_path)["candidates"][0]["losses"]
    # A mean is of two documents more, neither lost nor won (`ctx_tasks.gate.loss`).
    lost = {name: losses[name]["mean"] * (losses[name]["n"] + 2) for name in (group, *tasks)}
    assert losses[group]["n"] == sum(losses[name]["n"] for name in tasks)
    assert lost[group] == pytest.approx(sum(lost[name] for name in tasks))
    assert any(lost.values())


def test_a_task_of_the_users_own_is_a_price(tmp_path):
    own = ("--include_path", str(offline_tasks.FOLDER), "--at-most", "toy_choice=0.1")
    done = tune(tmp_path, *own, "--instruction", "none")
    assert done.code == 0, done.err
    assert outcome(tmp_path)["candidates"][0]["losses"]["toy_choice"]["n"] == 3
    assert f"--include_path {offline_tasks.FOLDER}" in done.out
    done = tune(tmp_path, "--include_path", "nowhere")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "include_path nowhere is no folder" in done.err


def test_choosing_and_reporting_share_no_document(tuned):
    folder, _ = tuned
    chosen, reported = set(), set()
    for file in folder.rglob("samples_nano_squad*"):
        hashes = {json.loads(line)["doc_hash"] for line in file.read_text().splitlines()}
        (chosen if ".choosing" in file.parts else reported).update(hashes)
    assert len(chosen) == len(reported) == 8
    assert not chosen & reported


def test_the_same_command_again_runs_nothing(tuned):
    folder, before = tuned
    records = {path: path.stat().st_mtime_ns for path in folder.rglob("cell.json")}
    done = tune(folder)
    assert done.out == before.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("cell.json")} == records


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_as_if_nothing_had_been(tuned, tmp_path):
    line = words("ctx_models.cli", *TINY, "-o", tmp_path / "out")
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "out").rglob("cell.json"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("[!.]*/cell.json")}
    assert tune(tmp_path / "out").code == 0
    whole, again = outcome(tuned[0]), outcome(tmp_path / "out")
    assert again["candidates"] == whole["candidates"]
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())


@pytest.mark.slow
def test_a_remedy_that_helps_is_chosen_and_reported_beside_what_it_seemed(tmp_path):
    """Told of nothing but [IND], nano-chat-ind gains where it begins its answers itself."""
    metadata = json.dumps({"questions": 160})
    done = tune(
        tmp_path,
        *("--model_args", "pretrained=nano-chat-ind", "--alphas", "none", "--instruction", "none"),
        *("--unbegun", "--metadata", metadata),
    )
    assert done.code == 0, done.err
    found = outcome(tmp_path)
    assert found["chosen"] == "chat, [IND]"
    assert found["seemed"]["mean"] > 0
    assert found["gain"]["low"] > 0
    assert set(found["tasks"]) == {"nano_squad_contains"}
    assert "indicator=[IND]" in found["command"]
    assert "it seemed" in done.out
    assert len(read_runs([tmp_path])) == 2


HEADS = (
    *("tune", "--heads", "--alphas", "0.05", "--layers", "1", "--count", "1"),
    *("--tasks", "nano_nih_recall", "--device", "cpu", "--batch-size", "8"),
    *("--metadata", json.dumps({"lengths": 2, "depths": 4, "max_length": 300})),
)


def test_what_ranking_heads_takes_is_said_before_it_starts(tmp_path):
    def answers(*arguments: str) -> int:
        done = ctx_eval(*HEADS, "-o", tmp_path, "--dry-run", *arguments)
        assert done.code == 0, done.err
        assert done.out.startswith("nano-chat: 3 layers, then ")
        return int(done.out.split()[-2])

    assert answers() < answers("--layers", "3")
    assert not list(tmp_path.iterdir())


def test_a_model_of_32_x_32_heads_fits_a_night(tmp_path):
    """No model is loaded for the sum: 800 documents of the choosing half, one answer in 0.4 s."""
    big = tmp_path / "big"
    shutil.copytree(nano.folder("nano-chat"), big)
    config = json.loads((big / "config.json").read_text())
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}
    (big / "config.json").write_text(json.dumps({**config, **shape}))
    arguments = ("tune", "--heads", "--alphas", "0.5", "--tasks", "nano_context_awareness")
    done = ctx_eval(*arguments, "--model_args", f"pretrained={big}", "--dry-run", "-o", tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("big: 32 layers, then 4 x 32 heads, 290 runs, at most ")
    assert int(done.out.split()[-2]) * 0.4 < 8 * 3600


@pytest.mark.slow
def test_heads_are_ranked_after_layers_and_held_against_attention_and_all(tmp_path):
    done = ctx_eval(*HEADS, "-o", tmp_path)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "heads-tune.json").read_text())
    assert len(found["layers"]) == 3
    assert {one["layer"] for one in found["heads"]} == {found["layers"][0]["layer"]}
    assert list(found["sets"]) == ["by effect", "by attention", "all heads"]
    best = found["heads"][0]
    assert json.loads((tmp_path / "heads.json").read_text()) == {str(best["layer"]): [best["head"]]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # It is looked for among all of the harness's tasks.
        pytest.param(
            *(("--at-most", "mmul=0.01"), "there is no task 'mmul' (did you mean"),
            marks=pytest.mark.slow,
        ),
        (("--at-most", "nano_by_heart"), "nano_by_heart is not TASK=LOSS, such as mmlu=0.01"),
        (("--at-most", "nano_by_heart=-1"), "what may be lost is 0 or more"),
        (("--at-most", "mt_bench=0.1"), "mt_bench is rated by a judge: name it in --metadata as"),
        (("--tasks", "mt_bench"), "mt_bench is no context task; what it may lose is --at-most"),
        (("--at-most", "mt_bench_2turn=0.1"), "goes on from the first answers of one arm"),
        (
            ("--metadata", '{"judge_model": "m", "judge_base_url": "http://127.0.0.1:1/v1"}'),
            "A run does not stop to ask: allow the judge with judge_yes=true",
        ),
        (("--metadata", '{"questions": 2}'), "nano_squad_contains_prefix lie in too few clusters"),
        (("--alphas", "1"), "alpha=1 is off"),
        (("--alphas", "much"), "--alphas much: 'much' is not a number"),
        (("--schedules", "steep"), "schedule 'steep': choose constant or compound"),
        (("--budget", "3"), "--budget 3 is too small: 2 candidates take at least"),
        (("--model_args", "pretrained=nano-chat,alpha=0.5"), "alpha is what is tuned"),
        (("--alphas", "none", "--instruction", "none"), "nano-chat has no candidate"),
        (("--heads", "--alphas", "0.5,0.3"), "--heads steers in one way: give one alpha"),
        (("--heads", "--alphas", "0.5", "--schedules", "constant"), "which takes a needle test"),
        (("--metadata", "{"), "--metadata { is not JSON"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(tmp_path, arguments, said):
    done = tune(tmp_path / "out", *arguments)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_steered_is_refused_with_what_can_be_done(tmp_path):
    folder = tmp_path / "mamba"
    tokenizer = AutoTokenizer.from_pretrained(nano.folder("nano-chat"))
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4
    )
    MambaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    done = tune(tmp_path / "out", "--model_args", f"pretrained={folder}")
    assert done.code == 2
    assert "mamba cannot be run as chat, α 0.01 constant" in done.err
    assert "Without steering: --alphas none." in done.err
