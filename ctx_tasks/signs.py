"""Fisher's randomisation of signs over whole clusters: p of a mean change, and where it begins.

Without a change, a cluster's sum is as likely to be up as down by as much; so a mean is as unlikely
as few of the ways to turn the sums' signs give one as far from zero. It needs no error and no
degrees of freedom: where clusters are few or one dominates, and fall as a whole, it finds losses
that no t interval does (`tests/ctx_tasks/test_interval_coverage.py`).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

Array = np.ndarray
# Up to so many clusters all signs are tried, else so many draws.
_MOST_EXACT = 16
_DRAWS = 9_999
# The same for arrays of sums: every row is held against all signs at once.
_MOST_EXACT_ROWS = 10
_DRAWS_ROWS = 999
# Bounds the memory of a test: this many signs are held at a time.
_SIGNS_AT_ONCE = 4_000_000
_HALVINGS = 30


def sign_flip(changes: Array, clusters: Array) -> float:
    """Two-sided p of as large a mean change if whole clusters change up or down alike.

    All signs of the clusters' sums for up to 16 clusters that changed, else 9,999 draws, seeded,
    that count the sums themselves as one more draw. Where all sums are of one size (questions of
    their own passages that flipped) it is the exact sign test, McNemar's.

    Args:
        changes: of documents [n].
        clusters: their numbers [n] from 0.
    """
    sums = np.bincount(clusters, weights=changes)
    sums = sums[np.abs(sums) > 1e-9]
    if not len(sums):
        return 1.0
    if np.allclose(np.abs(sums), abs(sums[0])):
        return float(stats.binomtest(int((sums > 0).sum()), len(sums)).pvalue)
    # A tie is as large, whatever its last digit.
    reached = abs(float(sums.sum())) - 1e-9
    if len(sums) <= _MOST_EXACT:
        bits = np.arange(2 ** (len(sums) - 1))[:, None] >> np.arange(len(sums)) & 1
        return float((np.abs((1 - 2 * bits) @ sums) >= reached).mean())
    return (1 + _as_large(sums, reached)) / (1 + _DRAWS)


def _as_large(sums: Array, reached: float) -> int:
    """In how many of the draws of signs the sum is at least `reached` from zero."""
    rng = np.random.default_rng(0)
    rows = max(_SIGNS_AT_ONCE // len(sums), 1)
    found = 0
    for start in range(0, _DRAWS, rows):
        signs = rng.integers(2, size=(min(rows, _DRAWS - start), len(sums)), dtype=np.int8)
        found += int((np.abs((1.0 - 2.0 * signs) @ sums) >= reached).sum())
    return found


def p_above(sums: Array, sizes: Array, mean: float) -> Array:
    """One-sided p [...] of a mean as far above `mean`.

    Args:
        sums: of the values of each cluster [..., G].
        sizes: values in each [G].
    """
    return _p_above(sums - mean * sizes)


def least(sums: Array, sizes: Array, outside: float) -> Array:
    """Up to where means from 0 on are refused as too small [...]; minus infinity where 0 is not.

    Args:
        sums, sizes: as for `p_above`.
        outside: the p below which a mean is refused.
    """
    flat = sums.reshape(-1, len(sizes))
    found = np.full(len(flat), -np.inf)
    refused = np.flatnonzero((flat.sum(axis=-1) > 0) & (_p_above(flat) < outside))
    high = flat[refused].sum(axis=-1) / sizes.sum()
    low = np.zeros(len(high))
    for _ in range(_HALVINGS if len(high) else 0):
        middle = (low + high) / 2
        small = _p_above(flat[refused] - middle[:, None] * sizes) < outside
        low, high = np.where(small, middle, low), np.where(small, high, middle)
    found[refused] = low
    return found.reshape(sums.shape[:-1])


def _p_above(sums: Array) -> Array:
    """Share of signs that give the sums [..., G] a total as large as their own: [...]."""
    exact = sums.shape[-1] <= _MOST_EXACT_ROWS
    reached = sums.sum(axis=-1)[..., None] - 1e-9
    larger = (sums @ _signs(sums.shape[-1], exact) >= reached).sum(axis=-1)
    return larger / 2 ** sums.shape[-1] if exact else (1 + larger) / (1 + _DRAWS_ROWS)


def _signs(clusters: int, exact: bool) -> Array:
    """Signs [G, ways]."""
    if exact:
        return 1.0 - 2.0 * (np.arange(2**clusters) >> np.arange(clusters)[:, None] & 1)
    return np.random.default_rng(0).choice([-1.0, 1.0], (clusters, _DRAWS_ROWS))
