"""The bars of a run of many evaluations, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from ctx_models import progress
from ctx_models.progress import Progress


class Terminal(io.StringIO):
    """A screen that keeps all that was drawn."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that the module reads, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr("ctx_models.progress.time.monotonic", lambda: now[0])
    return now


def test_each_distinct_thing_is_told_once(capsys):
    with progress.shown(3) as bar:
        for text in ("once", "once", "twice", "once"):
            bar.say(text)
    said = capsys.readouterr().err
    assert said.count("once\n") == said.count("twice\n") == 1


def test_documents_of_all_evaluations_are_one_bar_and_the_one_that_runs_stands_below():
    screen = Terminal()
    bar = Progress(40, screen)
    with bar.evaluation("chat: raw", 20):
        bar.advance(5)
    with bar.evaluation("chat: chat", 20):
        bar.advance(10)
        said = screen.getvalue()
    bar.close()
    assert "chat: raw: 0/20 documents" in said
    assert "chat: chat: 0/20 documents" in said
    # The first is done, whatever its model told.
    assert "40/40 documents" in screen.getvalue()


def test_in_a_log_there_is_a_line_a_minute(clock):
    log = io.StringIO()
    bar = Progress(100, log)
    with bar.evaluation("chat: raw", 100):
        for _ in range(50):
            clock[0] += 6
            bar.advance(2)
        said = log.getvalue().splitlines()
    bar.close()
    assert [line.count("\r") for line in said] == [0] * 4
    assert "22/100 documents" in said[0]
    assert "chat: raw: 22/100 documents" in said[0]
    assert "100/100 documents" in log.getvalue().splitlines()[-1]


def test_what_was_kept_is_done_but_not_fast():
    bar = Progress(100, io.StringIO())
    bar.skip(60)
    assert (bar._whole.n, bar._whole.initial) == (60, 60)
    bar.advance(10)
    assert bar._whole.format_dict["n"] == 70


def test_a_model_s_requests_advance_it_by_documents(capsys):
    with progress.shown(10) as bar, bar.evaluation("chat", 10):
        with progress.requests(8, 10, "loglikelihood", quiet=True) as done:
            done(4, kept=True)
            done(2, kept=False)
        assert (bar._whole.n, bar._whole.initial) == (7.5, 5)


def test_without_bars_requests_are_counted_as_the_harness_does(capsys):
    with progress.requests(8, 8, "generate_until", quiet=False) as done:
        done(8, kept=False)
    assert "Running generate_until requests: 100%" in capsys.readouterr().err
