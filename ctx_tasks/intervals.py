"""Errors and intervals of means over clusters, for arrays of any leading shape: pure numbers.

**CR2.** For a mean the bias-reduced cluster-robust variance of Bell and McCaffrey ("Bias reduction
in standard errors for linear regression with multi-stage samples", Survey Methodology 28, 2002) has
a closed form. The hat matrix is 11'/n, so the block of a cluster of n_g documents has one
eigenvalue that is not zero, n_g / n =: p_g, with eigenvector 1, and

    V = sum over clusters of S_g^2 / (1 - p_g) / n^2,    S_g = sum of the cluster's deviations.

Equal clusters make it the usual G / (G - 1) * sum of S_g^2 / n^2. Its degrees of freedom are
Satterthwaite's for independent documents (Bell and McCaffrey; Imbens and Kolesar, "Robust standard
errors in small samples", Review of Economics and Statistics 98, 2016; Pustejovsky and Tipton,
"Small-sample methods for cluster-robust variance estimation", J. Business & Economic Statistics 36,
2018). With a_g = p_g^2 / (1 - p_g) that is

    1 / (sum of p_g^2 + (sum of a_g)^2 - sum of a_g^2),

G - 1 for equal clusters, and less the more one of them dominates.

**Scores near an end.** There a t interval fails, so bounded scores get intervals for proportions on
an effective number of documents, n / design effect (Korn and Graubard, Survey Methodology 24, 1998;
compared by Dean and Pagano, J. Survey Statistics and Methodology 3, 2015): Wilson's, or, where all
scores are equal, Clopper and Pearson's on one document a cluster. Paired flips get Tango's score
interval (Statistics in Medicine 17, 1998) in the same way.

**What they hold.** At least 93 % for 8 to 400 documents, alone or in clusters of 5, and rates of
0.02, 0.5, 0.98 and 1; at 400 at most 97 %, but for 0.02 and 0.98 in clusters of 5: 96.8 to 97.8 %,
computed exactly. There an interval can miss on one side alone, which may have 2.5 %: one hit in 400
says nothing about whether hits come in clusters, and leaving 0.02 out after it would hold it in 92
of 100 draws where they do. 80 clusters that are all alike leave no choice but 92.3 % or 97.8 %
(`tests/ctx_tasks/test_interval_limits.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctx_tasks import signs

Array = np.ndarray
# Fewer than these are no sample of the clusters there might be.
FEW_CLUSTERS = 10
_HALVINGS = 40


@dataclass(frozen=True)
class Clustering:
    """Which documents belong together, and what the sizes of the clusters decide.

    Attributes:
        order, starts: documents [n] sorted by cluster, and each cluster's first place there [G].
        sizes: documents in each cluster [G].
    """

    order: Array
    starts: Array
    sizes: Array

    @classmethod
    def of(cls, numbers: Array) -> Clustering:
        """From cluster numbers [n]; every number from 0 to the largest occurs."""
        sizes = np.bincount(numbers)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return cls(np.argsort(numbers, kind="stable"), starts, sizes)

    @property
    def n(self) -> int:
        """Documents."""
        return len(self.order)

    @property
    def count(self) -> int:
        """Clusters."""
        return len(self.sizes)

    @property
    def freedom(self) -> float:
        """Bell and McCaffrey's degrees of freedom; NaN with one cluster."""
        if self.count < 2:
            return np.nan
        shares = self.sizes / self.n
        parts = shares**2 / (1 - shares)
        return float(1 / ((shares**2).sum() + parts.sum() ** 2 - (parts**2).sum()))

    @property
    def largest_effect(self) -> float:
        """The design effect if all documents of a cluster scored alike (Kish 1965)."""
        return float((self.sizes**2).sum() / self.n)

    @property
    def evenly(self) -> float:
        """Clusters of one size that would tell as much: all of them, or fewer if some dominate."""
        return self.n / self.largest_effect

    @property
    def few(self) -> bool:
        """Whether these are no sample of the clusters there might be."""
        return self.evenly < FEW_CLUSTERS

    def sums(self, values: Array) -> Array:
        """Sums of `values` [..., n] by cluster [..., G]."""
        return np.add.reduceat(values[..., self.order], self.starts, axis=-1)

    def squares(self, deviations: Array) -> Array:
        """n^2 times the CR2 variance of a mean with these deviations [..., n]: [...]."""
        if self.count < 2:
            return np.full(deviations.shape[:-1], np.nan)
        return (self.sums(deviations) ** 2 / (1 - self.sizes / self.n)).sum(axis=-1)

    def error(self, values: Array) -> Array:
        """CR2 standard errors of the means of `values` [..., n]: [...]; NaN with one cluster."""
        return np.sqrt(self.squares(values - values.mean(axis=-1, keepdims=True))) / self.n

    def effective(self, values: Array, unseen: float) -> Array:
        """Independent documents that would tell as much as `values` [..., n]: [...].

        n over the design effect, the CR2 variance as a multiple of that of independent documents.
        A few rare scores cannot show whether they come in clusters, and equal ones show nothing:
        so documents of variance `unseen` in all are added that move with an average cluster, n / G
        documents. Without them equal scores count as independent.
        """
        deviations = values - values.mean(axis=-1, keepdims=True)
        independent = (deviations**2).sum(axis=-1) + unseen
        clustered = self.squares(deviations) + unseen * self.n / self.count
        effect = np.divide(
            clustered, independent, out=np.ones_like(independent), where=independent > 0
        )
        return self.n / np.clip(effect, 1.0, self.largest_effect)


