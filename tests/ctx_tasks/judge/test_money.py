"""What judging costs, what is never paid twice, and the key that stays secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.judge.cost import Estimate, Meter, Price, estimate
from ctx_tasks.judge.endpoint import Options, options
from ctx_tasks.judge.replies import VerdictFile
from ctx_tasks.judge.run import judge
from tests.ctx_tasks.judge.asking import KEY, ask, by_number
from tests.ctx_tasks.result_files import read_lines
from tests.judge_server import Answer, say, serve

# ---- the file of verdicts ------------------------------------------------------------------------


def test_no_verdict_is_paid_for_twice(answers):
    with serve(by_number) as server:
        first = ask(server, answers)
        for paths in ([answers], [answers.parent], [answers.parent.parent], first.written):
            assert ask(server, *paths).written == first.written
        assert len(server.bodies) == 8
        kept = read_lines(answers.parent / "verdicts.jsonl")
        assert kept[0].keys() == {
            *("key", "question", "turn", "repeat", "rating", "reply", "model"),
            *("tokens_in", "tokens_out"),
        }
        assert {one["model"] for one in kept} == {"loopback-judge-1"}
        # Whatever a verdict depends on makes it another one.
        for settings in ({"max_tokens": 7}, {"repeats": 2}):
            before = len(server.bodies)
            ask(server, answers, **settings)
            assert len(server.bodies) == before + 8


def test_a_torn_line_is_cut_off_and_what_follows_is_whole(answers, caplog):
    file = answers.parent / "verdicts.jsonl"
    with serve(by_number) as server:
        ask(server, answers)
        torn = file.read_bytes()[:-30]
        file.write_bytes(torn)
        done = ask(server, answers)
        assert len(server.bodies) == 9
        ask(server, answers)
        assert len(server.bodies) == 9
    assert done.missing == 0
    assert not caplog.records
    assert file.read_bytes().startswith(torn[: torn.rindex(b"\n") + 1])


def test_a_file_of_the_version_that_closed_torn_lines_is_read(answers, caplog):
    file = answers.parent / "verdicts.jsonl"
    with serve(by_number) as server:
        ask(server, answers)
        file.write_bytes(file.read_bytes()[:-30] + b"\n")
        ask(server, answers)
        assert len(server.bodies) == 9
    assert "line 8 is no verdict" in caplog.text


def test_two_judges_never_write_one_file(answers):
    path = answers.parent / "verdicts.jsonl"
    refused = pytest.raises(UserError, match="Another process is writing")
    with serve(by_number) as server, VerdictFile(path), refused:
        ask(server, answers)
    assert not server.bodies


# ---- money ---------------------------------------------------------------------------------------


def test_the_estimate_comes_before_the_first_request_and_counts_what_is_left(answers):
    told: list[Estimate] = []
    prices = {"price_in": 30.0, "price_out": 60.0}

    def refuse(cost: Estimate) -> None:
        told.append(cost)
        raise UserError("no")

    with serve(by_number) as server:
        with pytest.raises(UserError, match="no"):
            ask(server, answers, agree=refuse, **prices)
        assert not server.bodies
        ask(server, answers)
        texts = ["".join(message["content"] for message in b["messages"]) for b in server.bodies]
        ask(server, answers, agree=refuse, **prices)
    [cost] = told
    assert cost == estimate(texts, Price(30.0, 60.0))
    assert cost.requests == 8
    assert cost.tokens_out == 8 * 300
    assert cost.cost == pytest.approx((cost.tokens_in * 30 + 2400 * 60) / 1e6)
    assert cost.sentence().endswith("2,400 out, about $0.15")


def test_judging_stops_where_the_money_ends(answers):
    """Each reply costs $1.1 by what the server reports: the third one is the last."""
    prices = {"price_in": 10_000.0, "price_out": 10_000.0}
    with serve(by_number) as server, pytest.raises(UserError, match=r"cost \$3\.30, which reaches"):
        ask(server, answers, concurrency=1, max_cost=2.5, **prices)
    assert len(server.bodies) == 3
    assert len(read_lines(answers.parent / "verdicts.jsonl")) == 3


def test_replies_that_do_not_say_what_they_cost_are_counted_here(answers):
    """Each costs about its length in bytes by four: the limit stops them as it stops others."""
    price = Price(10_000.0, 10_000.0)

    def unsaid(n: int, body: dict[str, Any]) -> Answer:
        return say("It is so-so. [[5]]", usage=False)

    with serve(unsaid) as server:
        free = ask(server, answers, max_tokens=7)
        each = price.cost(free.meter.tokens_in, free.meter.tokens_out) / 8
        limit = {"max_cost": each * 2.5, "price_in": price.read, "price_out": price.written}
        with pytest.raises(UserError, match="which reaches max_cost"):
            ask(server, answers, concurrency=1, **limit)
    assert len(server.bodies) == 8 + 3
    asked = sum(len(m["content"].encode()) for b in server.bodies[:8] for m in b["messages"])
    assert free.meter.tokens_in == pytest.approx(asked / 4, abs=8)
    assert free.meter.tokens_out == 8 * 5  # 18 bytes each
    assert "counted here at 4 bytes a token for 8 replies" in free.meter.report()
    assert read_lines(answers.parent / "verdicts.jsonl")[0]["tokens_out"] == 5


def test_the_meter_adds_up():
    meter = Meter(Price(1.0, 2.0), 3.0)
    assert not meter.spent_all
    meter.add(1_000_000, 1_000_000)
    assert meter.cost == 3.0
    assert meter.spent_all
    assert meter.report() == "read 1,000,000 tokens and wrote 1,000,000, $3.00"
    assert Meter().cost is None


# ---- secrets -------------------------------------------------------------------------------------

ECHOES = {
    "in a verdict": lambda key: say(f"Your key is {key}. [[5]]"),
    "in a reply without rating": lambda key: say(f"Your key is {key}."),
    "in an error": lambda key: Answer(
        json.dumps({"error": {"message": f"bad request by {key}"}}).encode(), 400
    ),
    "in a refusal": lambda key: Answer(
        json.dumps({"error": {"message": f"wrong key {key}"}}).encode(), 401
    ),
    "in garbage": lambda key: Answer(f"<p>{key}</p>".encode()),
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_key_that_the_server_echoes_is_nowhere(name, answers, capfd, caplog):
    caplog.set_level("DEBUG")
    with serve(lambda n, body: ECHOES[name](KEY)) as server:
        try:
            told = repr(ask(server, answers, retries=0))
        except UserError as error:
            told = f"{error} {error.__cause__!r} {error.__context__!r}"
    out, err = capfd.readouterr()
    files = [path.read_text() for path in answers.parent.rglob("*") if path.is_file()]
    assert any(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    for text in [told, out, err, caplog.text, *files]:
        assert KEY not in text
        assert KEY[3:15] not in text


# settings of judge_*, and the sentence; no value that may be a key is repeated
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": ""}, "a name such as gpt-4"),
    "key as setting": ({"api_key": "sk-secret"}, "judge_api_key is not known.*OPENAI_API_KEY"),
    "user in the URL": ({"base_url": "http://me:secret@host/v1"}, "and nothing else"),
    "key in the URL": ({"base_url": "http://host/v1?key=secret"}, "and nothing else"),
    "no URL": ({"base_url": "host:8000"}, "http"),
    "port no number": ({"base_url": "http://host:secret/v1"}, "HOST"),
    "repeats 0": ({"repeats": 0}, "repeats is a whole number of at least 1, but got 0"),
    "repeats text": ({"repeats": "3"}, "repeats is a whole number"),
    "timeout": ({"timeout": 0}, "timeout is a number above 0"),
    "yes": ({"yes": "true"}, "yes is true or false"),
    "limit without prices": ({"max_cost": 5}, "max_cost needs price_in and price_out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_told_in_one_sentence(name):
    given, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        options({"model": "m", **given})
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_url_and_the_key_of_the_environment(monkeypatch, answers):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@host/v1")
    with pytest.raises(UserError, match="nothing else"):
        Options("m")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"api\.openai\.com/v1 needs a key: set .* OPENAI_API_KEY"):
        judge([answers], Options("m"), lambda cost: None)
    # A server of one's own may want none.
    with serve(by_number) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert judge([answers], Options("m"), lambda cost: None).missing == 0
