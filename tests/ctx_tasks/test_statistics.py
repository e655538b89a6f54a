"""Errors, intervals and tests over clusters, against textbook values and matrices written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ctx_tasks.errors import UserError
from ctx_tasks.intervals import Clustering, tango
from ctx_tasks.results import Samples
from ctx_tasks.signs import sign_flip
from ctx_tasks.statistics import (
    Difference,
    Estimate,
    cluster_error,
    clustered_difference,
    estimate,
    estimate_samples,
    holm,
    independent_difference,
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
    assert (found.n, found.clusters, found.freedom) == (30, 30, pytest.approx(29))


def written_out(sizes):
    """CR2 and its degrees of freedom for a mean, by the matrices of Bell and McCaffrey."""
    n = sum(sizes)
    groups = np.split(np.arange(n), np.cumsum(sizes)[:-1])
    residual = np.eye(n) - np.full((n, n), 1 / n)
    rows = []
    for group in groups:
        block = residual[np.ix_(group, group)]
        values, vectors = np.linalg.eigh(block)
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        rows.append(np.ones(len(group)) / n @ root @ residual[group])
    product = np.array(rows) @ np.array(rows).T
    return np.array(rows), np.trace(product) ** 2 / np.trace(product @ product)


@pytest.mark.parametrize("sizes", [[1] * 6, [5, 5, 5], [40, 3, 3, 3, 3, 3], [1, 2, 3, 4], [9, 1]])
def test_error_and_degrees_of_freedom_are_those_of_the_matrices(sizes):
    rows, freedom = written_out(sizes)
    values = np.random.default_rng(4).normal(size=sum(sizes))
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    mixed = np.random.default_rng(5).permutation(len(numbers))
    assert cluster_error(values[mixed], numbers[mixed]) == pytest.approx(
        np.sqrt(((rows @ values) ** 2).sum())
    )
    assert Clustering.of(numbers).freedom == pytest.approx(freedom)


def test_errors_of_many_trials_at_once_are_those_of_each():
    values, numbers = np.random.default_rng(6).normal(size=(3, 12)), np.arange(12) // 5
    together = Clustering.of(numbers).error(values)
    assert together == pytest.approx([cluster_error(row, numbers) for row in values])


def test_eight_of_eight_is_no_certainty():
    """Clopper and Pearson's lower end is the p with p^8 = 0.025."""
    found = estimate(np.ones(8), np.arange(8))
    assert (found.mean, found.high, found.method) == (1.0, 1.0, "Clopper-Pearson")
    assert found.low == pytest.approx(0.025 ** (1 / 8))
    assert found.error == pytest.approx((1 - found.low) / 2 / 1.959964)
    of_two_passages = estimate(np.ones(8), np.arange(8) // 4)
    assert of_two_passages.low == pytest.approx(0.025**0.5)
    assert estimate(np.zeros(8), np.arange(8)).high == pytest.approx(1 - found.low)


def test_with_questions_of_their_own_it_is_the_score_interval():
    """Wilson's ends solve |mean - p| = t sqrt(p (1 - p) / n)."""
    scores = np.array([1.0] * 30 + [0.0] * 6)
    found = estimate(scores, np.arange(36))
    t = stats.t.ppf(0.975, 35)
    for end in (found.low, found.high):
        assert abs(5 / 6 - end) == pytest.approx(t * np.sqrt(end * (1 - end) / 36))
    assert found.error == pytest.approx(stats.sem(scores))


def test_one_passage_has_an_unknown_error_and_no_interval():
    found = estimate(np.array([1.0, 0.0]), np.zeros(2, dtype=int))
    assert (found.mean, found.clusters, found.method) == (0.5, 1, "unknown")
    assert all(math.isnan(value) for value in (found.error, found.low, found.high))


def test_a_rating_has_its_own_scale_and_a_loss_none():
    ratings = estimate_samples(
        Samples([*"abcd"], [*"abcd"], {"rating": np.array([10.0, 10, 10, math.nan])}), "rating"
    )
    assert (ratings.n, ratings.high) == (3, 10)
    assert ratings.low == pytest.approx(1 + 9 * 0.025 ** (1 / 3))
    losses = np.array([2.0, 3.0, 2.5])
    found = estimate(losses, np.arange(3))
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 2, 2.5, stats.sem(losses))
    )


