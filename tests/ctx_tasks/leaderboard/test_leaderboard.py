"""The leaderboard: rows, errors, ties, tax, gains, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard import formats
from ctx_tasks.leaderboard.board import board
from ctx_tasks.results import read_runs
from tests.commands import as_process, ctx_eval
from tests.ctx_tasks.result_files import hits, lines, sample, write_run

FOUR = ("nih_recall", "squad_contains", "quac_contains", "drop_contains")
N = 40


def write(folder, count: int, tasks=FOUR, **settings):
    return write_run(folder, {task: lines(hits(count, N)) for task in tasks}, **settings)


def steered(**ctx):
    return {"ctx": {"alpha": 0.5, "schedule": "constant", "steer_generated": True, **ctx}}


BEGUN = {
    "tasks": [f"{task}_prefix" for task in FOUR],
    "task_config": {"gen_prefix": "The answer is"},
}


@pytest.fixture
def folder(tmp_path):
    """One checkpoint raw 30, chat 20, steered 25 of 40; begun 32, 28 and 28."""
    write(tmp_path / "raw", 30)
    write(tmp_path / "chat", 20, chat=True)
    write(tmp_path / "steered", 25, chat=True, config=steered())
    write(tmp_path / "raw-prefix", 32, **BEGUN)
    write(tmp_path / "chat-prefix", 28, chat=True, **BEGUN)
    write(tmp_path / "steered-prefix", 28, chat=True, config=steered(), **BEGUN)
    return tmp_path


def rows(folder, **options):
    return {row.arm.name: row for row in board(read_runs([folder]), **options).rows}


def test_tax_and_gains_are_paired_means_over_the_four_tasks_between_equal_beginnings(folder):
    found = rows(folder)
    tax = found["chat, prefix"].tax
    assert tax.difference.mean == pytest.approx(0.1)
    assert tax.columns == ("NIH recall", "SQuAD", "QuAC", "DROP")
    changes = np.array([0.0] * 28 + [1.0] * 4 + [0.0] * 8)
    assert tax.difference.error == pytest.approx(stats.sem(changes) / 2)
    unbegun, begun = found["chat, α 0.5 constant"].gain, found["chat, prefix, α 0.5 constant"].gain
    assert (unbegun.difference.mean, begun.difference.mean) == (pytest.approx(0.125), 0)
    assert unbegun.difference.n == begun.difference.n == 160
    others = ("raw", "chat", "raw, prefix", "chat, prefix")
    assert all(found[name].gain is None for name in others)
    assert [name for name, row in found.items() if row.tax] == ["chat, prefix"]


def test_where_only_the_unbegun_gain_moves_a_sentence_says_so(folder):
    said = [note for note in board(read_runs([folder])).notes if "only the unbegun" in note]
    assert said == [
        "org/model, chat, α 0.5 constant: only the unbegun gain moves (+0.125; begun +0.000, "
        "unclear): it changes how answers begin rather than what is read."
    ]


def test_a_tax_of_unbegun_arms_is_shown_on_request_alone_with_the_empty_shares(tmp_path):
    for name, empty, settings in (("raw", 1.0, {}), ("chat", 0.0, {"chat": True})):
        path = write(tmp_path / name, 20, **settings)
        content = json.loads(path.read_text())
        for scores in content["results"].values():
            scores["empty,none"] = empty
        path.write_text(json.dumps(content))
    made = board(read_runs([tmp_path]))
    assert all(row.tax is row.unbegun_tax is None for row in made.rows)
    assert any("No template tax of org/model" in note for note in made.notes)
    asked = board(read_runs([tmp_path]), unbegun_tax=True)
    [change] = [row.unbegun_tax for row in asked.rows if row.unbegun_tax]
    assert change.empty == (0.0, 1.0)
    assert all(row.tax is None for row in asked.rows)
    shown = formats.plain(asked)
    assert "raw minus chat" in shown
    assert "0.00, 1.00" in shown
    assert "template tax" not in shown.lower()


@pytest.mark.parametrize(("share", "marked"), [(0.05, False), (0.06, True)])
def test_a_score_with_many_empty_answers_is_marked_in_every_format(tmp_path, share, marked):
    path = write(tmp_path, 20, ["squad_contains"])
    content = json.loads(path.read_text())
    content["results"]["squad_contains"]["empty,none"] = share
    path.write_text(json.dumps(content))
    made = board(read_runs([tmp_path]))
    for text in (formats.plain(made), formats.markdown(made)):
        assert ("∅" in text.replace("∅: more", "")) == marked
        assert ("of the answers are empty" in text) == marked
    [row] = csv.DictReader(io.StringIO(formats.comma_separated(made)))
    assert row["SQuAD unanswered"] == str(marked)
    cell = json.loads(formats.as_json(made))["rows"][0]["cells"]["SQuAD"]
    assert (cell["empty"], cell["unanswered"]) == (share, marked)


@pytest.mark.parametrize(
    ("name", "share", "sign", "sentence"),
    [
        ("cut", 0.01, "⊣", "longer than the window"),
        ("unfinished", 0.06, "…", "the token limit"),
        ("unsegmented", 0.01, "?", "told from its chat template"),
    ],
)
def test_what_became_of_prompts_and_answers_is_marked(tmp_path, name, share, sign, sentence):
    path = write(tmp_path, 20, ["squad_contains"])
    content = json.loads(path.read_text())
    content["results"]["squad_contains"][f"{name},none"] = share
    path.write_text(json.dumps(content))
    made = board(read_runs([tmp_path]))
    [row] = made.rows
    assert row.cells["SQuAD"].signs == sign
    text = formats.markdown(made)
    assert f" {sign}" in text
    assert sentence in text
    [line] = csv.DictReader(io.StringIO(formats.comma_separated(made)))
    assert line[f"SQuAD {name}"] == str(share)


def test_the_average_counts_each_task_once(tmp_path):
    tasks = {task: lines(hits(10 * number, N)) for number, task in enumerate(FOUR)}
    tasks["squad_contains"] = tasks["squad_contains"][:20]
    write_run(tmp_path, tasks)
    [row] = board(read_runs([tmp_path])).rows
    assert row.cells["Avg."].value == pytest.approx((0 + 0.5 + 0.5 + 0.75) / 4)
    parts = [row.cells[name].error for name in ("NIH recall", "SQuAD", "QuAC", "DROP")]
    assert row.cells["Avg."].error == pytest.approx(math.sqrt(sum(e**2 for e in parts)) / 4)


def test_errors_are_clustered_by_passage(tmp_path):
    """Each document five times on one passage: the error of eight, not of forty."""
    values = [1, 0, 1, 1, 0, 1, 0, 0]
    shared = [
        sample(float(values[number // 5]), number, passage_id=number // 5) for number in range(N)
    ]
    write_run(tmp_path, {"squad_contains": shared})
    [row] = board(read_runs([tmp_path])).rows
    assert row.cells["SQuAD"].error == pytest.approx(stats.sem(values))


def test_without_samples_errors_are_the_harnesss_and_a_note_says_so(tmp_path):
    write(tmp_path / "raw", 30, log_samples=False)
    write(tmp_path / "chat", 20, chat=True)
    made = board(read_runs([tmp_path]))
    cells = {row.arm.name: row.cells["SQuAD"] for row in made.rows}
    assert cells["raw"].error == 0.01
    assert all(row.tax is None for row in made.rows)
    assert "--log_samples" in made.notes[0]


def test_the_best_is_marked_and_what_is_paired_with_it_may_tie(tmp_path):
    write(tmp_path / "a", 30, model="a")
    write(tmp_path / "b", 29, model="b")
    write(tmp_path / "c", 10, model="c")
    cells = {row.checkpoint: row.cells["SQuAD"] for row in board(read_runs([tmp_path])).rows}
    assert [cells[name].best for name in "abc"] == [True, False, False]
    assert [cells[name].tied for name in "abc"] == [False, True, False]


def test_different_documents_are_compared_unpaired(tmp_path):
    """Needle documents are measured out in tokens of each model."""
    write_run(tmp_path / "a", {"nih_recall": lines(hits(30, N))}, model="a")
    others = [sample(float(i < 24), i, text="longer") for i in range(N)]
    write_run(tmp_path / "b", {"nih_recall": others}, model="b")
    cells = {row.checkpoint: row.cells["NIH recall"] for row in board(read_runs([tmp_path])).rows}
    # Paired it would be clear; as independent samples 30 and 24 of 40 are not.
    assert cells["b"].tied


def test_lower_is_better_where_the_task_says_so(tmp_path):
    for name, value in (("a", 5.0), ("b", 9.0)):
        tasks = {"perplexity_task": lines([value + i % 2 for i in range(N)])}
        write_run(tmp_path / name, tasks, model=name, higher_is_better=False)
    cells = {row.checkpoint: row.cells for row in board(read_runs([tmp_path])).rows}
    assert cells["a"]["perplexity_task"].best
    assert not cells["b"]["perplexity_task"].tied


def test_a_group_of_others_is_one_column_and_ours_is_computed(tmp_path):
    groups = {"mmlu": ["mmlu_law"], "context_awareness": ["squad_contains"]}
    names = ("mmlu", "mmlu_law", "context_awareness", "squad_contains")
    tasks = {name: lines(hits(20, N)) for name in names}
    write_run(tmp_path, tasks, group_subtasks=groups, log_samples=False)
    assert board(read_runs([tmp_path])).columns == ["SQuAD", "mmlu"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {"squad_contains": 2.0}}, "SQuAD: task version is 1.0 in .* but 2.0 in"),
        ({"config": {"limit": 10}}, "limit is null in .* but 10 in"),
        ({"system_instruction_sha": "x"}, 'system prompt is null in .* but "x"'),
        (
            {"task_config": {"generation_kwargs": {"max_gen_toks": 9}}},
            r'generation settings is \{"max_gen_toks": null\} in .* but \{"max_gen_toks": 9\}',
        ),
        (
            {"task_config": {"metadata": {"data_used": {"sha256": "x", "rows": 3}}}},
            "data is .* but .*sha256",
        ),
        (
            {"task_config": {"metadata": {"data_used": {"sha256": "x", "lengths": 3}}}},
            "data is|haystack is",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_or_marked(tmp_path, change, message):
    for name in ("a", "b"):
        write(tmp_path / name, 20, ["squad_contains"], model=name)
    write(tmp_path / "c", 30, ["squad_contains"], model="c", **change)
    with pytest.raises(UserError, match=message) as raised:
        board(read_runs([tmp_path]))
    assert str(tmp_path / "c") in str(raised.value)
    made = board(read_runs([tmp_path]), force=True)
    assert [bool(row.cells["SQuAD"].mark) for row in made.rows] == [False, False, True]
    assert "30 ±" not in formats.plain(made)
    assert "!" in formats.plain(made)


def test_two_templates_of_one_checkpoint_are_refused(folder):
    write(folder / "other", 20, chat=True, config=steered(alpha=0.9), chat_template_sha="other")
    with pytest.raises(UserError, match='model: chat template is "abc" in .* but "other" in'):
        board(read_runs([folder]))


def loaded_as(dtype, /, **given):
    """The `config` of a results file whose model was loaded so, asked for or not."""
    return {"model_dtype": f"torch.{dtype}", "model_args": {"pretrained": "org/model", **given}}


@pytest.mark.parametrize("given", [{}, {"dtype": "bfloat16"}], ids=["found", "asked for"])
def test_an_arm_in_another_dtype_than_its_checkpoint_s_others_is_refused_or_marked(tmp_path, given):
    write(tmp_path / "raw", 30, config=loaded_as("float32"))
    write(tmp_path / "chat", 20, chat=True, config=loaded_as("float32"))
    other = steered() | loaded_as("bfloat16", **given)
    write(tmp_path / "steered", 25, chat=True, config=other)
    with pytest.raises(UserError, match='dtype is "float32" in .* but "bfloat16" in'):
        board(read_runs([tmp_path]))
    made = board(read_runs([tmp_path]), force=True)
    assert {row.arm.name: row.cells["SQuAD"].mark for row in made.rows} == {
        "raw": "",
        "chat": "",
        "chat, α 0.5 constant": "dtype",
    }


def test_two_dtypes_are_shown_where_they_are_what_is_compared(tmp_path):
    """Other checkpoints in their own dtype, and one checkpoint in two, each with its arms."""
    for dtype in ("float32", "bfloat16"):
        asked = loaded_as(dtype, dtype=dtype)
        write(tmp_path / dtype / "raw", 30, config=asked)
        write(tmp_path / dtype / "chat", 20, chat=True, config=asked)
    half = {"model_dtype": "torch.float16"}
    write(tmp_path / "other", 20, chat=True, model="org/other", config=half)
    made = board(read_runs([tmp_path]))
    assert len(made.rows) == 5
    assert not any(row.cells["SQuAD"].mark for row in made.rows)


def test_every_format_holds_every_row(folder):
    made = board(read_runs([folder]))
    names = [row.arm.name for row in made.rows]
    for text in (formats.plain(made), formats.markdown(made)):
        assert all(name in text for name in names)
    read = list(csv.DictReader(io.StringIO(formats.comma_separated(made))))
    assert [row["arm"] for row in read] == names
    assert float(read[0]["SQuAD value"]) == made.rows[0].cells["SQuAD"].value
    content = json.loads(formats.as_json(made))
    assert [row["arm"]["name"] for row in content["rows"]] == names
    assert content["rows"][0]["cells"]["Avg."]["n"] == 160


def test_foreign_names_are_no_markup(tmp_path):
    write(tmp_path, 20, ["squad_contains"], model="[red]|<b>*x*")
    made = board(read_runs([tmp_path]))
    assert "[red]|<b>*x*" in formats.plain(made)
    assert r"\[red\]\|\<b\>\*x\*" in formats.markdown(made)


@pytest.mark.parametrize("form", [formats.plain, formats.markdown, formats.comma_separated])
def test_foreign_names_steer_nothing(tmp_path, form):
    """Escapes, line breaks and changes of direction reach no terminal, Markdown or CSV."""
    steering = "\x1b]0;title\x07\nmodel\u202e\u2066"
    write(tmp_path, 20, ["squad_contains", "a\x1b[2J\ntask"], model=steering)
    made = board(read_runs([tmp_path]))
    text = form(made)
    assert "title" in text
    assert "task" in text
    assert not set(text) & set("\x1b\x07\u202e\u2066")
    assert not any(line.startswith(("model", "task")) for line in text.splitlines())


def test_a_score_that_is_no_number_is_a_dash(tmp_path):
    write(tmp_path, 20, ["squad_contains"])
    path = next(tmp_path.glob("results_*"))
    path.write_text(path.read_text().replace('"score,none": 0.5', '"score,none": NaN'))
    made = board(read_runs([tmp_path]))
    assert formats.score(made.rows[0].cells["SQuAD"]) == "-"
    assert json.loads(formats.as_json(made))["rows"][0]["cells"]["SQuAD"]["value"] is None


def test_the_command_prints_and_writes(folder):
    file = folder / "out" / "board.md"
    assert ctx_eval("leaderboard", folder, "--format", "md", "-o", file).code == 0
    assert file.read_text().startswith("| checkpoint |")
    done = as_process("ctx_models.cli", "leaderboard", folder)
    assert done == ctx_eval("leaderboard", folder)
    assert (done.code, "+0.100 [" in done.out, "+0.125 [" in done.out) == (0, True, True)


def test_mistakes_are_one_sentence(tmp_path):
    for call, arguments, message in [
        (partial(as_process, "ctx_models.cli"), [tmp_path / "nowhere"], "does not exist"),
        (ctx_eval, [tmp_path], "holds no results"),
        (ctx_eval, [tmp_path, "--format", "html"], "name its file"),
    ]:
        done = call("leaderboard", *arguments)
        assert done.code == 2
        assert message in done.err
        assert done.err.count("\n") == 1
