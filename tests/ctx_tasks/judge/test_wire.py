"""Trouble between us and the judge: tried again, waited for, missing, or the end."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from typing import Any

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.results import read_runs, read_samples
from tests.ctx_tasks import mt_bench_data as data
from tests.ctx_tasks.judge.asking import ask, by_number, number
from tests.ctx_tasks.result_files import read_lines
from tests.judge_server import Answer, fail, say, serve, truncated


def once(trouble: Answer) -> Any:
    """Every answer meets `trouble` the first time it is asked about."""
    met: set[int] = set()

    def script(n: int, body: dict[str, Any]) -> Answer:
        which = number(body)
        if which not in met:
            met.add(which)
            return trouble
        return by_number(n, body)

    return script


TROUBLE = {
    "rate limit": fail(429),
    "rate limit with Retry-After": fail(429, retry_after="0.2"),
    "server error": fail(500),
    "overloaded": fail(503),
    "broken connection": truncated(),
    "no JSON": Answer(b"<html>busy</html>"),
    "JSON of another kind": Answer(b'{"choices": "none"}'),
    "no choices": Answer(b'{"choices": []}'),
    "no bytes": Answer(b""),
    "no UTF-8": Answer(b'{"choices": [{"message": {"content": "\xff"}}]}'),
    "no text": say(None),
    "no rating": say("I would rather not."),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_met_by_another_try(name, answers):
    with serve(once(TROUBLE[name])) as server:
        done = ask(server, answers, concurrency=8)
    assert done.missing == 0
    assert read_runs(done.written)[0].tasks["mt_bench"].metrics["rating"].value == 4.5
    assert len(server.bodies) == 16


def test_retry_after_is_waited_for(tmp_path):
    path = data.write_answers(tmp_path / "out", 1, data=data.write_all(tmp_path / "data", 4))
    with serve(once(fail(429, retry_after="1.2"))) as server:
        ask(server, path)
    # The client's own first wait would be half a second at most.
    assert server.times[1] - server.times[0] >= 1.2


def test_a_slow_judge_is_waited_for_and_a_silent_one_is_not(tmp_path):
    path = data.write_answers(tmp_path / "out", 4, data=data.write_all(tmp_path / "data", 4))
    silent = 60.0

    def script(n: int, body: dict[str, Any]) -> Answer:
        return say("[[5]]", seconds=silent if number(body) == 0 else 0.2)

    with serve(script) as server:
        start = time.monotonic()
        done = ask(server, path, timeout=1.5, retries=0)
        assert time.monotonic() - start < silent / 2
    assert done.missing == 1
    assert done.problems == "1 × no whole reply within 1.5 s"


def test_the_timeout_is_one_for_the_whole_reply(tmp_path):
    path = data.write_answers(tmp_path / "out", 2, data=data.write_all(tmp_path / "data", 4))
    drip = 0.05
    whole = drip * len(say("[[5]]").body)
    error = replace(fail(400), drip=1.0)

    def script(n: int, body: dict[str, Any]) -> Answer:
        return say("[[5]]", drip=drip) if number(body) == 0 else error

    with serve(script) as server:
        start = time.monotonic()
        done = ask(server, path, timeout=1.0, retries=0)
        assert time.monotonic() - start < whole / 2
    assert done.problems == "2 × no whole reply within 1 s"


def test_a_reply_that_drips_is_asked_for_again_as_often_as_was_said(tmp_path):
    path = data.write_answers(tmp_path / "out", 1, data=data.write_all(tmp_path / "data", 4))
    with serve(once(say("[[5]]", drip=0.5))) as server:
        assert ask(server, path, timeout=1.0, retries=1).missing == 0
    assert len(server.bodies) == 2


LASTING = {
    "HTTP 500": (fail(500), "2 × HTTP 500, such as .*failed with 500.*"),
    "HTTP 400": (fail(400), "2 × HTTP 400, such as .*failed with 400.*"),
    "refusal": (
        say("I cannot rate this."),
        r"2 × no single \[\[n\]\], such as 'I cannot rate this\.'",
    ),
    "garbage": (Answer(b"\x00<b>[red]busy"), r"2 × no chat completion, such as \?<b>\[red\]busy"),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_missing_and_never_a_score(name, answers):
    trouble, why = LASTING[name]

    def script(n: int, body: dict[str, Any]) -> Answer:
        return trouble if number(body) < 2 else say("[[8]]")

    with serve(script) as server:
        done = ask(server, answers, retries=0)
        asked = len(server.bodies)
        again = ask(server, answers, retries=0)
    assert (done.questions, done.missing) == (8, 2)
    assert re.fullmatch(why, done.problems)
    # Asked again: what is missing alone.
    tries = 1 if name.startswith("HTTP") else 3
    assert asked == 6 + 2 * tries
    assert len(server.bodies) - asked == 2 * tries
    assert again.written == done.written
    result = read_runs(done.written)[0].tasks["mt_bench"]
    assert result.n == 6
    assert result.metrics["rating"].value == 8.0
    assert result.metrics["missing"].value == 2
    assert result.metrics["rating_writing"].value == 8.0  # question 4 alone
    scores = read_samples(result).scores["rating"]
    assert [math.isnan(score) for score in scores] == [True] * 2 + [False] * 6


def test_without_any_rating_the_result_is_no_number(answers):
    with serve(lambda n, body: say("Well.")) as server:
        done = ask(server, answers)
    assert done.missing == 8
    result = read_runs(done.written)[0].tasks["mt_bench"]
    assert math.isnan(result.metrics["rating"].value)
    assert result.metrics["missing"].value == 8
    assert result.n == 0


def test_every_reason_is_counted(answers):
    def script(n: int, body: dict[str, Any]) -> Answer:
        which = number(body)
        if which == 0:
            return fail(400)
        return say("Well.") if which < 4 else say("[[8]]")

    with serve(script) as server:
        done = ask(server, answers, retries=0, concurrency=1)
    assert done.missing == 4
    said = "3 × no single [[n]], such as 'Well.'; 1 × HTTP 400, such as "
    assert done.problems.startswith(said)


HOPELESS = {
    "nothing paid": (fail(402), "HTTP 402.*the account"),
    "wrong key": (fail(401), "refuses model judge-model .HTTP 401.*OPENAI_API_KEY"),
    "unknown model": (fail(404), "HTTP 404"),
    "no money": (fail(429, "insufficient_quota"), "HTTP 429"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_no_other_request_would_change_stops_at_once(name, answers):
    trouble, message = HOPELESS[name]
    with (
        serve(lambda n, body: trouble) as server,
        pytest.raises(UserError, match=message) as caught,
    ):
        ask(server, answers, concurrency=1, retries=0)
    assert len(server.bodies) == 1
    assert "\n" not in str(caught.value)
    assert not list(answers.parent.glob("results_*-????????.json"))


def test_verdicts_before_a_stop_are_kept(answers):
    def script(n: int, body: dict[str, Any]) -> Answer:
        return by_number(n, body) if n < 3 else fail(401)

    with serve(script) as server, pytest.raises(UserError, match="401"):
        ask(server, answers, concurrency=1)
    kept = read_lines(answers.parent / "verdicts.jsonl")
    assert [one["rating"] for one in kept] == [1.0, 2.0, 3.0]


def test_a_judge_that_is_not_there(answers):
    with serve(by_number) as server:
        pass
    with pytest.raises(UserError, match="cannot be reached .*start it, or give its base URL"):
        ask(server, answers, retries=0)


def test_several_requests_are_under_way_but_no_more_than_asked_for(answers):
    def script(n: int, body: dict[str, Any]) -> Answer:
        return say("[[5]]", seconds=0.2)

    with serve(script) as server:
        ask(server, answers, concurrency=4)
    assert server.most_at_once == 4
