"""How often the gate errs, by simulation; prints the README's table of sizes and margins.

The limits are the promise; a share may exceed them by `noise`, 0.7 points, of 8000 trials.

python -m tests.ctx_tasks.gate.test_gate_statistics
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctx_tasks.gate.loss import LEVEL, bounds, p_beyond, paired_loss
from ctx_tasks.intervals import Clustering
from tests.ctx_tasks.simulation import (
    NEEDLES,
    PASSAGES,
    changes,
    cluster_numbers,
    how_often,
    noise,
    possible,
)

TRIALS = 1000
TASKS = 4
FAILS = 0.06
FLIPS = (0.01, 0.02, 0.1)
BASELINES = (0.02, 0.5, 0.99)


def outcomes(
    rng: np.random.Generator,
    trials: int,
    numbers: np.ndarray,
    margin: float,
    up: float,
    down: float,
    *,
    tasks: int = 1,
    **how,
) -> tuple[np.ndarray, np.ndarray]:
    """In which trials a gate of so many tasks alike fails [trials], and in which it passes."""
    clustering = Clustering.of(numbers)
    least, passes = np.ones(trials), np.ones(trials, dtype=bool)
    for _ in range(tasks):
        losses = -changes(rng, trials, numbers, up, down, **how)
        mean, error, _, high = bounds(losses, clustering)
        least = np.minimum(least, p_beyond(losses, mean, error, margin, clustering))
        passes &= high <= margin
    # Holm's correction of the smallest p.
    fails = least * tasks < LEVEL
    return fails, passes & ~fails


def false_fails(numbers: np.ndarray, step: float, seed: list[int], **how) -> float:
    """How often a gate without a margin fails, though as many documents rise as fall."""

    def fails(rng, trials):
        return outcomes(rng, trials, numbers, 0.0, step, step, **how)[0]

    return how_often(fails, FAILS, [len(numbers), len(set(numbers)), *seed])


def wrong_passes(numbers: np.ndarray, flips: float, limit: float, **how) -> float:
    """How often a gate passes a loss just beyond its margin, all of it one way."""
    loss = flips * (0.625 if how.get("graded") else 1)

    def passes(rng, trials):
        return outcomes(rng, trials, numbers, loss - 1e-9, 0.0, flips, **how)[1]

    return how_often(passes, limit, [len(numbers), len(set(numbers)), int(flips * 100)])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [*PASSAGES, *NEEDLES])
@pytest.mark.parametrize("n", [100, 400, 1000])
def test_no_change_fails_in_at_most_six_of_a_hundred_trials(n, shape):
    """Also with a margin of zero, where a fail is always wrong and never far."""
    for flips in FLIPS:
        for baseline, graded in [*((b, False) for b in BASELINES), (0.5, True)]:
            step, seed = possible(flips, baseline), [int(flips * 100), graded]
            failed = false_fails(cluster_numbers(n, shape), step, seed, graded=graded)
            assert failed <= FAILS + noise(FAILS), (flips, baseline, graded, failed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [1, 5, "dominant", "8 needles"])
@pytest.mark.parametrize("n", [400, 1000])
def test_four_tasks_together_fail_no_more_often_than_one(n, shape):
    failed = false_fails(cluster_numbers(n, shape), 0.05, [TASKS], tasks=TASKS)
    assert failed <= FAILS + noise(FAILS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "shape", "most"),
    [
        *((n, shape, 0.06) for n in (100, 400, 1000) for shape in (1, 5)),
        *((n, 13, 0.06) for n in (400, 1000)),
        # Few, or as good as few: the gate says that it speaks of these alone.
        (100, 13, 0.15),
        *((n, "dominant", 0.11) for n in (100, 400, 1000)),
    ],
)
def test_a_loss_at_the_margin_seldom_passes(n, shape, most):
    """All one way, and half of the flips those of whole clusters, which is hardest."""
    for flips in FLIPS:
        for graded in (False, True):
            passed = wrong_passes(cluster_numbers(n, shape), flips, most, graded=graded)
            assert passed <= most + noise(most), (flips, graded, passed)


@pytest.mark.parametrize("shape", ["dominant", "8 needles"])
def test_few_clusters_that_fall_as_a_whole_are_found_by_their_signs(shape):
    """Losses of 6 points beside as many flips again, of which the t bound alone finds half."""
    numbers, rng = cluster_numbers(400, shape), np.random.default_rng(6)
    clustering = Clustering.of(numbers)
    losses = -changes(rng, 500, numbers, 0.02, 0.08)
    mean, error, *_ = bounds(losses, clustering)
    by_t = stats.t.sf(mean / error, clustering.freedom) < LEVEL
    found = p_beyond(losses, mean, error, 0.0, clustering) < LEVEL
    assert found.mean() > by_t.mean() + 0.15
    for row in np.flatnonzero(found & ~by_t)[:5]:
        loss = paired_loss(losses[row], numbers, 0.0)
        assert loss.low > 0
        assert loss.p < LEVEL
        assert paired_loss(losses[row], numbers, loss.low + 1e-4).p >= LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("shape", NEEDLES)
def test_a_loss_at_the_margin_seldom_passes_with_these_needles(shape):
    """Losses that no needle has for itself; whole needles that fall are another matter.

    With 8 needles of which one in fifty falls, no fall is seen in most trials: the gate says that a
    few needles say nothing about another.
    """
    for flips in FLIPS:
        passed = wrong_passes(cluster_numbers(400, shape), flips, 0.06, together=0)
        assert passed <= 0.06 + noise(0.06), (flips, passed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [1, 5, 13])
def test_the_score_bound_keeps_three_quarters_of_the_passes(shape):
    """Of gates of one task at the sizes and margins the README names."""
    sizes = [(1000, 0.05), (1000, 0.02), (3000, 0.02)]
    # 31 passages of 13 questions are too few for 0.05: there it keeps half of them.
    for n, margin in sizes if shape == 13 else [(400, 0.05), *sizes]:
        for flips in FLIPS:
            numbers = cluster_numbers(n, shape)
            clustering = Clustering.of(numbers)
            rng = np.random.default_rng([n, shape, int(flips * 100)])
            losses = changes(rng, TRIALS, numbers, flips / 2, flips / 2)
            alone = np.mean(bounds(losses, clustering, bounded=False)[3] <= margin)
            both = np.mean(bounds(losses, clustering)[3] <= margin)
            assert both >= 0.75 * alone, (n, margin, flips, alone, both)


def shares(n: int, margin: float, up: float, down: float, trials: int) -> tuple[float, float]:
    """In which shares of trials a gate fails and passes: four tasks, five questions a passage."""
    rng = np.random.default_rng([n, int(1000 * (up + 2 * down)), TASKS])
    found = outcomes(rng, trials, cluster_numbers(n, 5), margin, up, down, tasks=TASKS)
    return float(found[0].mean()), float(found[1].mean())


@pytest.mark.slow
def test_a_pair_of_size_and_margin_works():
    """The example workflow's: a harmless change passes in all four tasks, a loss of ten fails."""
    _, passed = shares(1000, 0.05, 0.025, 0.025, TRIALS)
    failed, _ = shares(1000, 0.05, 0.025, 0.125, TRIALS)
    assert passed > 0.9
    assert failed > 0.8


def table() -> str:
    """Which documents a task and margins work, for four tasks with five questions a passage."""
    heads = ["documents a task", "margin", "2 % flip", "5 % flip", "10 % flip", "loss is found"]
    lines = [heads, ["---:"] * len(heads)]
    for n in (400, 1000, 3000):
        for margin in (0.01, 0.02, 0.05):
            harmless = [
                shares(n, margin, flips / 2, flips / 2, trials=400)[1]
                for flips in (0.02, 0.05, 0.1)
            ]
            found = shares(n, margin, 0.025, 0.075 + margin, trials=400)[0]
            numbers = [f"{share:.0%}" for share in (*harmless, found)]
            lines.append([str(n), f"{margin:.2f}", *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print("Passes of a harmless change, and fails of a loss of five points more than the margin:\n")
    print(table())
