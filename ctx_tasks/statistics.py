"""Statistics of a comparison: paired differences with clustered errors, intervals, exact tests.

Questions on one passage are not independent: they form one cluster, and clusters are the unit of
every error here. The cluster-robust error is that of Cameron and Miller, "A Practitioner's Guide
to Cluster-Robust Inference" (J. Human Resources 50, 2015), with their small-sample factor
G / (G - 1); intervals use Student's t with G - 1 degrees of freedom, or a bootstrap that draws
whole clusters. McNemar's test is the exact one; Holm's correction holds under any dependence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctx_tasks.errors import UserError
from ctx_tasks.results import Samples

CONFIDENCE = 0.95
# Bounds the memory of a bootstrap: this many draws are held at a time.
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Difference:
    """A mean difference with its standard error and its 95 % interval.

    `error`, `low` and `high` are NaN where they cannot be known: with fewer than two clusters.

    Attributes:
        n: pairs of documents.
        clusters: groups of documents that may depend on each other.
    """

    mean: float
    error: float
    low: float
    high: float
    n: int
    clusters: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_difference(a: Samples, b: Samples, metric: str, resamples: int = 0) -> Difference:
    """How much more `b` scores than `a` on the documents both have.

    Args:
        a, b: samples of one task; only documents in both count, joined by `doc_hash`.
        metric: one of the scores of both; documents without a value in either are left out.
        resamples: 0 for Student's t interval; else the percentile interval of a bootstrap with so
            many resamples of whole clusters (2000 is usual), seeded, so that it repeats.

    Raises:
        UserError: no document in both.
    """
    changes, clusters = paired_changes(a, b, metric)
    if not len(changes):
        raise UserError(
            f"The two results share no document with a {metric}: compare runs of the same data."
        )
    return clustered_difference(changes, clusters, resamples)


def paired_changes(a: Samples, b: Samples, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Score of `b` minus score of `a` per shared document [n], and cluster numbers [n] from 0."""
    places = {doc_hash: place for place, doc_hash in enumerate(a.doc_hashes)}
    pairs = [(places[h], place) for place, h in enumerate(b.doc_hashes) if h in places]
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    changes = b.scores[metric][second] - a.scores[metric][first]
    known = ~np.isnan(changes)
    return changes[known], cluster_numbers([a.clusters[place] for place in first[known]])


def cluster_numbers(clusters: Sequence[str]) -> np.ndarray:
    """Names of clusters as numbers from 0, one per document [n]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=int)


def cluster_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of the mean of `values` [n] whose clusters are numbered `clusters` [n].

    sqrt(G / (G - 1) * sum over clusters of (sum of deviations)^2) / n; with clusters of one it is
    the usual standard error of a mean. NaN with fewer than two clusters.
    """
    sums = np.bincount(clusters, weights=values - values.mean())
    if len(sums) < 2:
        return math.nan
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))


def independent_difference(a: tuple[float, float, int], b: tuple[float, float, int]) -> Difference:
    """How much more `b` scores than `a`, each (mean, error, n), on different documents.

    Welch's interval with n - 1 degrees of freedom a side.
    """
    mean, error = b[0] - a[0], math.hypot(a[1], b[1])
    below = sum(e**4 / (n - 1) for _, e, n in (a, b) if n > 1)
    freedom = error**4 / below if below else math.inf
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) if error else 0.0
    return Difference(mean, error, mean - reach, mean + reach, a[2] + b[2], a[2] + b[2])


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """The mean of differences on independent tasks, each counting once.

    Degrees of freedom by Welch and Satterthwaite (Biometrics Bulletin 2, 1946).
    """
    mean = float(np.mean([part.mean for part in parts]))
    variances = np.array([part.error**2 for part in parts])
    error = float(np.sqrt(variances.sum())) / len(parts)
    below = sum(v**2 / (p.clusters - 1) for v, p in zip(variances, parts, strict=True) if v > 0)
    freedom = variances.sum() ** 2 / below if below else math.inf
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) if error else error
    counts = sum(part.n for part in parts), sum(part.clusters for part in parts)
    return Difference(mean, error, mean - reach, mean + reach, *counts)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of as uneven a split of the documents that flipped (McNemar 1947)."""
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    raised = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(raised, 1.0)
    return [float(p) for p in corrected]


def clustered_difference(
    changes: np.ndarray, clusters: np.ndarray, resamples: int = 0
) -> Difference:
    """Mean of `changes` [n] in `clusters` [n] (numbers from 0); `resamples` as above."""
    mean, error = float(changes.mean()), cluster_error(changes, clusters)
    count = int(clusters.max()) + 1
    if resamples and count > 1:
        low, high = _bootstrap_interval(changes, clusters, resamples)
    else:
        # One cluster: the error is NaN already, and Student's t has no degree of freedom.
        reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, max(count - 1, 1)))
        low, high = mean - reach, mean + reach
    return Difference(mean, error, low, high, len(changes), count)


def _bootstrap_interval(
    changes: np.ndarray, clusters: np.ndarray, resamples: int
) -> tuple[float, float]:
    """Percentiles of the mean over resamples of whole clusters."""
    sums, sizes = np.bincount(clusters, weights=changes), np.bincount(clusters)
    rng = np.random.default_rng(0)
    rows = max(_DRAWS_AT_ONCE // len(sums), 1)
    means = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(len(sums), size=(min(rows, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [outside, 1 - outside])
    return float(low), float(high)
