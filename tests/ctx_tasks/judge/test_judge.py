"""The judge against a real server on loopback: ratings, trouble on the wire, money, and secrets."""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.judge import table as judge_table
from ctx_tasks.judge.cost import Estimate, Meter, Price, estimate
from ctx_tasks.judge.endpoint import Options, options, parse_rating
from ctx_tasks.judge.ratings import Rated, summary
from ctx_tasks.judge.replies import VerdictFile
from ctx_tasks.judge.run import Judged, judge
from ctx_tasks.results import read_runs, read_samples
from tests.ctx_tasks import mt_bench_data as data
from tests.judge_server import Answer, Server, fail, prompt, say, serve, truncated

KEY = "sk-loopback-0123456789abcdef"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def answers(tmp_path) -> Path:
    """The results file of a run whose 8 answers are not rated yet."""
    return data.write_answers(tmp_path / "out", data=data.write_all(tmp_path / "data"))


def ask(server: Server, *paths: Path, agree: Any = lambda cost: None, **settings: Any) -> Judged:
    settings = {"retries": 2, "timeout": 20.0, **settings}
    return judge(paths, Options("judge-model", server.url, **settings), agree)


def number(body: dict[str, Any]) -> int:
    """Which answer a request is about."""
    found = re.search(r"answer (\d+)\.", prompt(body))
    assert found
    return int(found[1])


def by_number(_: int, body: dict[str, Any]) -> Answer:
    """Answer n is rated n + 1."""
    return say(f"It is so-so.\n\nRating: [[{number(body) + 1}]]")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- reading a reply -----------------------------------------------------------------------------

RATINGS = {
    "[[7]]": 7.0,
    "Rating: [[1]]": 1.0,
    "good\n[[10]]\n": 10.0,
    "[[10.0]]": 10.0,
    "[[7.5]]": 7.5,
    "[[ 8 ]]": 8.0,
    "First [[6]], so the rating is [[6.0]].": 6.0,
    "a list [[1, 2], [3]] in the answer. [[4]]": 4.0,
    "": None,
    "I cannot rate this.": None,
    "[7]": None,
    "7": None,
    "[[0]]": None,
    "[[11]]": None,
    "[[10.1]]": None,
    "[[-3]]": None,
    "[[7/10]]": None,
    "[[rating]]": None,
    "[[7]": None,
    "[[1e1]]": None,
    "[[.5]]": None,
    "[[NaN]]": None,
    "The format is [[5]]; I give [[8]].": None,
    "dp[[0]] is wrong. [[8]]": None,
}


@pytest.mark.parametrize("text", RATINGS)
def test_only_a_single_rating_from_1_to_10_counts(text):
    assert parse_rating(text) == RATINGS[text]


# ---- a run ---------------------------------------------------------------------------------------


def test_the_rating_is_the_mean_over_questions_with_its_error_and_by_category(answers):
    with serve(by_number) as server:
        done = ask(server, answers)
    [run] = read_runs(done.written)
    result = run.tasks["mt_bench"]
    given = [float(n + 1) for n in range(8)]
    assert result.primary == "rating"
    assert result.n == 8
    assert result.metrics["rating"].value == statistics.mean(given)
    assert result.metrics["rating"].error == pytest.approx(statistics.stdev(given) / math.sqrt(8))
    # The categories take turns: writing has answers 0 and 4.
    assert result.metrics["rating_writing"].value == 3.0
    assert result.metrics["rating_stem"].value == 6.0
    assert result.metrics["rating_stem"].error == pytest.approx(statistics.stdev([4, 8]) / 2**0.5)
    assert result.metrics["missing"].value == 0
    assert not result.metrics["missing"].higher_is_better
    assert "judge_spread" not in result.metrics
    assert list(read_samples(result).scores["rating"]) == given
    assert (done.questions, done.missing, done.problem) == (8, 0, "")


def test_the_request_is_what_the_protocol_says(answers):
    with serve(by_number) as server:
        ask(server, answers, max_tokens=99)
    for body in server.bodies:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-model", 0, 99)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        reference = number(body) % 4 in (1, 2)  # math and coding
        assert ("R: Forty metres." in prompt(body)) == reference
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)


