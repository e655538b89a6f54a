"""The report's data: what is shown, what is highlighted, in how few bytes; no browser here."""

from __future__ import annotations

import html
import json
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard.board import Board, board
from ctx_tasks.leaderboard.curves import curves
from ctx_tasks.report import documents as report_documents
from ctx_tasks.report import figures as report_figures
from ctx_tasks.report import page as report
from ctx_tasks.report.prompts import CUT, TEMPLATE, USER, segment, shorten
from ctx_tasks.results import read_documents, read_runs, read_samples
from tests.commands import ctx_eval
from tests.ctx_tasks.report import report_data
from tests.ctx_tasks.result_files import write_run


def made(folder: Path) -> Board:
    return board(read_runs([folder]))


def data_of(page: str) -> dict[str, Any]:
    """The page's JSON, as a browser would read it."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Board, str]:
    found = made(report_data.write(tmp_path_factory.mktemp("runs")))
    return found, report.page(found)


# ---- the user's segment --------------------------------------------------------------------------

CHAT = "<s><|user|>\n{}</s>\n<|assistant|>\n"
SEGMENTS = {
    # name: prompt, chat, raw, indicator, doc -> user text, how it was found
    "raw run": (CHAT.format("Who? Ada."), True, "Who? Ada.", None, {}, ["Who? Ada."], "raw"),
    "trimmed": (CHAT.format("Who?"), True, "  Who?\n", None, {}, ["Who?"], "raw"),
    "indicator": (CHAT.format("Who? [IND]"), True, "Who?", "[IND]", {}, ["Who? [IND]"], "raw"),
    "no template": ("Who? Ada.", False, None, None, {}, ["Who? Ada."], "raw"),
    "raw, answer begun": ("Who? It is", False, "Who?", None, {}, ["Who?"], "raw"),
    "twice": (CHAT.format("Who? Who?"), True, "Who?", None, {}, [], "none"),
    "another text": (CHAT.format("Who?"), True, "Where?", None, {}, [], "none"),
    "fields": (
        CHAT.format("Ada. Tell: Who?"),
        True,
        None,
        None,
        {"context": "Ada.", "question": "Who?"},
        ["Ada.", "Who?"],
        "fields",
    ),
    "field within a field": (
        CHAT.format("Ada? Ada"),
        True,
        None,
        None,
        {"context": "Ada? Ada", "question": "Ada?"},
        ["Ada? Ada"],
        "fields",
    ),
    "no fields": (CHAT.format("Ada."), True, None, None, {"context": 7, "turns": []}, [], "none"),
    "empty": ("", True, "", None, {"question": ""}, [], "none"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_the_users_text_is_found_or_nothing_is_highlighted(name):
    prompt, chat, raw, indicator, doc, expected, how = SEGMENTS[name]
    found = segment(prompt, chat=chat, raw=raw, indicator=indicator, doc=doc)
    assert "".join(text for _, text in found.pieces) == prompt
    assert [text for kind, text in found.pieces if kind == USER] == expected
    assert found.found == how


@pytest.mark.parametrize("size", [0, 10, 1399, 1401, 1470, 5000, 20_000])
@pytest.mark.parametrize("place", [0, 0.03, 0.5, 0.99])
def test_a_long_text_loses_its_middle_but_not_what_was_asked_for(size, place):
    filler = "".join(chr(97 + number % 26) for number in range(size))
    at = int(place * size)
    text = f"{filler[:at]}NEEDLE{filler[at:]}"
    found = shorten([(TEMPLATE, "<|user|>"), (USER, text)], ["absent", "NEEDLE"])
    kept = "".join(part for kind, part in found if kind != CUT)
    assert "NEEDLE" in kept
    assert kept.startswith("<|user|>")
    assert len(kept) <= 2100
    left_out = sum(int(part.split()[0].replace(",", "")) for kind, part in found if kind == CUT)
    assert left_out + len(kept) == len(text) + len("<|user|>")


# ---- what goes into the page ---------------------------------------------------------------------


def test_only_wanted_lines_are_read_whole(tmp_path):
    [run] = read_runs(
        [write_run(tmp_path, {"t": [report_data.line("t", "raw", n) for n in (1, 1, 2)]})]
    )
    hashes = read_samples(run.tasks["t"]).doc_hashes
    wanted = set(hashes[1:])
    assert [line["doc_hash"] for line in read_documents(run.tasks["t"], wanted)] == hashes[1:]


def test_documents_where_raw_and_chat_differ_come_first(shown):
    data = data_of(shown[1])
    group = next(g for g in data["groups"] if g["column"] == "NIH recall")
    arms = [data["rows"][row]["arm"] for row in group["rows"]]
    assert arms == ["raw", "chat", "chat, α 0.9 constant", "chat, α 0.5 constant"]
    assert (group["total"], group["differing"]) == (12, 11)
    scores = [[answer[1] for answer in one["answers"]] for one in group["documents"]]
    differ = [raw != chat for raw, chat, *_ in scores]
    assert differ == sorted(differ, reverse=True)
    assert differ.count(True) == 9
    # 0 and 10: raw and chat miss, alpha 0.5 hits; then 5, which all miss.
    assert scores[-3:] == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_every_answer_has_its_output_and_its_prompt_with_the_user_text(shown):
    data = data_of(shown[1])
    for group in data["groups"]:
        for document in group["documents"]:
            for row, _, output, how, pieces in document["answers"]:
                arm = data["rows"][row]["arm"]
                assert how == "raw"
                said = data["texts"][output[0][1]]
                number = said.split()[-1] if group["checkpoint"] == "model-a" else said.split()[-2]
                user = "".join(data["texts"][text] for kind, text in pieces if kind == "u")
                assert user.startswith(f"{number} ")
                assert f"What is in passage {number}?" in user
                assert any(kind == "t" for kind, _ in pieces) == (arm != "raw")


def test_columns_stand_in_the_papers_order_and_others_after_them(tmp_path):
    tasks = ["zebra", "mt_bench", *reversed(report_data.TASKS)]
    runs = report_data.write(tmp_path, checkpoints=["m"], tasks=tasks, begun=True)
    page = report.page(made(runs))
    headings = re.findall(
        r'<th scope="col" class="number" aria-sort="none"><span>(.*?)</span>', page
    )
    expected = ["NIH recall", "SQuAD", "QuAC", "DROP", "Avg.", "MT-Bench", "zebra"]
    assert headings == [*expected, "template tax", "gain, begun", "gain, unbegun"]


def test_a_heading_says_of_how_many_and_a_cell_where_it_has_fewer(tmp_path):
    for name, count in (("a", 12), ("b", 8)):
        lines = [report_data.line("t", "raw", n) for n in range(count)]
        for number, line in enumerate(lines):
            line["doc"]["passage_id"] = f"{name} {number // 4}"
        write_run(tmp_path / name, {"squad_contains": lines}, model=name)
    page = report.page(made(tmp_path))
    shown = re.findall(r'<span class="n">(n = .*?)</span>', page)
    assert shown == ["n = 8-12 in 2-3", "n = 12 in 3", "n = 8 in 2"]


def test_gains_begun_and_unbegun_stand_apart_on_one_axis(tmp_path):
    page = report.page(made(report_data.write(tmp_path, checkpoints=["m"], begun=True)))
    [section] = re.findall(r'<section id="gain".*?</section>', page, re.S)
    tables = re.findall(r"<h3>(.*?)</h3>.*?<thead.*?<svg.*?>(.*?)</svg>", section, re.S)
    assert [name for name, _ in tables] == [
        *("gain, begun (over chat, prefix)", "gain, unbegun (over chat)")
    ]
    assert tables[0][1] == tables[1][1] != ""
    rows = re.findall(r'class="arm">(.*?)</td>', section)
    assert rows == [
        *("chat, prefix, α 0.5 constant", "chat, α 0.9 constant", "chat, α 0.5 constant")
    ]
    assert section.count('class="number">n = 48') == len(rows)


def test_the_change_of_any_other_task_stands_in_the_table(tmp_path):
    for alpha, arm in ((1.0, "chat"), (0.5, "alpha 0.5")):
        lines = [report_data.line("zebra", arm, n) for n in range(12)]
        settings = {"chat": True, "config": {"ctx": {"alpha": alpha}}}
        write_run(tmp_path / arm, {"zebra": lines}, model="m", **settings)
    page = report.page(made(tmp_path))
    assert '<span class="n">zebra only</span>' in page
    # Its scale is its own: it has no bar beside others.
    assert 'id="gain"' not in page


def test_a_gain_over_fewer_tasks_says_which(tmp_path):
    report_data.write(tmp_path, checkpoints=["m"])
    lines = [report_data.line("nih_recall", "alpha 0.5", number) for number in range(12)]
    settings = {"model": "m", "chat": True, "config": {"ctx": {"alpha": 0.7}}}
    write_run(tmp_path / "one", {"nih_recall": lines}, **settings)
    page = report.page(made(tmp_path))
    # In the table and beside its bar.
    assert page.count('<span class="n">NIH recall only</span>') == 2


def test_the_page_explains_its_words_and_says_what_made_it(tmp_path):
    report_data.write(tmp_path, checkpoints=["m"])
    page = report.page(made(tmp_path))
    for word in ("raw", "chat", "prefix", "alpha (α)", "[IND]", "template tax"):
        assert f"<dt>{word}</dt>" in page
    assert f"lm-eval-ctx</a> {version_of('lm-eval-ctx')};" in page


def test_other_outputs_are_shown_one_a_line(tmp_path):
    """Choices with their likelihoods, and the answers of two turns."""
    choice = report_data.line("mmlu", "raw", 1, filtered_resps=[[-0.5, True], [-2.0, False]])
    choice["arguments"] = {f"gen_args_{n}": {"arg_0": "Q:", "arg_1": f" {n}"} for n in ("0", "1")}
    turns = report_data.line("t", "raw", 2, filtered_resps=["one", "two"])
    nothing = report_data.line("t", "raw", 3, filtered_resps=None, arguments=None, doc="text")
    write_run(tmp_path, {"mmlu": [choice], "t": [turns, nothing]})
    data = data_of(report.page(made(tmp_path)))
    outputs = {
        data["texts"][output[0][1]] if output else ""
        for group in data["groups"]
        for document in group["documents"]
        for _, _, output, _, _ in document["answers"]
    }
    assert outputs == {"0: [-0.5, true]\n1: [-2.0, false]", "1: one\n2: two", ""}


def test_without_samples_there_is_a_table_and_no_documents(tmp_path):
    write_run(tmp_path, {"t": [report_data.line("t", "raw", 1)]}, log_samples=False)
    page = report.page(made(tmp_path))
    assert 'id="documents"' not in page
    assert '>1.000 <span class="error">± 0.010</span>' in page


def test_equal_results_write_equal_pages(shown):
    assert report.page(shown[0]) == shown[1]


@pytest.mark.parametrize("text", [report_data.HOSTILE, "\ud800 half a pair", "é 漢字 🙂"])
def test_any_text_survives_as_data_and_can_end_nothing(text):
    written = report_documents.escaped({"texts": [text]})
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == {"texts": [text]}
    written.encode()


def test_foreign_text_is_escaped_wherever_it_stands(tmp_path):
    name = "<b onclick=alert(1)>"
    report_data.write(tmp_path, checkpoints=[name], tasks=[*report_data.TASKS, name])
    page = report.page(made(tmp_path))
    assert name not in page
    assert html.escape(name) in page
    [script, data, body] = (
        re.findall(pattern, page, re.S)[0]
        for pattern in (r"<script>(.*?)</script>", r'id="data">(.*?)</script>', r"<main.*</main>")
    )
    assert page.count("<script") == 2
    assert not re.search(r"\bon\w+=", re.sub(r"&lt;.*?&gt;", "", body))
    assert "innerHTML" not in script
    assert "<" not in data


def test_thirty_rows_with_long_prompts_stay_under_three_megabytes(tmp_path):
    """Long prompts, all different: 15 checkpoints of two arms each, and their heatmaps."""
    names = [f"model-{number:02}" for number in range(15)]
    for place, name in enumerate(names):
        for arm in ("raw", "chat"):
            lines = {
                task: [
                    report_data.line(task, arm, n, size=6000, text=f"{name} <&> é " * 40)
                    for n in range(20)
                ]
                for task in report_data.TASKS
            }
            write_run(tmp_path / f"{place}{arm}", lines, model=name, chat=arm == "chat")
    path = tmp_path / "report.html"
    report.write(made(tmp_path), path)
    assert 1_000_000 < path.stat().st_size < 3_000_000
    data = data_of(path.read_text(encoding="utf-8"))
    counts = [len(group["documents"]) for group in data["groups"]]
    assert len(counts) == 60
    assert max(counts) < 20
    # They took turns; a shorter one still fits where another did not.
    assert max(counts) - min(counts) <= 2


# ---- figures -------------------------------------------------------------------------------------


def test_the_curve_is_the_paired_difference_to_alpha_one(shown):
    found = curves(shown[0].rows)
    assert [curve.checkpoint for curve in found] == ["model-a", "model-b"]
    lines = found[0].lines
    assert list(lines) == ["NIH recall", "SQuAD, QuAC", "DROP"]
    assert [point.alpha for point in lines["NIH recall"]] == [0.9, 0.5]
    for name, points in lines.items():
        task = {"NIH recall": "nih_recall", "DROP": "drop_contains"}.get(name, "squad_contains")
        for point in points:
            arm = f"alpha {point.alpha:g}"
            expected = np.mean(
                [
                    report_data.score(task, arm, n) - report_data.score(task, "chat", n)
                    for n in range(12)
                ]
            )
            assert point.difference.mean == pytest.approx(expected)


def test_a_rating_changes_by_shares_of_its_scale(tmp_path):
    for alpha, rating in ((1.0, 4.0), (0.9, 8.5)):
        lines = [report_data.line("mt_bench", "chat", n, score=rating + n % 2) for n in range(4)]
        settings = {"chat": True, "config": {"ctx": {"alpha": alpha}}}
        write_run(tmp_path / str(alpha), {"mt_bench": lines}, **settings)
    [curve] = curves(made(tmp_path).rows)
    [point] = curve.lines["MT-Bench ÷ 9"]
    assert point.difference.mean == pytest.approx(0.5)


def test_curves_of_schedules_and_indicators_stay_apart_and_need_their_own_alpha_one(tmp_path):
    arms = [
        {},
        {"alpha": 0.9},
        {"alpha": 0.9, "schedule": "compound", "steer_generated": False, "layers": "3-5"},
        {"alpha": 0.9, "indicator": "[IND]"},
    ]
    lines = [report_data.line("drop_contains", "chat", n) for n in range(4)]
    for number, ctx in enumerate(arms):
        write_run(tmp_path / str(number), {"drop_contains": lines}, chat=True, config={"ctx": ctx})
    found = curves(made(tmp_path).rows)
    assert {curve.setting for curve in found} == {"constant", "compound, prompt only, layers 3-5"}


def test_what_is_marked_as_not_comparable_makes_no_curve(tmp_path):
    lines = [report_data.line("drop_contains", "chat", n) for n in range(4)]
    for alpha, version in ((1.0, 1.0), (0.9, 2.0), (0.8, 1.0)):
        settings = {"config": {"ctx": {"alpha": alpha}}, "versions": {"drop_contains": version}}
        write_run(tmp_path / str(alpha), {"drop_contains": lines}, chat=True, **settings)
    forced = board(read_runs([tmp_path]), force=True)
    [curve] = curves(forced.rows)
    assert [point.alpha for point in curve.lines["DROP"]] == [0.8]
    assert "† other task version" in report.page(forced)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (-0.003, 0.004), (0, 0.26), (-0.2, 0.55), (-1, 1), (0.0, 3.7)]
)
def test_axes_hold_their_values_and_zero_in_few_round_steps(low, high):
    found = report_figures.ticks(low, high)
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert any(abs(value) < 1e-12 for value in found)
    assert 2 <= len(found) <= 8
    assert np.ptp(np.diff(found)) < 1e-9


def test_a_lost_needle_is_dark_in_its_cell():
    cells = {(0, 200): [1.0], (0, 400): [1.0], (100, 200): [1.0], (100, 400): [0.0, 0.0]}
    found = report_figures.heatmap("m", "raw", "NIH recall", cells)
    assert (found.mean, found.n) == (pytest.approx(0.6), 5)
    path = found.paths[report_figures.colour(0.0)]
    middle = (report_figures.LEFT + report_figures.RIGHT) / 2
    assert path.startswith(f"M{middle:.1f} {(report_figures.TOP + report_figures.BOTTOM) / 2:.1f}h")
    assert found.by_length == {200: 1.0, 400: pytest.approx(1 / 3)}
    assert found.by_depth == {0: 1.0, 100: pytest.approx(1 / 3)}


# ---- files ---------------------------------------------------------------------------------------


def test_a_page_that_cannot_be_written_is_one_sentence(shown, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report.html cannot be written"):
        report.write(shown[0], tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_real_runs_become_a_page_that_knows_the_users_text(tmp_path):
    """The bundled model, raw, with its template and with a begun answer, through the commands."""
    metadata = json.dumps({"lengths": 2, "depths": 2, "max_length": 400, "questions": 6})
    tasks = "nano_nih_recall,nano_nih_recall_prefix,nano_squad_contains"
    for template in ([], ["--apply_chat_template"]):
        done = ctx_eval(
            *("run", "--model", "hf-ctx", "--model_args", "pretrained=nano-chat", "--tasks", tasks),
            *("--metadata", metadata, "--device", "cpu", "--log_samples"),
            *("--output_path", tmp_path, *template),
        )
        assert done.code == 0, done.err
    page = tmp_path / "report.html"
    assert ctx_eval("leaderboard", tmp_path, "--format", "html", "--output", page).code == 0
    data = data_of(page.read_text(encoding="utf-8"))
    answers = [a for g in data["groups"] for d in g["documents"] for a in d["answers"]]
    assert len(answers) == 4 * 4 + 2 * 6
    assert {how for _, _, _, how, _ in answers} == {"raw"}
    for row, _, _, _, pieces in answers:
        outside = "".join(data["texts"][text] for kind, text in pieces if kind == "t")
        assert ("<|user|>" in outside) == data["rows"][row]["arm"].startswith("chat")
