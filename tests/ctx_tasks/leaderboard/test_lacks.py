"""What results lack is counted and said by leaderboard, report and compare alike."""

from __future__ import annotations

import html

import pytest

from ctx_tasks.intervals import Clustering
from ctx_tasks.reach import unsaid
from tests.commands import ctx_eval
from tests.ctx_tasks.result_files import lines, sample, write_run
from tests.ctx_tasks.simulation import cluster_numbers

WHOLE = [1.0, 0.0] * 20
OTHER = "org/other"


def rated(folder, ratings, **settings):
    """As `ctx-eval judge` writes it: a line for every question, `effective` those with a rating."""
    rows = [sample(rating, number, "rating") for number, rating in enumerate(ratings)]
    count = sum(rating is not None for rating in ratings)
    sizes = {"mt_bench": {"original": len(ratings), "effective": count}}
    write_run(folder, {"mt_bench": rows}, metric="rating", **{"n-samples": sizes}, **settings)


def lacking(tmp_path, what: str) -> str:
    """Two runs in folders `a` and `b`, the second of which lacks something; what is to be said."""
    if what == "ratings":
        rated(tmp_path / "a", [7.0, 3.0] * 30)
        rated(tmp_path / "b", [7.0, 3.0, 2.0] * 7 + [None] * 39, model=OTHER)
        return "39 of 60 documents have no rating"
    write_run(tmp_path / "a", {"squad_contains": lines(WHOLE)})
    scores = [*WHOLE[:-1], None] if what == "a score" else WHOLE
    write_run(tmp_path / "b", {"squad_contains": lines(scores)}, model=OTHER)
    if what == "a score":
        return "1 of 40 documents have no score"
    file = next((tmp_path / "b").glob("samples_*"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:30]))
    return "the sample file is cut off, it holds 30 of 40 documents"


def plain(text: str) -> str:
    return " ".join(html.unescape(text).split())


def shown(tmp_path) -> dict[str, str]:
    """What leaderboard, report and compare say of folders `a` and `b`."""
    folders, page = (tmp_path / "a", tmp_path / "b"), tmp_path / "page.html"
    commands = {
        "leaderboard": ctx_eval("leaderboard", *folders),
        "report": ctx_eval("leaderboard", *folders, "--format", "html", "-o", page),
        "compare": ctx_eval("compare", *folders, "--force"),
    }
    assert {name: done.code for name, done in commands.items()} == dict.fromkeys(commands, 0)
    said = {name: plain(done.out) for name, done in commands.items()}
    return said | {"report": plain(page.read_text())}


@pytest.mark.parametrize("what", ["ratings", "a score", "lines"])
def test_what_is_lacking_is_counted_and_said_by_every_command(tmp_path, what):
    said = lacking(tmp_path, what)
    for name, text in shown(tmp_path).items():
        assert said in text, name


def test_a_task_of_one_run_alone_is_a_dash_in_the_others_row(tmp_path):
    tasks = {"squad_contains": lines(WHOLE)}
    write_run(tmp_path / "a", tasks)
    write_run(tmp_path / "b", {**tasks, "quac_contains": lines(WHOLE)}, model=OTHER)
    said = shown(tmp_path)
    assert "raw 0.50 ±.08 - org/other" in said["leaderboard"]
    assert "B alone has quac_contains." in said["compare"]


def test_few_clusters_are_said_to_tell_nothing_of_another_by_every_command(tmp_path):
    """400 documents on 8 passages."""
    for name, model in (("a", "org/model"), ("b", OTHER)):
        rows = [sample(float(i % 2), i, passage_id=i // 50) for i in range(400)]
        write_run(tmp_path / name, {"squad_contains": rows}, model=model)
    for name, text in shown(tmp_path).items():
        assert "in 8 clusters (needles or passages): what is said is about these 8" in text, name


@pytest.mark.parametrize(
    ("n", "shape", "margin", "said"),
    [
        (400, "8 needles", 0.05, "these 8, and nothing about another"),
        (
            1000,
            "dominant",
            0.05,
            "101 clusters (needles or passages), as good as 3 of one size: what",
        ),
        (1000, 33, 0.05, "31 large clusters (needles or passages): that one in 10 falls as a"),
        # One in 20 would be seen among 61; and passages of the usual size may fall.
        (2000, 33, 0.05, ""),
        (1000, 13, 0.01, ""),
        (400, 5, 0.01, ""),
    ],
)
def test_what_a_verdict_says_nothing_about(n, shape, margin, said):
    found = unsaid(Clustering.of(cluster_numbers(n, shape)), margin)
    assert said in found
    assert bool(said) == bool(found)
