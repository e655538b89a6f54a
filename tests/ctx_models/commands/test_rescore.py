"""`ctx-eval rescore`: what a changed metric makes of saved samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ctx_tasks.results import read_runs, read_samples
from tests.commands import as_process, ctx_eval

TASKS = "nano_nih_recall,nano_squad_contains"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    metadata = '{"lengths": 2, "depths": 2, "max_length": 300, "questions": 6}'
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--tasks", TASKS, "--metadata", metadata),
        *("--device", "cpu", "--apply_chat_template", "--log_samples", "--output_path", folder),
    )
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def saved(evaluated, tmp_path) -> Path:
    """A results file of its own to rescore."""
    shutil.copytree(evaluated, tmp_path / "out")
    return next((tmp_path / "out").rglob("results_*"))


def lines(path: Path, task: str) -> tuple[Path, list[dict]]:
    file = path.with_name(path.name.replace("results_", f"samples_{task}_") + "l")
    return file, [json.loads(line) for line in file.read_text().splitlines()]


def test_unchanged_samples_keep_every_score(saved):
    before = saved.read_bytes()
    done = ctx_eval("rescore", saved)
    assert done.code == 0, done.err
    assert saved.read_bytes() == before
    [new] = set(saved.parent.glob("results_*")) - {saved}
    content, old = json.loads(new.read_text()), json.loads(before)
    assert content["rescored"]["from"] == saved.name
    for task in TASKS.split(","):
        for key, value in old["results"][task].items():
            assert content["results"][task][key] == pytest.approx(value), key
    [one], [other] = read_runs([saved]), read_runs([new])
    assert (one.arm, one.checkpoint) == (other.arm, other.checkpoint)
    for task in TASKS.split(","):
        assert one.tasks[task].settings == other.tasks[task].settings
        a, b = read_samples(one.tasks[task]), read_samples(other.tasks[task])
        assert a.doc_hashes == b.doc_hashes
        assert {k: v.tolist() for k, v in a.scores.items()} == {
            k: v.tolist() for k, v in b.scores.items()
        }


def test_scores_are_computed_from_the_responses(saved):
    """Scores written by some older metric: all wrong in the file, right again after."""
    file, rows = lines(saved, "nano_squad_contains")
    right = [row["contains"] for row in rows]
    for row in rows:
        row["contains"] = row["score"] = 1 - row["contains"]
    rows[0]["resps"] = [["Certainly not."]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = ctx_eval("rescore", saved)
    assert done.code == 0, done.err
    [new] = set(saved.parent.glob("results_*")) - {saved}
    _, again = lines(new, "nano_squad_contains")
    assert [row["contains"] for row in again] == [0.0, *right[1:]]
    assert again[0]["filtered_resps"] == ["Certainly not."]
    assert "nano_squad_contains: score" in done.out


def test_mistakes_are_one_sentence(saved):
    _, rows = lines(saved, "nano_squad_contains")
    file, _ = lines(saved, "nano_squad_contains")
    for row in rows:
        del row["resps"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = ctx_eval("rescore", saved)
    assert (done.code, "have no response for document 0" in done.err) == (2, True)
    for path in saved.parent.glob("samples_*"):
        path.unlink()
    done = ctx_eval("rescore", saved)
    assert (done.code, "a run with --log_samples can be" in done.err) == (2, True)
    assert as_process("ctx_models.cli", "rescore", saved) == done
    text = saved.read_text().replace("nano_squad_contains", "gone_task")
    saved.write_text(text)
    file.with_name(file.name.replace("nano_squad_contains", "gone_task")).write_text(
        json.dumps({**rows[0], "resps": [["x"]]}) + "\n"
    )
    done = ctx_eval("rescore", saved)
    assert (done.code, "gone_task is not installed" in done.err) == (2, True)
