"""Two runs on the same documents: differences, tests, flips, and what is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy import stats

from ctx_tasks.comparison import as_json, compare, flips, notes, one_run
from ctx_tasks.errors import UserError
from ctx_tasks.results import read_runs
from tests.commands import as_process, ctx_eval
from tests.ctx_tasks.result_files import lines, sample, write_run

BEFORE = [1.0] * 20 + [0.0] * 20
AFTER = [1.0] * 18 + [0.0] * 2 + [1.0] * 9 + [0.0] * 11


def run(folder, scores, task="squad_contains", **settings):
    write_run(folder, {task: lines(scores)}, **settings)
    return read_runs([folder])[0]


@pytest.fixture
def pair(tmp_path):
    return run(tmp_path / "a", BEFORE), run(tmp_path / "b", AFTER)


def test_difference_counts_and_p(pair):
    [found] = compare(*pair)
    assert (found.before, found.after) == (0.5, 0.675)
    assert found.difference.mean == pytest.approx(0.175)
    assert (found.gained, found.lost) == (9, 2)
    assert found.p == pytest.approx(stats.binomtest(2, 11).pvalue)
    changes = np.array(AFTER) - BEFORE
    half = stats.t.ppf(0.975, 39) * stats.sem(changes)
    assert found.difference.low == pytest.approx(0.175 - half)
    # Where a flip is rare Tango's interval reaches farther from zero than Student's.
    assert found.difference.high == pytest.approx(0.175 + half, abs=0.03)


def test_questions_on_one_passage_are_one_cluster(tmp_path):
    """Forty questions on two passages, all of one gained: the interval holds nearly anything."""
    scores = {"a": [0.0] * 40, "b": [1.0] * 20 + [0.0] * 20}
    runs = []
    for name, values in scores.items():
        shared = [sample(score, i, passage_id=i // 20) for i, score in enumerate(values)]
        write_run(tmp_path / name, {"squad_contains": shared})
        runs += read_runs([tmp_path / name])
    [found] = compare(*runs)
    assert found.difference.clusters == 2
    assert found.difference.low < -0.9
    assert found.difference.high == pytest.approx(0.5 + 0.5 * stats.t.ppf(0.975, 1))
    assert found.p == 1.0


def test_p_is_corrected_over_the_tasks(tmp_path):
    runs = []
    for name, scores in (("a", BEFORE), ("b", AFTER)):
        tasks = {"squad_contains": lines(scores), "quac_contains": lines(BEFORE)}
        write_run(tmp_path / name, tasks)
        runs += read_runs([tmp_path / name])
    first, second = compare(*runs)
    assert first.p == pytest.approx(2 * stats.binomtest(2, 11).pvalue)
    assert second.p == 1.0


def test_flipped_documents_are_shown_whole(pair):
    found = list(flips(*pair, "squad_contains"))
    assert len(found) == 11
    assert (found[0].question, found[0].before, found[0].after) == ("question 18", 1.0, 0.0)
    assert (found[0].output_after, found[0].target) == ("answer 18", "yes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {"squad_contains": 2.0}}, "task version is 1.0 in .* but 2.0 in"),
        ({"config": {"limit": 3}}, "limit is null in .* but 3 in"),
    ],
)
def test_different_settings_are_refused_or_marked(tmp_path, pair, change, message):
    other = run(tmp_path / "c", AFTER, **change)
    with pytest.raises(UserError, match=message):
        compare(pair[0], other)
    [found] = compare(pair[0], other, force=True)
    assert found.mark


def test_two_dtypes_are_refused_but_not_one_that_nobody_recorded(tmp_path, pair):
    first, other = (
        run(tmp_path / dtype, scores, config={"model_dtype": f"torch.{dtype}"})
        for dtype, scores in (("float32", BEFORE), ("bfloat16", AFTER))
    )
    with pytest.raises(UserError, match='dtype is "float32" in .* but "bfloat16" in'):
        compare(first, other)
    assert compare(first, other, force=True)[0].mark == "dtype"
    assert not compare(pair[0], other)[0].mark


def test_a_difference_that_is_the_arm_needs_no_force(tmp_path, pair):
    """Template, steering and a begun answer are what two arms are meant to differ in."""
    prefix = {"gen_prefix": "The answer is"}
    ctx = {"ctx": {"alpha": 0.5, "indicator": "[IND]"}}
    task = "squad_contains_prefix"
    run(tmp_path / "c", AFTER, task, chat=True, config=ctx, task_config=prefix)
    done = ctx_eval("compare", tmp_path / "a", tmp_path / "c", "--flips", "1")
    assert done.code == 0, done.err
    said = done.out
    assert "chat false, true; prefix false, true; alpha 1.0, 0.5; indicator null" in said
    assert "+0.175" in said
    assert "squad_contains  1.00 -> 0.00" in said


def test_two_templates_of_one_arm_are_refused(tmp_path):
    first = run(tmp_path / "a", BEFORE, chat=True)
    other = run(tmp_path / "b", AFTER, chat=True, chat_template_sha="other")
    with pytest.raises(UserError, match='chat template is "abc" in .* but "other" in'):
        compare(first, other)


def test_other_documents_are_refused(tmp_path, pair):
    fewer = run(tmp_path / "c", AFTER[:30])
    with pytest.raises(UserError, match="40 documents and .* 30, of which 30 are the same"):
        compare(pair[0], fewer)
    [found] = compare(pair[0], fewer, force=True)
    assert found.difference.n == 30
    write_run(tmp_path / "d", {"squad_contains": lines(AFTER, text="other")})
    [other] = read_runs([tmp_path / "d"])
    with pytest.raises(UserError, match="0 are the same"):
        compare(pair[0], other, force=True)


def test_no_common_task_and_several_runs_are_refused(tmp_path, pair):
    other = run(tmp_path / "c", BEFORE, task="quac_contains")
    with pytest.raises(UserError, match="no task in both"):
        compare(pair[0], other)
    run(tmp_path / "chat", BEFORE, chat=True)
    with pytest.raises(UserError, match="holds several runs; name the results file of one"):
        one_run(read_runs([tmp_path]), "results")


def test_that_there_is_no_common_task_is_said_shortly_of_many(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, {f"{name}{n}": lines(BEFORE) for n in range(30)})
    [a], [b] = read_runs([tmp_path / "a"]), read_runs([tmp_path / "b"])
    with pytest.raises(UserError) as raised:
        compare(a, b)
    assert "has a0, a1, a2, a3, a4 and 25 more" in str(raised.value)
    assert len(str(raised.value).replace(str(tmp_path), "")) < 300


def test_the_command_writes_json_and_csv(tmp_path, pair):
    arguments = ["compare", tmp_path / "a", tmp_path / "b", "--format"]
    assert ctx_eval(*arguments, "json", "-o", tmp_path / "out.json").code == 0
    content = json.loads((tmp_path / "out.json").read_text())
    [found] = compare(*pair)
    assert (content["a"]["checkpoint"], content["b"]["arm"]) == ("org/model", "raw")
    [task] = content["tasks"]
    assert (task["mean"], task["high"], task["p"]) == (
        found.difference.mean,
        found.difference.high,
        found.p,
    )
    [row] = csv.DictReader(ctx_eval(*arguments, "csv").out.splitlines())
    assert (row["task"], float(row["low"])) == ("squad_contains", found.difference.low)


def test_what_cannot_be_known_is_null(tmp_path):
    """One passage has no error, and JSON no NaN."""
    runs = []
    for name, score in (("a", 1.0), ("b", 0.0)):
        lines = [sample(score, i, passage_id=0) for i in range(4)]
        write_run(tmp_path / name, {"squad_contains": lines})
        runs += read_runs([tmp_path / name])
    [task] = json.loads(as_json(*runs, compare(*runs)))["tasks"]
    assert (task["mean"], task["error"], task["low"], task["clusters"]) == (-1.0, None, None, 1)


def test_what_was_not_compared_is_said(tmp_path, pair):
    """A task of one run alone, a document without a score, a sample file cut at a line's end."""
    other = [sample(score, i) for i, score in enumerate(BEFORE[:-1])] + [sample(None, 39)]
    write_run(tmp_path / "c", {"squad_contains": other, "quac_contains": lines([1.0])})
    file = next((tmp_path / "a").glob("samples_*"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:30]))
    [more] = read_runs([tmp_path / "c"])
    found = compare(pair[0], more, force=True)
    assert notes(pair[0], more, found) == [
        "B alone has quac_contains.",
        "A: squad_contains: the sample file is cut off, it holds 30 of 40 documents.",
        "B: squad_contains: 1 of 40 documents have no score.",
    ]


