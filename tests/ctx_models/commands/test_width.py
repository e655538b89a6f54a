"""At any width, and in a pipe, each command's tables name every row and keep every digit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from ctx_models import cli
from ctx_tasks.tables import WIDTH
from tests.ctx_tasks import mt_bench_data
from tests.ctx_tasks.result_files import sample, write_run
from tests.judge_server import say, serve

MODEL = "組織/[red]a-checkpoint-with-a-name-of-more-than-60-characters[IND]🔥-and-no-blank\x1b[31m"
TASKS = [
    "squad_contains",
    "a task of my own with blanks and a name of more than sixty characters [bold]",
    "another_task_of_my_own_without_blanks_and_more_than_sixty_characters",
    *(f"task_{name}" for name in ("one", "two", "three", "four", "five", "six")),
]
SCORES = {
    task: [float(n % (place + 2) == 0) for n in range(40)] for place, task in enumerate(TASKS)
}

Command = Callable[..., str]
at_any_width = pytest.mark.parametrize("width", [60, 80, 120, 250, None])


@pytest.fixture
def command(monkeypatch, capsys) -> Command:
    """Runs a command with lines of a width (None: piped), checks them, gives what it printed."""

    def run(width: int | None, *arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setenv("COLUMNS", str(width or ""))
        with pytest.raises(SystemExit) as done:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert done.value.code == code, err
        tables = re.findall(r"^ .*$", out, re.MULTILINE)
        assert len(tables) > 2
        assert all(cell_len(line) <= (width or WIDTH) for line in tables)
        assert all(line == line.rstrip() for line in out.split("\n"))
        assert "\x1b" not in out
        return out

    return run


def letters(text: str) -> str:
    """What a folded name keeps in its order, without the numbers and blanks between its parts."""
    kept = re.sub(r"\de-\d+", "", text)
    return "".join(c for c in kept if c.isalpha() or c == "🔥")


def write(folder: Path, *, flipped: bool = False, chat: bool = False) -> Path:
    tasks = {
        task: [sample(1 - score if flipped else score, n) for n, score in enumerate(scores)]
        for task, scores in SCORES.items()
    }
    return write_run(folder, tasks, model=MODEL, chat=chat)


@at_any_width
def test_leaderboard(width, command, tmp_path):
    write(tmp_path / "raw")
    write(tmp_path / "chat", chat=True, flipped=True)
    out = command(width, "leaderboard", tmp_path, "--unbegun-tax")
    # Below the tables notes name the model, too.
    shown = out.partition("\nBold: ")[0]
    tables = len(re.findall(r"^ ─+$", shown, re.MULTILINE))
    assert letters(shown).count(letters(MODEL)) == tables
    assert 1 <= len(re.findall(r"^  raw", shown, re.MULTILINE)) < tables  # no tax of its own
    assert len(re.findall(r"\d\.\d\d ±\.\d\d", shown)) == 2 * len(TASKS)
    assert len(re.findall(r"[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]", shown)) >= 1


@at_any_width
def test_compare(width, command, tmp_path):
    out = command(width, "compare", write(tmp_path / "a"), write(tmp_path / "b", flipped=True))
    for task in TASKS:
        assert letters(task) in letters(out)
    assert len(re.findall(r"[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]", out)) == len(TASKS)
    assert out.count("…") == 0


@at_any_width
def test_gate(width, command, tmp_path):
    old, new = write(tmp_path / "a"), write(tmp_path / "b", flipped=True)
    out = command(width, "gate", "--baseline", old, new, code=2)
    verdicts = r"(?<=  )(pass|regression|inconclusive)$"
    for task in TASKS:
        assert letters(task) in letters(re.sub(verdicts, "", out, flags=re.MULTILINE))
    assert len(re.findall(verdicts, out, re.MULTILINE)) == len(TASKS)


@at_any_width
def test_judge(width, command, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback-0123456789abcdef")
    material = mt_bench_data.write_all(tmp_path / "data")
    answers = mt_bench_data.write_answers(
        tmp_path / "out", data=material, model_args={"pretrained": MODEL}
    )
    with serve(lambda n, body: say("[[5]]")) as server:
        options = ["--model", "m", "--base-url", server.url, "--yes"]
        out = command(width, "judge", answers, *options)
    # The first heading, "mt_bench, rated 1 to 10", stands beside the last lines of the name.
    assert letters(MODEL) in letters(out).replace("mtbench", "").replace("ratedto", "")
    assert "5.00 ±.00" in out


@pytest.mark.slow
def test_attention(command, tmp_path):
    models = ["nano-chat", "nano-chat,alpha=0.5,schedule=constant,steer_generated=true"]
    words = [word for name in models for word in ("--model_args", f"pretrained={name}")]
    grid = ["--max_length", "300", "--lengths", "2", "--depths", "1", "--device", "cpu"]
    out = command(60, "attention", *words, *grid, "-o", tmp_path)
    for name in models:
        assert letters(name) in letters(out)
    assert len(re.findall(r"[+-]?\d\.\d{3} ±\.\d{3}", out)) == 2 * 4
