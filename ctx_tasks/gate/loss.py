"""The loss of a task, with one-sided 95 % bounds.

Two methods, because each fails where the other holds (`tests/ctx_tasks/gate/test_gate_statistics`):

* **t**: CR2 errors and Student's t with Bell and McCaffrey's degrees of freedom
  (`ctx_tasks.intervals`), after Agresti and Min's addition of half a document to each side of the
  flips ("Simple improved confidence intervals for comparing matched proportions", Statistics in
  Medicine 24, 2005): without it a few flips, or none, would look like certainty. It says whether
  there is a loss beyond the margin.
* **Tango's score bound** (Statistics in Medicine 17, 1998) on an effective number of documents:
  after few flips, all one way, the t bound promises too small a loss. "The loss is at most x" is
  the larger of the two bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctx_tasks import signs
from ctx_tasks.intervals import Array, Clustering, effective_for_rare, tango

LEVEL = 0.05


@dataclass(frozen=True)
class Loss:
    """A loss, its standard error and one-sided 95 % bounds; `p` of a loss within the margin."""

    mean: float
    error: float
    low: float
    high: float
    p: float
    n: int
    clusters: int


def paired_loss(
    losses: Array, clusters: Array, margin: float, largest: float = 1.0, bounded: bool = True
) -> Loss:
    """Bounds of the mean of `losses` [n] in `clusters` [n] (numbers from 0).

    Args:
        largest: the loss of a document that flips: 1 for scores from 0 to 1.
        bounded: whether the scores have bounds; else there is no score bound.
    """
    clustering = Clustering.of(clusters)
    found = bounds(losses, clustering, largest, bounded)
    mean, error, low, high = (float(value) for value in found)
    if clustering.few:
        least = float(signs.least(clustering.sums(losses), clustering.sizes, LEVEL))
        low = max(low, min(least, mean))
    p = float(p_beyond(losses, found[0], found[1], margin, clustering))
    return Loss(mean, error, low, high, p, clustering.n, clustering.count)


def bounds(
    losses: Array, clustering: Clustering, largest: float = 1.0, bounded: bool = True
) -> tuple[Array, Array, Array, Array]:
    """Mean, error, lower and upper bound of `losses` [..., n], each [...]."""
    n = clustering.n + 2
    mean = losses.sum(axis=-1) / n
    # Half a document gained and half a one lost, twice.
    squares = clustering.squares(losses - mean[..., None]) + largest**2
    error = np.sqrt(squares) / n
    quantile = float(stats.t.ppf(1 - LEVEL, clustering.freedom))
    low, high = mean - quantile * error, mean + quantile * error
    if bounded:
        effective = effective_for_rare(losses, clustering, quantile, largest)
        high = np.maximum(high, tango(losses, effective, quantile, largest)[1])
    return mean, error, low, high


def p_beyond(
    losses: Array, mean: Array, error: Array, margin: float, clustering: Clustering
) -> Array:
    """p [...] of as large a mean of `losses` [..., n] if the true one were the margin.

    Args:
        mean, error: as `bounds` gives them, [...].
    """
    by_t = np.asarray(stats.t.sf((mean - margin) / error, clustering.freedom))
    if not clustering.few:
        return by_t
    return np.minimum(by_t, signs.p_above(clustering.sums(losses), clustering.sizes, margin))