def score_interval(shares: Array, clustering: Clustering, level: float) -> tuple[Array, Array]:
    """Interval of the means of scores from 0 to 1 [..., n]: [...], [...].

    Wilson's with Student's quantile; Clopper and Pearson's where all scores are equal.
    """
    mean = shares.mean(axis=-1)
    # The variance of a document that is as likely 0 as 1.
    effective = clustering.effective(shares, unseen=0.25)
    quantile = float(stats.t.ppf((1 + level) / 2, clustering.freedom))
    low, high = wilson(mean, shares.var(axis=-1), effective, quantile)
    equal = shares.min(axis=-1) == shares.max(axis=-1)
    least, most = clopper_pearson(mean, clustering.count, level)
    return np.where(equal, least, low), np.where(equal, most, high)


def change_interval(
    changes: Array, clustering: Clustering, level: float, largest: float
) -> tuple[Array, Array]:
    """Interval of mean `changes` [..., n] of bounded scores: [...], [...].

    Student's t interval says whether there is a change; how large it may be, Tango's score interval
    says as well, because after a few flips the t interval ends too early on the far side. Where all
    changes are equal there is nothing for t to go by; where clusters are few or one dominates, the
    randomisation of signs says as well whether there is a change.
    """
    quantile = float(stats.t.ppf((1 + level) / 2, clustering.freedom))
    mean, reach = changes.mean(axis=-1), quantile * clustering.error(changes)
    effective = effective_for_rare(changes, clustering, quantile, largest)
    least, most = tango(changes, effective, quantile, largest)
    equal = changes.min(axis=-1) == changes.max(axis=-1)
    low, high = mean - reach, mean + reach
    up, down = (_found(sign * changes, clustering, (1 - level) / 2) for sign in (1, -1))
    low = np.where((low > 0) & ~equal, low, np.maximum(np.minimum(low, least), up))
    high = np.where((high < 0) & ~equal, high, np.minimum(np.maximum(high, most), -down))
    return low, high


def _found(changes: Array, clustering: Clustering, outside: float) -> Array:
    """From where on means are held that the signs of few clusters do not refuse [...]."""
    if not clustering.few:
        return np.full(changes.shape[:-1], -np.inf)
    return signs.least(clustering.sums(changes), clustering.sizes, outside)