def test_the_results_say_who_judged_with_what(answers):
    with serve(by_number) as server:
        [written] = ask(server, answers).written
    content = json.loads(written.read_text())
    record = content["config"]["judge"]
    assert record["model"] == "judge-model"
    assert record["base_url"] == server.url
    assert record["source"] == answers.name
    assert (record["temperature"], record["max_tokens"], record["repeats"]) == (0, 2048, 1)
    assert len(record["prompts"]) == 64
    assert content["n-samples"] == {"mt_bench": {"original": 8, "effective": 8}}
    assert content["results"]["mt_bench"]["sample_len"] == 8
    assert content["configs"]["mt_bench"]["generation_kwargs"]["max_gen_toks"] == 1024
    # Ratings by another judge, or with other prompts, must not be compared.
    compared = read_runs([written])[0].tasks["mt_bench"].settings["data"]["judge"]
    assert compared["model"] == "judge-model"
    assert compared["prompts"] == record["prompts"]
    assert "base_url" not in compared
    # The answers' own file is as it was, and nothing half-written is left.
    assert "judge" not in json.loads(answers.read_text())["config"]
    assert not list(answers.parent.rglob("*.partial"))


def test_both_turns_are_rated_and_first_turns_are_paid_once(tmp_path, answers):
    def script(_: int, body: dict[str, Any]) -> Answer:
        return say("[[9]]" if "Again." in prompt(body) else f"[[{number(body) + 1}]]")

    date = "2026-01-02T00-00-00.000001"
    both = data.write_answers(
        answers.parent, task="mt_bench_2turn", data=tmp_path / "data", date=date
    )
    with serve(script) as server:
        ask(server, answers)
        assert len(server.bodies) == 8
        [written] = ask(server, both).written
        assert len(server.bodies) == 16
    result = read_runs([written])[0].tasks["mt_bench_2turn"]
    assert result.metrics["rating_turn_1"].value == 4.5
    assert result.metrics["rating_turn_2"].value == 9.0
    assert result.metrics["rating"].value == 6.75
    assert result.n == 8
    assert read_samples(result).scores["rating"][0] == 5.0


def test_the_median_of_repeats_counts_and_their_scatter_is_reported(answers):
    seen: dict[int, int] = {}

    def script(_: int, body: dict[str, Any]) -> Answer:
        which = number(body)
        seen[which] = seen.get(which, -1) + 1
        return say(f"[[{[4, 9, 5][seen[which]]}]]")

    with serve(script) as server:
        [written] = ask(server, answers, repeats=3, concurrency=1).written
    result = read_runs([written])[0].tasks["mt_bench"]
    assert len(server.bodies) == 24
    assert result.metrics["rating"].value == 5.0
    assert result.metrics["judge_spread"].value == pytest.approx(statistics.stdev([4, 9, 5]))
    [path] = answers.parent.glob("samples_mt_bench_*-????????.jsonl")
    assert lines(path)[0]["verdicts"] == [[4.0, 9.0, 5.0]]


def test_a_question_with_any_verdict_missing_is_missing():
    table = [
        Rated("a", [[4.0, 6.0], [8.0, 8.0]]),
        Rated("a", [[4.0, None], [8.0, 8.0]]),
        Rated("b", [[None, None], [None, None]]),
    ]
    metrics = summary(table)
    assert metrics["rating,none"] == 6.5
    assert metrics["rating_stderr,none"] == "N/A"
    assert metrics["rating_turn_1,none"] == 5.0
    assert metrics["missing,none"] == 2
    assert math.isnan(metrics["rating_b,none"])
    assert metrics["judge_spread,none"] == pytest.approx(1.0)  # variances 2 and 0


def test_a_category_with_a_comma_keeps_the_files_readable():
    assert "rating_a_b,none" in summary([Rated("a, b", [[4.0]])])


# ---- trouble on the wire -------------------------------------------------------------------------


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

    def script(n: int, body: dict[str, Any]) -> Answer:
        return say("[[5]]", seconds=3.0 if number(body) == 0 else 0.2)

    with serve(script) as server:
        start = time.monotonic()
        done = ask(server, path, timeout=0.8, retries=0)
        assert time.monotonic() - start < 2.5
    assert done.missing == 1
    assert done.problem == "no reply within 0.8 s"


