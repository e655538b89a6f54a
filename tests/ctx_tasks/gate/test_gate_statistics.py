"""How often the gate errs, by simulation; prints the README's table of sizes and margins.

python -m tests.ctx_tasks.gate.test_gate_statistics
"""

from __future__ import annotations

import numpy as np
import pytest

from ctx_tasks.gate.loss import LEVEL, bounds, p_beyond
from ctx_tasks.intervals import Clustering
from tests.ctx_tasks.simulation import NEEDLES, PASSAGES, changes, cluster_numbers, possible

TRIALS = 1000
TASKS = 4
FLIPS = (0.01, 0.02, 0.1)
BASELINES = (0.02, 0.5, 0.99)


def noise(share: float) -> float:
    """Two and a half standard errors of a simulated share."""
    return 2.5 * float(np.sqrt(share * (1 - share) / TRIALS))


def shares(
    n: int,
    shape: int | str,
    margin: float,
    up: float,
    down: float,
    *,
    tasks: int = 1,
    trials: int = TRIALS,
    **how,
) -> tuple[float, float]:
    """Shares of trials in which a gate of so many tasks alike fails, and in which it passes."""
    numbers = cluster_numbers(n, shape)
    clustering = Clustering.of(numbers)
    rng = np.random.default_rng([n, len(set(numbers)), int(1000 * (up + 2 * down)), tasks])
    least, passes = np.ones(trials), np.ones(trials, dtype=bool)
    for _ in range(tasks):
        losses = -changes(rng, trials, numbers, up, down, **how)
        mean, error, _, high = bounds(losses, clustering)
        least = np.minimum(least, p_beyond(mean, error, margin, clustering))
        passes &= high <= margin
    # Holm's correction of the smallest p.
    fails = least * tasks < LEVEL
    return float(fails.mean()), float((passes & ~fails).mean())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [*PASSAGES, *NEEDLES])
@pytest.mark.parametrize("n", [100, 400, 1000])
def test_no_change_fails_in_at_most_six_of_a_hundred_trials(n, shape):
    """Also with a margin of zero, where a fail is always wrong and never far."""
    for flips in FLIPS:
        for baseline, graded in [*((b, False) for b in BASELINES), (0.5, True)]:
            step = possible(flips, baseline)
            failed, _ = shares(n, shape, 0.0, step, step, graded=graded)
            assert failed <= 0.06 + noise(0.06), (flips, baseline, graded, failed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [1, 5])
@pytest.mark.parametrize("n", [400, 1000])
def test_four_tasks_together_fail_no_more_often_than_one(n, shape):
    failed, _ = shares(n, shape, 0.0, 0.05, 0.05, tasks=TASKS)
    assert failed <= 0.06 + noise(0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "most"), [(1, 0.07), (5, 0.075), (13, 0.17), ("dominant", 0.14)])
@pytest.mark.parametrize("n", [100, 400, 1000])
def test_a_loss_at_the_margin_seldom_passes(n, shape, most):
    """All one way, and half of the flips those of whole clusters, which is hardest.

    Where a passage of 13 questions falls as a whole, one in fifty, or one passage is half of all
    documents, too few falls are seen: up to one in six passes at the margin.
    """
    for flips in FLIPS:
        for graded in (False, True):
            loss = flips * (0.625 if graded else 1)
            _, passed = shares(n, shape, loss - 1e-9, 0.0, flips, graded=graded)
            assert passed <= most + noise(most), (flips, graded, passed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", NEEDLES)
def test_a_loss_at_the_margin_seldom_passes_with_these_needles(shape):
    """Losses that no needle has for itself; whole needles that fall are another matter.

    With 8 needles of which one in fifty falls, no fall is seen in most trials: the gate says that a
    few needles say nothing about another.
    """
    for flips in FLIPS:
        _, passed = shares(400, shape, flips - 1e-9, 0.0, flips, together=0)
        assert passed <= 0.07 + noise(0.07), (flips, passed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [1, 5])
def test_the_score_bound_keeps_three_quarters_of_the_passes(shape):
    """Of gates of one task at the sizes and margins the README names."""
    for n, margin in ((400, 0.05), (1000, 0.05), (1000, 0.02), (3000, 0.02)):
        for flips in FLIPS:
            numbers = cluster_numbers(n, shape)
            clustering = Clustering.of(numbers)
            rng = np.random.default_rng([n, shape, int(flips * 100)])
            losses = changes(rng, TRIALS, numbers, flips / 2, flips / 2)
            alone = np.mean(bounds(losses, clustering, bounded=False)[3] <= margin)
            both = np.mean(bounds(losses, clustering)[3] <= margin)
            assert both >= 0.75 * alone, (n, margin, flips, alone, both)


@pytest.mark.slow
def test_a_pair_of_size_and_margin_works():
    """The example workflow's: a harmless change passes in all four tasks, a loss of ten fails."""
    _, passed = shares(1000, 5, 0.05, 0.025, 0.025, tasks=TASKS)
    failed, _ = shares(1000, 5, 0.05, 0.025, 0.125, tasks=TASKS)
    assert passed > 0.9
    assert failed > 0.8


def table() -> str:
    """Which documents a task and margins work, for four tasks with five questions a passage."""
    heads = ["documents a task", "margin", "2 % flip", "5 % flip", "10 % flip", "loss is found"]
    lines = [heads, ["---:"] * len(heads)]
    for n in (400, 1000, 3000):
        for margin in (0.01, 0.02, 0.05):
            harmless = [
                shares(n, 5, margin, flips / 2, flips / 2, tasks=TASKS, trials=400)[1]
                for flips in (0.02, 0.05, 0.1)
            ]
            found = shares(n, 5, margin, 0.025, 0.075 + margin, tasks=TASKS, trials=400)[0]
            numbers = [f"{share:.0%}" for share in (*harmless, found)]
            lines.append([str(n), f"{margin:.2f}", *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print("Passes of a harmless change, and fails of a loss of five points more than the margin:\n")
    print(table())
