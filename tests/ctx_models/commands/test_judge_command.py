"""`ctx-eval judge`, and judging at the end of a run, as a user meets them."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctx_models import nano
from ctx_tasks.results import read_runs
from tests.commands import Done, as_process, ctx_eval, words
from tests.ctx_tasks import mt_bench_data as data
from tests.judge_server import Answer, Server, prompt, say, serve


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback-0123456789abcdef")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def answers(tmp_path) -> Path:
    return data.write_answers(tmp_path / "out", data=data.write_all(tmp_path / "data"))


def five(_: int, body: dict[str, Any]) -> Answer:
    return say("Rating: [[5]]")


def judge(server: Server, *arguments: object) -> Done:
    asked = ("--model", "m", "--base-url", server.url, "--retries", "0")
    return ctx_eval("judge", *arguments, *asked, COLUMNS="200")


def test_ratings_are_shown_and_written(answers):
    with serve(five) as server:
        code, out, err = judge(server, answers.parent, "--yes")
    assert code == 0
    assert "ctx-eval: judging by m: 8 requests, about " in err
    assert "ctx-eval: the judge read 800 tokens and wrote 80." in err
    assert re.search(r"rating\W+5\.00 ±\.00", out)
    assert re.search(r"missing\W+0", out)
    [path] = re.findall(r"^Wrote (.*)$", out, re.MULTILINE)
    assert read_runs([Path(path)])[0].tasks["mt_bench"].metrics["rating"].value == 5.0


def test_missing_ratings_are_an_error_after_all_is_written(answers):
    mended = threading.Event()

    def script(n: int, body: dict[str, Any]) -> Answer:
        refused = "answer 3." in prompt(body) and not mended.is_set()
        return say("I pass." if refused else "[[5]]")

    with serve(script) as server:
        code, out, err = judge(server, answers, "--yes")
        assert code == 2
        assert err.splitlines()[-1] == (
            "ctx-eval: 1 of 8 answers got no rating (1 × no single [[n]], such as 'I pass.'): "
            "repeat the command, which asks for what is missing alone, or name a judge that ends "
            "with [[n]], n from 1 to 10."
        )
        [path] = re.findall(r"^Wrote (.*)$", out, re.MULTILINE)
        assert read_runs([Path(path)])[0].tasks["mt_bench"].metrics["missing"].value == 1
        mended.set()
        second = judge(server, answers)
        assert second.code == 2  # one request still needs a word
        assert "Judging takes 1 request," in second.err
        third = judge(server, answers, "--yes")
    assert third.code == 0
    assert "missing" in third.out


# arguments, and the sentence; none of them sends a request
REFUSED: dict[str, tuple[list[str], str]] = {
    "nobody to ask": ([], "Judging takes 8 requests, .*allow it with --yes, or with --max-cost"),
    "too dear": (
        ["--price-in", "30", "--price-out", "60", "--max-cost", "0.01"],
        r"would cost about \$0\.1\d, more than max_cost 0\.01",
    ),
    "limit without prices": (["--max-cost", "1"], "max_cost needs price_in and price_out"),
    "no prompts": (["--files", "nowhere"], "nowhere, which does not exist"),
    "repeats": (["--repeats", "0"], "repeats is a whole number of at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_asked_before_all_is_agreed(name, answers):
    arguments, message = REFUSED[name]
    with serve(five) as server:
        done = judge(server, answers, *arguments)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("ctx-eval: ")
    assert re.search(message, last)
    assert not server.bodies


def test_a_limit_above_the_estimate_needs_no_word(answers):
    prices = ["--price-in", "30", "--price-out", "60"]
    with serve(five) as server:
        assert judge(server, answers, *prices, "--max-cost", "5").code == 0
    assert len(server.bodies) == 8


def test_two_files_are_compared_and_foreign_names_are_no_markup(tmp_path):
    material = data.write_all(tmp_path / "data")
    paths = [
        data.write_answers(
            tmp_path / str(n), data=material, model_args={"pretrained": name}, answer=name
        )
        for n, name in enumerate(["[red]one", "[/red]two"])
    ]

    def script(n: int, body: dict[str, Any]) -> Answer:
        return say("[[4]]" if "one" in prompt(body) else "[[6]]")

    with serve(script) as server:
        done = judge(server, *paths, "--yes")
    assert done.code == 0
    assert "mt_bench: [/red]two (chat) against [red]one (chat): +2.00 ± " in done.out


@pytest.mark.slow
def test_a_killed_run_goes_on_without_paying_twice(tmp_path):
    path = data.write_answers(tmp_path / "out", 40, data=data.write_all(tmp_path / "data", 40))
    verdicts = path.parent / "verdicts.jsonl"

    def script(n: int, body: dict[str, Any]) -> Answer:
        return say("[[5]]", seconds=0.2)

    with serve(script) as server:
        asked = ("--model", "m", "--base-url", server.url, "--yes", "--concurrency", "4")
        run = ("ctx_models.cli", "judge", path, *asked)
        first = subprocess.Popen(words(*run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not verdicts.exists() or verdicts.read_bytes().count(b"\n") < 10:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept, asked = verdicts.read_bytes().count(b"\n"), len(server.bodies)
        assert 10 <= kept < 40
        # Only what was under way when it was killed is lost.
        assert asked - kept <= 4
        assert not list(path.parent.glob("results_*-????????.json"))
        done = as_process(*run)
        assert done.code == 0, done.err
        assert len(server.bodies) - asked == 40 - kept
    assert "40 answers" not in done.err
    assert f"{40 - kept} requests" in done.err


# ---- a run that is judged at once ----------------------------------------------------------------

RUN = ["run", "--model", "hf-ctx", "--model_args", "pretrained=nowhere", "--tasks", "mt_bench"]
KEPT = ["--log_samples", "--output_path", "results"]
EARLY: dict[str, tuple[list[str], str]] = {
    "answers lost": ([], "add --log_samples --output_path FOLDER"),
    "unknown setting": (
        [*KEPT, "--metadata", "judge_modle=m"],
        "unknown key 'judge_modle': did you mean judge_model?",
    ),
    "key as setting": ([*KEPT, "--metadata", "judge_api_key=sk-1"], "variable OPENAI_API_KEY"),
    "no consent": (
        [*KEPT, "--metadata", "judge_model=m"],
        "judge_yes=true, or with judge_max_cost",
    ),
}


@pytest.mark.parametrize("name", EARLY)
def test_a_run_says_before_the_model_loads_what_the_judge_lacks(name):
    """`pretrained=nowhere` would be the next error."""
    arguments, message = EARLY[name]
    done = ctx_eval(*RUN, *arguments)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert message in last
    assert "sk-1" not in last


def arguments(folder: Path, tasks: str, metadata: dict[str, Any]) -> tuple[object, ...]:
    """Of `ctx-eval` for a run of the bundled model."""
    return (
        *("run", "--model", "hf-ctx", "--model_args", "pretrained=nano-chat", "--tasks", tasks),
        *("--apply_chat_template", "--log_samples", "--output_path", folder / "out"),
        *("--metadata", json.dumps({"mt_bench_files": str(folder / "data"), **metadata})),
        *("--gen_kwargs", "max_gen_toks=12", "--device", "cpu"),
    )


def test_a_run_with_a_judge_is_judged_when_it_is_written(tmp_path):
    """Other tasks of the run keep their scores in the run's own file."""
    data.write_all(tmp_path / "data")
    with serve(five) as server:
        judged = {"judge_model": "m", "judge_base_url": server.url, "judge_yes": True}
        given = arguments(tmp_path, "mt_bench,nano_by_heart", {**judged, "questions": 3})
        done = ctx_eval(*given)
    assert done.code == 0, done.err
    assert len(server.bodies) == 8
    runs = read_runs([tmp_path / "out"])
    assert sorted(task for run in runs for task in run.tasks) == ["mt_bench", "nano_by_heart"]
    assert {run.checkpoint for run in runs} == {"nano-chat"}
    assert "sk-loopback" not in done.out + done.err


