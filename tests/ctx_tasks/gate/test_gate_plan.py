"""`gate --plan`: sizes that hold when the gate is simulated by other code than the plan's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctx_tasks.gate import plan as planning
from ctx_tasks.gate.baseline import read
from ctx_tasks.gate.margin import Margin
from tests.commands import ctx_eval
from tests.ctx_tasks.gate.test_gate_statistics import TRIALS, outcomes
from tests.ctx_tasks.result_files import hits, sample, write_run
from tests.ctx_tasks.simulation import changes, cluster_numbers

TASK = "squad_contains"


def run(folder, scores):
    """Results with five questions a passage."""
    samples = [
        sample(score, number, passage_id=f"p{number // 5}") for number, score in enumerate(scores)
    ]
    write_run(folder, {TASK: samples})
    return folder


def test_the_correlation_of_flips_is_that_of_the_simulation():
    numbers = cluster_numbers(1000, 5)
    drawn = changes(np.random.default_rng(0), 20, numbers, 0.05, 0.05, together=0.5)
    # Two documents share a draw if both take the cluster's: one half squared.
    assert planning.correlation(list(drawn), numbers) == pytest.approx(0.25, abs=0.03)
    assert planning.correlation(list(drawn), np.arange(1000)) == 0


@pytest.fixture
def planned(tmp_path):
    """The plan for scores of which one in ten flips, read off a second run."""
    rng = np.random.default_rng(1)
    first = rng.permuted(np.array(hits(500, 1000)))
    flips = changes(rng, 1, cluster_numbers(1000, 5), 0.05, 0.05)[0]
    again = np.abs(first - (flips != 0))
    paths = run(tmp_path / "a", first), run(tmp_path / "b", again)
    old, new = (read(path) for path in paths)
    return next(planning.plan(old, new, Margin(0.05), 0.1))


def test_flips_are_read_off_a_second_run(planned):
    assert planned.noise.flips == pytest.approx(0.1, abs=0.03)
    assert planned.noise.source.endswith("of 1000 documents flipped")


@pytest.mark.slow
def test_the_sizes_asked_for_have_the_power_promised(planned):
    flips, together = planned.noise.flips, float(np.sqrt(planned.noise.together))

    def said(documents, down):
        """Shares of gates that fail, and that pass."""
        rng, numbers = np.random.default_rng(documents), cluster_numbers(documents, 5)
        drawn = outcomes(rng, TRIALS, numbers, 0.05, flips / 2, down, together=together)
        return [float(share.mean()) for share in drawn]

    for size in planned.passing.needed:
        assert said(size.documents, flips / 2)[1] == pytest.approx(size.chance, abs=0.06)
    for size in planned.finding.needed:
        assert said(size.documents, flips / 2 + 0.1)[0] == pytest.approx(size.chance, abs=0.06)


def test_more_documents_are_needed_for_more_power_and_fewer_show_less(planned):
    for question in (planned.passing, planned.finding):
        eighty, ninety_five = question.needed
        assert eighty.documents < ninety_five.documents
        assert eighty.clusters == pytest.approx(eighty.documents / 5, abs=1)
        less, _, now = question.smaller
        assert less.chance < now.chance
        assert now.documents == 1000


def test_the_command_tells_sizes_before_the_run(tmp_path):
    results, file = run(tmp_path / "main", hits(30, 40)), tmp_path / "baseline.json"
    assert ctx_eval("gate", "--save", file, results).code == 0
    plan = tmp_path / "plan.json"
    code, out, err = ctx_eval(
        "gate", "--plan", file, "--margin", 0.05, "--loss", 0.3, "--flips", 0.02, "--json", plan
    )
    assert code == 0, err
    assert "How often a loss of 0.3 is found" in out
    assert "assumed: 0.02 flip" in out
    task = json.loads(plan.read_text())["tasks"][0]
    assert task["finding"]["smaller"][-1]["documents"] == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--margin", 0.05, "--loss", 0.05], "--loss 0.05 must be more than the margin 0.05"),
        (["--loss", 0.8], "--loss 0.8 is more than squad_contains has to lose"),
        (["--flips", 1.5], "--flips 1.5 must be a share"),
    ],
)
def test_what_cannot_be_planned_is_an_error_in_a_sentence(tmp_path, arguments, said):
    code, out, err = ctx_eval("gate", "--plan", run(tmp_path / "a", hits(30, 40)), *arguments)
    assert code == 3
    assert said in " ".join((out + err).split())
