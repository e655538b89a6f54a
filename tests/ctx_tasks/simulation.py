"""Scores of two runs, simulated many trials at a time, whose truth is known.

Documents of a cluster go together in half of their draws: a flip, or a score, is drawn for the
whole cluster or for the document alone, each with probability 1/2. That is much dependence: a
quarter of the flips of two questions on a passage are one and the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# Shapes of clusters, by what they stand for.
PASSAGES = (1, 5, 13, "dominant")
NEEDLES = ("3 needles", "5 needles", "8 needles")
# Trials drawn at a time, and at most of one setting.
BATCH, MOST = 500, 8000
# Sizes of graded changes, alike likely: a quarter of the words, a half, three quarters, all.
GRADES = np.array([0.25, 0.5, 0.75, 1.0])


def cluster_numbers(n: int, shape: int | str) -> np.ndarray:
    """Clusters of so many documents each; one that holds half of them; or so many needles."""
    if isinstance(shape, int):
        return np.arange(n) // shape
    if shape == "dominant":
        return np.concatenate([np.zeros(n // 2, int), 1 + np.arange(n - n // 2) // 5])
    return np.arange(n) * int(shape.split()[0]) // n


def draws(rng, trials: int, numbers: np.ndarray, together: float = 0.5) -> np.ndarray:
    """Uniform draws [trials, n], which a cluster shares with probability `together`."""
    n, groups = len(numbers), int(numbers.max()) + 1
    shared = rng.random((trials, groups))[:, numbers]
    return np.where(rng.random((trials, n)) < together, shared, rng.random((trials, n)))


def scores(rng, trials: int, numbers: np.ndarray, rate: float, together: float = 0.5):
    """Scores of 0 and 1 [trials, n] of which `rate` are 1 in the long run."""
    return (draws(rng, trials, numbers, together) < rate).astype(float)


def changes(
    rng, trials: int, numbers: np.ndarray, up: float, down: float, *, graded=False, together=0.5
) -> np.ndarray:
    """Score after minus score before [trials, n], of which `up` rise and `down` fall.

    Graded changes have one of four sizes, 0.625 on average.
    """
    drawn = draws(rng, trials, numbers, together)
    found = np.where(drawn < up, 1.0, np.where(drawn < up + down, -1.0, 0.0))
    return found * rng.choice(GRADES, found.shape) if graded else found


def possible(flips: float, baseline: float) -> float:
    """Up and down flips alike, where only hits can be lost and only misses won."""
    return min(flips / 2, baseline, 1 - baseline)


def noise(share: float, trials: int = MOST) -> float:
    """Two and a half standard errors of a simulated share: 0.7 points at 6 %."""
    return 2.5 * float(np.sqrt(share * (1 - share) / trials))


def how_often(
    happens: Callable[[np.random.Generator, int], np.ndarray], limit: float, seed: Sequence[int]
) -> float:
    """Share of trials in which something happens: [trials] of a generator and their number.

    Drawn in batches until it is two standard errors below `limit`, or for `MOST` trials; so that
    what is far from the limit costs little, and what is near it is known well.
    """
    rng, found = np.random.default_rng(seed), 0.0
    for trials in range(BATCH, MOST + 1, BATCH):
        found += float(np.sum(happens(rng, BATCH)))
        if found / trials < limit - 2 * np.sqrt(limit * (1 - limit) / trials):
            break
    return found / trials