def test_a_run_without_a_judge_says_so_and_keeps_the_answers(tmp_path):
    data.write_all(tmp_path / "data")
    done = ctx_eval(*arguments(tmp_path, "mt_bench", {}))
    assert done.code == 0, done.err
    assert "no judge_model in --metadata: the answers to MT-Bench are only saved" in done.err
    with serve(five) as server:
        assert judge(server, tmp_path / "out", "--yes").code == 0


def over_two_processes(*arguments: object) -> Done:
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m")
    return as_process(*launch, "ctx_models.cli", *arguments, ACCELERATE_USE_CPU="true")


@pytest.mark.slow
def test_two_processes_answer_both_turns_and_one_asks_the_judge(tmp_path):
    data.write_all(tmp_path / "data", 5)
    with serve(five) as server:
        judged = {"judge_model": "m", "judge_base_url": server.url, "judge_yes": True}
        first = over_two_processes(*arguments(tmp_path, "mt_bench", judged))
        assert first.code == 0, first.err
        assert len(server.bodies) == 5
        judged["mt_bench_first"] = str(tmp_path / "out")
        second = over_two_processes(*arguments(tmp_path, "mt_bench_2turn", judged))
        assert second.code == 0, second.err
    assert len(server.bodies) == 10
    tasks = {
        task: found for run in read_runs([tmp_path / "out"]) for task, found in run.tasks.items()
    }
    assert (tasks["mt_bench"].n, tasks["mt_bench_2turn"].n) == (5, 5)


# ---- a judge that cannot judge -------------------------------------------------------------------


@contextmanager
def transformers_serve(log: Path) -> Iterator[str]:
    """`transformers serve` with the bundled model, on loopback; yields its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = ["serve", str(nano.folder("nano-chat")), "--host", "127.0.0.1", "--port", str(port)]
    launcher = Path(sys.executable).with_name("transformers")
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(launcher), *served, "--device", "cpu"], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_the_bundled_model_as_a_judge_rates_nothing(tmp_path):
    """80 answers, none rated: said so, with how to mend it, and not counted as a score."""
    path = data.write_answers(tmp_path / "out", 80, data=data.write_all(tmp_path / "data", 80))
    with transformers_serve(tmp_path / "log") as url:
        done = ctx_eval(
            *("judge", path, "--model", str(nano.folder("nano-chat")), "--base-url", url, "--yes"),
            *("--max-tokens", "30"),
        )
    assert done.code == 2, done.err
    last = done.err.splitlines()[-1]
    assert "80 of 80 answers got no rating (80 × no single [[n]], such as " in last
    assert "repeat the command" in last
    assert "name a judge that ends with [[n]]" in last
    [judged] = path.parent.glob("results_*-????????.json")
    result = read_runs([judged])[0].tasks["mt_bench"]
    assert result.n == 0
    assert result.metrics["missing"].value == 80
    assert math.isnan(result.metrics["rating"].value)