def wilson(share: Array, variance: Array, n: Array, quantile: float) -> tuple[Array, Array]:
    """Wilson's interval (J. American Statistical Association 22, 1927) of means from 0 to 1.

    Args:
        share: the means [...].
        variance: of one document [...]; for scores of 0 and 1 it is share * (1 - share). That of
            graded scores is drawn towards it with the weight of the quantile^2 documents that
            Wilson's interval adds, because a few graded scores do not show the rare zero.
        n: effective documents [...].
    """
    added = quantile**2
    largest = share * (1 - share)
    variance = (n * variance + added * largest) / (n + added)
    worth = n * np.divide(largest, variance, out=np.ones_like(variance), where=variance > 0)
    middle = (share * worth + added / 2) / (worth + added)
    reach = quantile * np.sqrt(worth * largest + added / 4) / (worth + added)
    return middle - reach, middle + reach


def clopper_pearson(share: Array, n: float, level: float) -> tuple[Array, Array]:
    """Clopper and Pearson's interval (Biometrika 26, 1934); neither count need be whole."""
    outside = (1 - level) / 2
    hits, misses = share * n, (1 - share) * n
    low = np.where(hits > 0, stats.beta.ppf(outside, np.maximum(hits, 1e-9), misses + 1), 0.0)
    high = np.where(misses > 0, stats.beta.isf(outside, hits + 1, np.maximum(misses, 1e-9)), 1.0)
    return low, high


def effective_for_rare(
    changes: Array, clustering: Clustering, quantile: float, largest: float = 1.0
) -> Array:
    """Independent documents that would tell as much as `changes` [..., n], rare ones too: [...].

    Wilson's interval adds quantile^2 documents that are as likely 0 as 1; here as many are unseen
    that are as likely to flip as not (variance 1/2), and each moves with an average cluster. With
    fewer than `FEW_CLUSTERS` none is, and the number is about these clusters alone: a few needles
    say nothing about another, and an interval that allowed for it would hold every loss.
    """
    few = clustering.count < FEW_CLUSTERS
    return clustering.effective(changes, 0.0 if few else (quantile * largest) ** 2 / 2)


def tango(
    changes: Array, effective: Array, quantile: float, largest: float = 1.0
) -> tuple[Array, Array]:
    """Tango's score interval of mean `changes` [..., n] of `effective` [...] documents.

    Graded changes count as flips of their typical size, sum of squares over sum of sizes, after the
    manner of Fay and Feuer (Statistics in Medicine 16, 1997) with one flip of the `largest` size
    added; flips of 0 and 1 have size 1.
    """
    sizes = np.abs(changes)
    unit = ((sizes**2).sum(axis=-1) + largest**2) / (sizes.sum(axis=-1) + largest)
    scale = effective / changes.shape[-1] / unit
    up = np.maximum(changes, 0).sum(axis=-1) * scale
    down = np.maximum(-changes, 0).sum(axis=-1) * scale
    high = _tango_high(up, down, effective, quantile)
    low = -_tango_high(down, up, effective, quantile)
    return low * unit, high * unit


def _tango_high(up: Array, down: Array, n: Array, quantile: float) -> Array:
    """The largest mean change not refused, by halving; -1 to 1."""
    refused, kept = np.ones_like(up), (up - down) / n
    for _ in range(_HALVINGS):
        middle = (refused + kept) / 2
        inside = (n * middle - (up - down)) <= quantile * _tango_error(up, down, n, middle)
        kept, refused = np.where(inside, middle, kept), np.where(inside, refused, middle)
    return kept


def _tango_error(up: Array, down: Array, n: Array, mean: Array) -> Array:
    """Standard error of up - down if the mean change is `mean`, at the likeliest rate of flips."""
    a = 2 * n
    b = -up - down + (2 * n - up + down) * mean
    c = -down * mean * (1 - mean)
    rate = (np.sqrt(np.maximum(b**2 - 4 * a * c, 0)) - b) / (2 * a)
    return np.sqrt(np.maximum(n * (2 * rate + mean * (1 - mean)), 0))