LASTING = {
    "HTTP 500": (fail(500), "HTTP 500: .*failed with 500.*"),
    "HTTP 400": (fail(400), "HTTP 400: .*failed with 400.*"),
    "refusal": (say("I cannot rate this."), r"no single \[\[n\]\] in 'I cannot rate this\.'"),
    "garbage": (Answer(b"\x00<b>[red]busy"), r"no chat completion: \?<b>\[red\]busy"),
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
    assert re.fullmatch(why, done.problem)
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


HOPELESS = {
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
    kept = lines(answers.parent / "verdicts.jsonl")
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
        start = time.monotonic()
        ask(server, answers, concurrency=4)
        assert time.monotonic() - start < 8 * 0.2
    assert server.most_at_once == 4


# ---- the file of verdicts ------------------------------------------------------------------------


def test_no_verdict_is_paid_for_twice(answers):
    with serve(by_number) as server:
        first = ask(server, answers)
        for paths in ([answers], [answers.parent], [answers.parent.parent], first.written):
            assert ask(server, *paths).written == first.written
        assert len(server.bodies) == 8
        kept = lines(answers.parent / "verdicts.jsonl")
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
    assert len(lines(answers.parent / "verdicts.jsonl")) == 3


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


# ---- files, and comparing them -------------------------------------------------------------------


def test_two_checkpoints_are_compared_paired(tmp_path):
    material = data.write_all(tmp_path / "data")
    paths = [
        data.write_answers(
            tmp_path / model, data=material, model_args={"pretrained": f"org/{model}"}, answer=model
        )
        for model in ("weak", "strong")
    ]

    def script(_: int, body: dict[str, Any]) -> Answer:
        which = re.search(r"A: (weak|strong) (\d)\.", prompt(body))
        assert which
        gain = [1, 0, 2, 1, 1, 0, 2, 1][int(which[2])] if which[1] == "strong" else 0
        return say(f"[[{int(which[2]) % 4 + 1 + gain}]]")

    with serve(script) as server:
        done = ask(server, *paths)
        [said] = judge_table.differences(done.written)
        assert said.startswith(
            "mt_bench: org/strong (chat) against org/weak (chat): +1.00 ± 0.27, 95 % [+0.37, +1.63]"
        )
        assert said.endswith("8 questions.")
        other = ask(server, paths[1], max_tokens=77)
    [said] = judge_table.differences([done.written[0], *other.written])
    assert said.endswith("cannot be compared: data differ.")


def test_a_folder_gives_the_newest_run_of_each_model(tmp_path):
    material = data.write_all(tmp_path / "data")
    for date, model in [("01", "a"), ("02", "a"), ("03", "b")]:
        path = data.write_answers(
            tmp_path / "out",
            data=material,
            model_args={"pretrained": model},
            date=f"2026-01-{date}T00-00-00.000001",
        )
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "date": float(date)}))
    with serve(by_number) as server:
        done = ask(server, tmp_path / "out")
    assert [path.name[:18] for path in done.written] == ["results_2026-01-02", "results_2026-01-03"]


UNREADABLE = {
    "no such path": "does not exist",
    "no JSON": "is no results file",
    "no MT-Bench": "holds no answers of mt_bench or mt_bench_2turn",
    "no samples": "run mt_bench again with --log_samples",
    "broken sample": "line 1 is no sample of mt_bench",
    "empty folder": "holds no answers",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_results_are_told_in_one_sentence(name, answers):
    [samples] = answers.parent.glob("samples_*.jsonl")
    if name == "no such path":
        answers = answers.with_name("nowhere.json")
    elif name == "no JSON":
        answers.write_text("{")
    elif name == "no MT-Bench":
        answers.write_text('{"config": {}, "configs": {"squad_contains": {}}}')
    elif name == "no samples":
        samples.unlink()
    elif name == "broken sample":
        samples.write_text('{"doc": {"id": "1"}}\n')
    else:
        answers = answers.parent / "empty"
        answers.mkdir()
    with serve(by_number) as server, pytest.raises(UserError, match=UNREADABLE[name]) as caught:
        ask(server, answers)
    assert "\n" not in str(caught.value)
    assert not server.bodies
