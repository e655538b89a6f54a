"""The judge against a real server on loopback: ratings, result files, and comparing them."""

from __future__ import annotations

import json
import math
import re
import statistics
from typing import Any

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.judge import table as judge_table
from ctx_tasks.judge.ratings import Rated, summary
from ctx_tasks.judge.verdicts import parse_rating
from ctx_tasks.results import read_runs, read_samples
from tests.ctx_tasks import mt_bench_data as data
from tests.ctx_tasks.judge.asking import KEY, ask, by_number, number
from tests.ctx_tasks.result_files import read_lines
from tests.judge_server import Answer, prompt, say, serve

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
    "<think>Not [[2]], rather [[7]].</think> [[8]]": 8.0,
    "Opened in the prompt: [[2]]</think>\n\n[[8]]": 8.0,
    "<think>First [[2]].</think><think>Then [[3]].</think>[[8]]": 8.0,
    "<think>Cut off at [[2]]": None,
    "<think>It is a [[2]].</think> I cannot rate it.": None,
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
    assert (done.questions, done.missing, done.problems) == (8, 0, "")


def test_a_question_that_was_left_out_is_missing_and_not_paid_for(answers):
    [file] = answers.parent.glob("samples_mt_bench_*.jsonl")
    samples = [sample | {"cut": 0, "unfinished": 0.0} for sample in read_lines(file)]
    del samples[3]["unfinished"]
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    with serve(by_number) as server:
        done = ask(server, answers)
    assert (done.questions, done.missing, len(server.bodies)) == (8, 1, 7)
    scores = read_samples(read_runs(done.written)[0].tasks["mt_bench"]).scores["rating"]
    assert [place for place, score in enumerate(scores) if math.isnan(score)] == [3]


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
    assert read_lines(path)[0]["verdicts"] == [[4.0, 9.0, 5.0]]


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
    "no JSON": "is not JSON",
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