def test_tangos_ends_are_those_his_statistic_does_not_refuse():
    """Ten up and three down of 60: the score statistic is the quantile at both ends."""
    changes = np.array([1.0] * 10 + [-1.0] * 3 + [0.0] * 47)
    low, high = tango(changes, np.array(60.0), 1.96)
    for end, sign in ((low, 1), (high, -1)):
        # The likeliest share of documents down, given the difference: the root of his quadratic.
        b, c = -13 + (120 - 7) * end, -3 * end * (1 - end)
        share = (np.sqrt(b**2 - 4 * 120 * c) - b) / 240
        score = (7 - 60 * end) / np.sqrt(60 * (2 * share + end * (1 - end)))
        assert score == pytest.approx(sign * 1.96, abs=1e-6)


def test_documents_that_never_changed_may_yet_change():
    """No flip in 100: Tango's interval, whose ends solve n p = t^2 / (1 + t^2 / n)."""
    found = clustered_difference(np.zeros(100), np.arange(100))
    t = stats.t.ppf(0.975, 99)
    assert (found.mean, found.high) == (0.0, pytest.approx(t**2 / (100 + t**2)))
    assert found.low == -found.high
    assert found.error == pytest.approx(found.high / 1.959964)
    assert not found.clear


def test_scores_without_bounds_have_the_t_interval_alone():
    a, b = samples([2.0, 3.0, 4.0, 5.0]), samples([2.01, 3.02, 4.01, 5.02])
    found = paired_difference(a, b, "score")
    assert found.low == pytest.approx(0.015 - stats.t.ppf(0.975, 3) * found.error)
    assert found.clear


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


def test_the_mean_of_two_tasks_counts_each_once():
    parts = [Difference(0.2, 0.03, 0, 0, 100, 100, 99), Difference(0.0, 0.04, 0, 0, 9, 9, 8)]
    found = mean_difference(parts)
    assert (found.mean, found.error) == pytest.approx((0.1, 0.025))
    # Welch and Satterthwaite by hand.
    freedom = 0.0025**2 / (0.0009**2 / 99 + 0.0016**2 / 8)
    assert found.high == pytest.approx(0.1 + 0.025 * stats.t.ppf(0.975, freedom))
    assert found.clear


def test_different_documents_are_compared_by_welch_over_their_clusters():
    rng = np.random.default_rng(7)
    a, b = rng.normal(3, 1, 20), rng.normal(4, 2, 12)
    found = independent_difference(estimate(a, np.arange(20)), estimate(b, np.arange(12)))
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    few = independent_difference(
        Estimate(0.5, 0.1, 0, 1, 400, 3, 2.0, ""), Estimate(0.9, 0.0, 0, 1, 400, 400, 399.0, "")
    )
    assert few.high - few.low == pytest.approx(0.2 * stats.t.ppf(0.975, 2))


def test_flips_of_questions_of_their_own_are_tested_by_mcnemar():
    assert sign_flip(np.zeros(5), np.arange(5)) == 1.0
    flips = np.array([1.0] + [-1.0] * 8 + [0.0] * 20)
    assert sign_flip(flips, np.arange(29)) == pytest.approx(2 * 10 / 512)


def test_three_needles_can_show_little():
    """Of the eight ways to turn three needles' signs two are as far from zero."""
    changes = np.concatenate([np.full(30, 0.3), np.full(30, 0.2), np.full(30, 0.1)])
    assert sign_flip(changes, np.arange(90) // 30) == 0.25


def test_many_clusters_are_tested_by_draws_that_repeat():
    """Against the exact distribution of sums of whole numbers, counted one cluster at a time."""
    sums = np.random.default_rng(8).integers(-3, 5, 40).astype(float)
    counts = np.array([1.0])
    for size in np.abs(sums).astype(int):
        wider = np.zeros(len(counts) + 2 * size)
        wider[: len(counts)] += counts / 2
        wider[2 * size :] += counts / 2
        counts = wider
    far = np.abs(np.arange(len(counts)) - len(counts) // 2) >= abs(sums.sum())
    found = sign_flip(sums, np.arange(40))
    assert found == pytest.approx(counts[far].sum(), abs=0.01)
    assert found == sign_flip(sums, np.arange(40))


def test_holm_multiplies_steps_down_and_keeps_the_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
