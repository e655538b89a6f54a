"""Statistics of scores and of comparisons: errors over clusters, intervals, tests.

Questions on one passage are not independent: they form one cluster, and clusters are the unit of
every error here. The formulas, and where they come from, stand in `ctx_tasks.intervals`: errors are
CR2 with Bell and McCaffrey's degrees of freedom, and wherever a t interval fails (scores near 0 or
1, few flips) the interval is one for proportions on an effective number of documents. Every error
that is shown, on the leaderboard, in a comparison, by the gate or the demo, is one of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctx_tasks.answers import CUT
from ctx_tasks.errors import UserError
from ctx_tasks.intervals import Clustering, change_interval, score_interval
from ctx_tasks.results import Samples

CONFIDENCE = 0.95
# Scales of metrics that do not go from 0 to 1.
SCALES = {"rating": (1.0, 10.0)}
_NORMAL = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Estimate:
    """A mean score with its standard error and its 95 % interval.

    `error`, `low` and `high` are NaN where they cannot be known: with one cluster. Where all scores
    are equal, and so show no error, `error` is that of which the interval would be 1.96 a side.

    Attributes:
        n: documents.
        clusters: groups of documents that may depend on each other.
        freedom: degrees of freedom of the error.
        method: of the interval: "Wilson", "Clopper-Pearson", "Student" or "unknown".
    """

    mean: float
    error: float
    low: float
    high: float
    n: int
    clusters: int
    freedom: float
    method: str


@dataclass(frozen=True)
class Difference:
    """A mean difference with its standard error and its 95 % interval; fields as in `Estimate`."""

    mean: float
    error: float
    low: float
    high: float
    n: int
    clusters: int
    freedom: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


# ---- one run -------------------------------------------------------------------------------------


def estimate(
    values: np.ndarray, clusters: np.ndarray, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Mean of `values` [n] in `clusters` [n] (numbers from 0) with an interval that holds.

    Args:
        bounds: the least and the largest score there can be; None for 0 and 1 if all values lie
            there, and else for a score without bounds, whose interval is Student's.
    """
    clustering = Clustering.of(clusters)
    mean, error, freedom = float(values.mean()), float(clustering.error(values)), clustering.freedom
    counts = len(values), clustering.count
    if bounds is None and values.min() >= 0 and values.max() <= 1:
        bounds = (0.0, 1.0)
    if clustering.count < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, *counts, math.nan, "unknown")
    if bounds is None:
        reach = _quantile(freedom) * error
        return Estimate(mean, error, mean - reach, mean + reach, *counts, freedom, "Student")
    least, width = bounds[0], bounds[1] - bounds[0]
    equal = values.min() == values.max()
    ends = score_interval((values - least) / width, clustering, CONFIDENCE)
    low, high = (least + width * float(end) for end in ends)
    error = (high - low) / 2 / _NORMAL if equal else error
    method = "Clopper-Pearson" if equal else "Wilson"
    return Estimate(mean, error, low, high, *counts, freedom, method)


def estimate_samples(samples: Samples, metric: str) -> Estimate:
    """`estimate` of a task's documents that have a score.

    Raises:
        UserError: none has.
    """
    values = samples.scores[metric]
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        raise UserError(f"No document has a {metric}; run the task again.")
    clusters = cluster_numbers([samples.clusters[place] for place in known])
    return estimate(values[known], clusters, SCALES.get(metric))


def cluster_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """CR2 standard error of the mean of `values` [n] whose clusters are numbered `clusters` [n].

    With clusters of one it is the usual standard error of a mean; NaN with one cluster.
    """
    return float(Clustering.of(clusters).error(values))


def cluster_numbers(clusters: Sequence[str]) -> np.ndarray:
    """Names of clusters as numbers from 0, one per document [n]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=int)


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


# ---- two runs ------------------------------------------------------------------------------------


def paired_difference(a: Samples, b: Samples, metric: str) -> Difference:
    """How much more `b` scores than `a` on the documents both have.

    Args:
        a, b: samples of one task; only documents in both count, joined by `doc_hash`.
        metric: one of the scores of both; documents without a value in either are left out.

    Raises:
        UserError: no document in both.
    """
    changes, clusters = paired_changes(a, b, metric)
    if not len(changes):
        raise UserError(
            f"The two results share no document with a {metric}: compare runs of the same data."
        )
    return clustered_difference(
        changes, clusters, has_bounds(metric, a.scores[metric], b.scores[metric])
    )


def has_bounds(metric: str, *scores: np.ndarray) -> bool:
    """Whether the scores have a least and a largest value: ratings, and all from 0 to 1."""
    least, most = SCALES.get(metric, (0.0, 1.0))
    return all(np.nanmin(one) >= least and np.nanmax(one) <= most for one in scores)


def paired_changes(a: Samples, b: Samples, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Score of `b` minus score of `a` per compared document [n], and cluster numbers [n] from 0."""
    first, second = paired_places(a, b, metric)
    changes = b.scores[metric][second] - a.scores[metric][first]
    return changes, cluster_numbers([a.clusters[place] for place in first])


