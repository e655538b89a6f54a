"""`gate --sequential`: many candidates against one baseline err in 5 % altogether."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ctx_tasks.gate.loss import LEVEL, bounds, p_beyond
from ctx_tasks.gate.series import level, state
from ctx_tasks.intervals import Clustering
from tests.commands import ctx_eval
from tests.ctx_tasks.gate.test_gate import write
from tests.ctx_tasks.result_files import hits, read_lines
from tests.ctx_tasks.simulation import cluster_numbers, draws

N = 400


@pytest.fixture
def baseline(tmp_path):
    file = tmp_path / "baseline.json"
    assert ctx_eval("gate", "--save", file, write(tmp_path / "main", hits(300))).code == 0
    return file


def place(baseline, results):
    """The place in the series that the gate tells."""
    out = ctx_eval("gate", "--baseline", baseline, results, "--sequential").out
    return int(out.rpartition("Candidate ")[2].split()[0])


def test_the_levels_of_a_series_sum_to_that_of_one_gate():
    sums = np.cumsum([level(k) for k in range(1, 100_000)])
    assert sums[-1] < LEVEL
    assert sums[-1] > 0.99 * LEVEL
    assert level(None) == LEVEL


def test_each_candidate_has_the_next_place_and_the_same_one_its_own(tmp_path, baseline):
    first, second = write(tmp_path / "a", hits(299)), write(tmp_path / "b", hits(298))
    assert [place(baseline, one) for one in (first, second, first)] == [1, 2, 1]
    assert len(read_lines(state(baseline))) == 2


def test_answers_of_the_baseline_cost_nothing(tmp_path, baseline):
    same = shutil.copytree(tmp_path / "main", tmp_path / "same")
    assert place(baseline, same) == 1
    assert read_lines(state(baseline)) == []


def test_a_new_baseline_begins_anew(tmp_path, baseline):
    place(baseline, write(tmp_path / "a", hits(299)))
    new = write(tmp_path / "b", hits(298))
    assert ctx_eval("gate", "--save", baseline, new, "--force").code == 0
    assert place(baseline, write(tmp_path / "c", hits(297))) == 1


def test_a_late_candidate_needs_a_clearer_loss(tmp_path, baseline):
    worse = write(tmp_path / "worse", hits(285))
    assert ctx_eval("gate", "--baseline", baseline, worse).code == 1
    for number in range(20):
        place(baseline, write(tmp_path / f"c{number}", hits(301 + number)))
    code, out, _ = ctx_eval("gate", "--baseline", baseline, worse, "--sequential")
    assert code == 2
    assert "the whole series" in " ".join(out.split())


def test_a_folder_has_no_series(tmp_path):
    folders = write(tmp_path / "a", hits(300)), write(tmp_path / "b", hits(299))
    code, out, err = ctx_eval("gate", "--baseline", *folders, "--sequential")
    assert code == 3
    assert "save it first" in " ".join((out + err).split())


def test_a_single_gate_says_what_its_five_percent_are(tmp_path, baseline):
    out = ctx_eval("gate", "--baseline", baseline, write(tmp_path / "a", hits(299))).out
    assert "those of one gate" in " ".join(out.split())


def alarms(rng, trials: int, commits: int, levels, shape: int | str = 5) -> float:
    """Share of series without any change in which some commit is called a regression.

    One document in ten is hit or miss by chance, in every run anew.
    """
    numbers = cluster_numbers(N, shape)
    clustering = Clustering.of(numbers)
    drawn = draws(rng, trials, numbers)

    def scores():
        return np.where(drawn < 0.1, draws(rng, trials, numbers) < 0.5, drawn < 0.6).astype(float)

    baseline, alarmed = scores(), np.zeros(trials, bool)
    for place in range(1, commits + 1):
        losses = baseline - scores()
        mean, error, *_ = bounds(losses, clustering)
        alarmed |= p_beyond(losses, mean, error, 0.0, clustering) < levels(place)
    return float(alarmed.mean())


@pytest.mark.slow
def test_two_hundred_commits_raise_a_false_alarm_in_at_most_five_percent_of_series():
    rng = np.random.default_rng(0)
    assert alarms(rng, 500, 200, level) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 500)
    # Each at the level of one gate they do so often.
    assert alarms(rng, 200, 20, lambda _: LEVEL) > 0.2
    # Few clusters, which a second test is held to as well.
    assert alarms(rng, 200, 200, level, "8 needles") <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