@pytest.mark.parametrize("arguments", [["-o", "out"], ["--format", "csv", "--flips", "1"]])
def test_options_of_another_format_are_refused(tmp_path, pair, arguments):
    done = ctx_eval("compare", tmp_path / "a", tmp_path / "b", *arguments)
    assert done.code != 0
    assert "--format" in done.err


def test_the_command_prints_differences_and_flips_as_plain_text(tmp_path):
    run(tmp_path / "a", BEFORE)
    path = tmp_path / "b"
    run(path, AFTER)
    file = next(path.glob("samples_*"))
    file.write_text(file.read_text().replace("answer 18", "[red]\\u001b[31mX"))
    done = ctx_eval("compare", tmp_path / "a", path, "--flips", "1")
    assert done.code == 0
    assert "+0.175" in done.out
    assert "B: [red]\N{REPLACEMENT CHARACTER}[31mX" in done.out


def test_a_process_of_its_own_prints_the_same(pair, tmp_path):
    for name, code in (("b", 0), ("nowhere", 2)):
        done = as_process("ctx_models.cli", "compare", tmp_path / "a", tmp_path / name)
        assert done == ctx_eval("compare", tmp_path / "a", tmp_path / name)
        assert done.code == code


def cut(folder, scores, lost):
    """A run of which some prompts lost tokens."""
    rows = [{**one, "cut": float(n)} for one, n in zip(lines(scores), lost, strict=True)]
    path = write_run(folder, {"squad_contains": rows})
    content = json.loads(path.read_text())
    content["results"]["squad_contains"]["cut,none"] = float(np.mean(np.array(lost) > 0))
    path.write_text(json.dumps(content))
    return read_runs([folder])[0]


def test_runs_that_cut_different_documents_are_compared_on_what_neither_cut(tmp_path):
    one = cut(tmp_path / "a", BEFORE, [5] * 4 + [0] * 36)
    other = cut(tmp_path / "b", AFTER, [0] * 36 + [7] * 4)
    [found] = compare(one, other)
    assert (found.cut, found.difference.n) == (8, 32)
    assert (found.before, found.after) == (np.mean(BEFORE[4:36]), np.mean(AFTER[4:36]))
    shown = ctx_eval("compare", tmp_path / "a", tmp_path / "b").out
    assert "compared are the 32 that neither cut" in " ".join(shown.split())


def test_runs_that_cut_the_same_documents_are_compared_on_all(tmp_path):
    one = cut(tmp_path / "a", BEFORE, [5] * 4 + [0] * 36)
    other = cut(tmp_path / "b", AFTER, [9] * 4 + [0] * 36)
    [found] = compare(one, other)
    assert (found.cut, found.difference.n) == (0, 40)