def paired_places(a: Samples, b: Samples, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Places in `a` and in `b` of the documents [n] that are compared.

    Those are all that both have a score for; where the two cut the prompts of different documents,
    those that neither cut.
    """
    first, second = _shared(a, b)
    known = ~np.isnan(b.scores[metric][second] - a.scores[metric][first])
    if cut_apart(a, b):
        known &= ~(_cut(a)[first] | _cut(b)[second])
    return first[known], second[known]


def cut_apart(a: Samples, b: Samples) -> int:
    """How many shared documents lost tokens in one or both, if not the same in both; else 0."""
    first, second = _shared(a, b)
    one, other = _cut(a)[first], _cut(b)[second]
    return int((one | other).sum()) if (one != other).any() else 0


def _shared(a: Samples, b: Samples) -> tuple[np.ndarray, np.ndarray]:
    places = {doc_hash: place for place, doc_hash in enumerate(a.doc_hashes)}
    pairs = [(places[h], place) for place, h in enumerate(b.doc_hashes) if h in places]
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return first, second


def _cut(samples: Samples) -> np.ndarray:
    """Which documents lost tokens [n]; none where nobody counted."""
    return np.asarray(samples.scores.get(CUT, np.zeros(len(samples.doc_hashes))) > 0)


def clustered_difference(
    changes: np.ndarray, clusters: np.ndarray, bounded: bool = True
) -> Difference:
    """Mean of `changes` [n] in `clusters` [n] (numbers from 0), with its interval.

    Args:
        bounded: whether the scores have bounds; those without have the t interval alone. A
            document that flips changes by 1, or by as much as any was seen to (ratings).
    """
    clustering = Clustering.of(clusters)
    mean, error, freedom = (
        float(changes.mean()),
        float(clustering.error(changes)),
        clustering.freedom,
    )
    counts = len(changes), clustering.count
    reach = _quantile(freedom) * error
    low, high = mean - reach, mean + reach
    if bounded and clustering.count > 1:
        largest = max(1.0, float(np.abs(changes).max()))
        low, high = map(float, change_interval(changes, clustering, CONFIDENCE, largest))
        error = (high - low) / 2 / _NORMAL if changes.min() == changes.max() else error
    return Difference(mean, error, low, high, *counts, freedom)


def independent_difference(a: Estimate, b: Estimate) -> Difference:
    """How much more `b` scores than `a`, on different documents: Welch's interval."""
    mean, error = b.mean - a.mean, math.hypot(a.error, b.error)
    freedom = _satterthwaite([a.error, b.error], [a.freedom, b.freedom])
    reach = error * _quantile(freedom)
    counts = a.n + b.n, a.clusters + b.clusters
    return Difference(mean, error, mean - reach, mean + reach, *counts, freedom)


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """The mean of differences on independent tasks, each counting once."""
    mean = float(np.mean([part.mean for part in parts]))
    error = math.hypot(*(part.error for part in parts)) / len(parts)
    freedom = _satterthwaite([part.error for part in parts], [part.freedom for part in parts])
    reach = error * _quantile(freedom)
    counts = sum(part.n for part in parts), sum(part.clusters for part in parts)
    return Difference(mean, error, mean - reach, mean + reach, *counts, freedom)


def _satterthwaite(errors: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum's error (Welch and Satterthwaite, Biometrics Bulletin 2, 1946).

    Infinite where no error is known to be uncertain.
    """
    below = sum(e**4 / f for e, f in zip(errors, freedoms, strict=True) if e > 0)
    return sum(e**2 for e in errors) ** 2 / below if below else math.inf


# ---- tests ---------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given; under any dependence."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    raised = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(raised, 1.0)
    return [float(p) for p in corrected]
