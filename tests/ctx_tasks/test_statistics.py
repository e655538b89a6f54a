"""Paired differences, their errors and intervals, against textbook values and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ctx_tasks.errors import UserError
from ctx_tasks.results import Samples
from ctx_tasks.statistics import (
    Difference,
    cluster_error,
    holm,
    mcnemar,
    mean_difference,
    paired_difference,
)


def samples(values, clusters=None, hashes=None) -> Samples:
    hashes = hashes or [f"d{i}" for i in range(len(values))]
    return Samples(hashes, clusters or list(hashes), {"score": np.array(values, dtype=float)})


def test_without_clusters_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.normal(0.4, size=30)
    found = paired_difference(samples(a), samples(b), "score")
    interval = stats.ttest_rel(b, a).confidence_interval()
    assert found.mean == pytest.approx((b - a).mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.n, found.clusters) == (30, 30)


def test_copies_of_a_document_in_a_cluster_add_no_information():
    """Every document five times over: the error is that of the documents, not of the copies."""
    values = np.random.default_rng(2).normal(size=12)
    once = cluster_error(values, np.arange(12))
    assert cluster_error(np.repeat(values, 5), np.repeat(np.arange(12), 5)) == pytest.approx(once)
    assert once == pytest.approx(stats.sem(values))


def test_documents_are_joined_by_hash_and_only_shared_ones_count():
    a = samples([1, 0, 1], hashes=["x", "y", "z"])
    b = samples([0, 1, 1], hashes=["z", "y", "other"])
    found = paired_difference(a, b, "score")
    assert (found.mean, found.n) == (0.0, 2)


def test_a_document_without_a_score_is_left_out():
    found = paired_difference(samples([1, math.nan, 0]), samples([1, 1, 1]), "score")
    assert (found.mean, found.n) == (0.5, 2)


def test_no_shared_document_is_an_error():
    with pytest.raises(UserError, match="share no document"):
        paired_difference(samples([1]), samples([1], hashes=["other"]), "score")


def test_one_cluster_has_no_error():
    found = paired_difference(samples([0, 0]), samples([1, 0], clusters=["p", "p"]), "score")
    one = paired_difference(samples([0, 0], clusters=["p", "p"]), samples([1, 0]), "score")
    assert found.mean == one.mean == 0.5
    assert math.isnan(one.error)
    assert not one.clear


@pytest.mark.parametrize("resamples", [0, 1000])
def test_the_interval_covers_the_truth_in_95_of_100_clustered_trials(resamples):
    rng = np.random.default_rng(3)
    trials, groups, size = 300, 40, 6
    clusters = [f"p{i}" for i in range(groups) for _ in range(size)]
    covered = 0
    for _ in range(trials):
        shared = np.repeat(rng.normal(0.1, 0.4, groups), size)
        b = shared + rng.normal(0, 0.3, groups * size)
        zeros = samples(np.zeros(len(b)), clusters)
        found = paired_difference(zeros, samples(b, clusters), "score", resamples)
        covered += found.low <= 0.1 <= found.high
    assert 0.91 <= covered / trials <= 0.985


def test_the_bootstrap_repeats_itself():
    a, b = samples([0] * 20), samples([0, 1] * 10)
    assert paired_difference(a, b, "score", 500) == paired_difference(a, b, "score", 500)


def test_the_mean_of_two_tasks_counts_each_once():
    parts = [Difference(0.2, 0.03, 0, 0, 100, 100), Difference(0.0, 0.04, 0, 0, 9, 9)]
    found = mean_difference(parts)
    assert (found.mean, found.error) == pytest.approx((0.1, 0.025))
    # Welch and Satterthwaite by hand.
    freedom = 0.0025**2 / (0.0009**2 / 99 + 0.0016**2 / 8)
    assert found.high == pytest.approx(0.1 + 0.025 * stats.t.ppf(0.975, freedom))
    assert found.clear


def test_no_difference_anywhere_has_an_interval_of_zero():
    nothing = paired_difference(samples([1, 0]), samples([1, 0]), "score")
    assert mean_difference([nothing, nothing]) == Difference(0, 0, 0, 0, 4, 4)


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 8) == mcnemar(8, 1) == pytest.approx(2 * 10 / 512)


def test_holm_multiplies_steps_down_and_keeps_the_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
