"""`ctx-eval tune --at-most mt_bench=0.2`: answers are rated by a judge on loopback as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import Done, ctx_eval
from tests.ctx_tasks import mt_bench_data as data
from tests.judge_server import Answer, Server, prompt, say, serve

pytestmark = pytest.mark.slow

QUESTIONS = 16


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback-0123456789abcdef")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def tune(folder: Path, server: Server, **judge: Any) -> Done:
    material = data.write_all(folder / "data", QUESTIONS)
    metadata = {
        "questions": QUESTIONS,
        "mt_bench_files": str(material),
        "judge_model": "m",
        "judge_base_url": server.url,
        "judge_retries": 0,
        **({"judge_yes": True} | judge),
    }
    return ctx_eval(
        *("tune", "--tasks", "nano_squad_contains", "--at-most", "mt_bench=0.2"),
        *("--alphas", "none", "--metadata", json.dumps(metadata), "--device", "cpu"),
        *("--batch-size", "8", "-o", folder / "out"),
        COLUMNS="200",
    )


def rating(text: str) -> int:
    """What the judge thinks of an answer."""
    return 1 + len(text) % 10


def by_length(_: int, body: dict[str, Any]) -> Answer:
    return say(f"[[{rating(prompt(body))}]]")


def rated(folder: Path, arm: str) -> dict[str, float]:
    """The ratings of an arm by document."""
    files = folder.rglob(f"{arm}/samples_mt_bench_*-*-*-*-*-*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {line["doc_hash"]: line["rating"] for line in lines}


def test_the_loss_is_that_of_the_ratings_and_nothing_is_asked_twice(tmp_path):
    with serve(by_length) as server:
        done = tune(tmp_path, server)
        assert done.code == 0, done.err
        asked = len(server.bodies)
        again = tune(tmp_path, server)
        assert (again.code, len(server.bodies)) == (0, asked)
    assert "answers, to MT-Bench rated by m." in done.out
    assert "loss: mt_bench" in done.out
    [found] = json.loads((tmp_path / "out" / "tune.json").read_text())
    [candidate] = found["candidates"]
    choosing = tmp_path / "out" / ".choosing"
    none = rated(choosing, "chat")
    other = rated(choosing, "chat-instruction-Answer-from-the-passage-only")
    assert len(none) == QUESTIONS / 2
    assert none.keys() == other.keys()
    assert not none.keys() & rated(tmp_path / "out" / "nano-chat", "chat").keys()
    lost = np.array([none[one] - other[one] for one in none])
    loss = candidate["losses"]["mt_bench"]
    assert loss["n"] == len(lost)
    # A mean is of two documents more, neither lost nor won (`ctx_tasks.gate.loss`).
    assert loss["mean"] * (loss["n"] + 2) == pytest.approx(lost.sum())
    assert lost.any()
    # The bound of so few ratings is far beyond 0.2.
    assert candidate["state"] in ("too dear", "not shown")
    kept = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    assert len(kept) == asked


def test_what_the_judge_did_not_rate_is_asked_the_next_time_and_no_answer_is_made_again(tmp_path):
    def silent_after_three(number: int, body: dict[str, Any]) -> Answer:
        return by_length(number, body) if number < 3 else say("I pass.")

    with serve(silent_after_three) as server:
        done = tune(tmp_path, server, judge_concurrency=1)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert "answers in " in last
    assert "got no rating (" in last
    assert "repeat the command, which asks for what is missing alone" in last
    made = {cell: cell.stat().st_mtime_ns for cell in (tmp_path / "out").rglob("cell.json")}
    assert made
    with serve(by_length) as server:
        # Where the judge is served is part of what a verdict depends on.
        done = tune(tmp_path, server)
    assert done.code == 0, done.err
    assert all(cell.stat().st_mtime_ns == when for cell, when in made.items())


def test_what_the_judge_may_cost_is_of_the_whole_command(tmp_path):
    prices = {"judge_price_in": 1e4, "judge_price_out": 1e4}
    with serve(by_length) as server:
        done = tune(tmp_path, server, judge_yes=False, judge_max_cost=20, **prices)
        assert done.code == 2
        asked = len(server.bodies)
    # Each verdict costs $1.10; the estimate of the next ones is more.
    assert 0 < asked < 20
    assert "which together is more than judge_max_cost 20" in done.err.splitlines()[-1]
