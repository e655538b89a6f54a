"""How often the gate errs, by simulation; prints the README's table of power.

python -m tests.ctx_tasks.gate.test_gate_statistics
"""

from __future__ import annotations

import numpy as np
import pytest

from ctx_tasks.gate.decision import LEVEL, paired_loss
from ctx_tasks.statistics import holm

MARGIN = 0.01
TRIALS = 1000


def losses(rng, n: int, size: int, drop: float, accuracy: float = 0.7, flips: float = 0.1):
    """Losses of `n` documents in clusters of `size`, whose difficulty and change they share.

    A document flips with probability `flips`, up or down alike; `drop` more of them go down.
    """
    groups = n // size
    # Half of the flips are drawn for the whole cluster, so that a cluster's losses go together.
    shared = np.repeat(rng.random((groups, 2)), size, axis=0)
    own = rng.random((n, 2))
    which = np.where(rng.random((n, 1)) < 0.5, shared, own)
    flip = which[:, 0] < flips + drop
    down = which[:, 1] < (flips / 2 + drop) / (flips + drop)
    return np.where(flip, np.where(down, 1.0, -1.0), 0.0), np.arange(n) // size


def shares(n: int, size: int, drop: float, tasks: int = 1, margin: float = MARGIN, seed: int = 0):
    """Shares of trials in which the gate fails and in which it passes, over `tasks` tasks."""
    rng = np.random.default_rng([n, size, int(drop * 1000), tasks, seed])
    failed = passed = 0
    for _ in range(TRIALS):
        found = [paired_loss(*losses(rng, n, size, drop), margin) for _ in range(tasks)]
        failed += min(holm([loss.p for loss in found])) < LEVEL
        passed += all(loss.high <= margin for loss in found)
    return failed / TRIALS, passed / TRIALS


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize(("n", "size"), [(400, 1), (400, 5), (400, 20), (1000, 5), (400, 50)])
def test_no_change_fails_in_at_most_five_of_a_hundred_trials(n, size, tasks):
    """Also with a margin of zero, where a fail is always wrong and never far."""
    for margin in (MARGIN, 0.0):
        failed, _ = shares(n, size, 0.0, tasks, margin)
        # Two standard errors of 1000 trials above 5 %.
        assert failed <= LEVEL + (0.0 if margin else 0.014), (n, size, tasks, margin)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "size"), [(400, 1), (400, 5), (1000, 5)])
def test_a_loss_just_beyond_the_margin_passes_in_at_most_five_of_a_hundred_trials(n, size):
    _, passed = shares(n, size, MARGIN)
    assert passed <= LEVEL + 0.014


@pytest.mark.slow
def test_a_large_loss_is_found():
    assert shares(1000, 5, 0.05)[0] > 0.5


if __name__ == "__main__":
    heads = (
        "n",
        "documents a passage",
        "fails, no change",
        "fails, 0.05 lost",
        "passes, no change",
    )
    print(f"| {' | '.join(heads)} |\n|---:|---:|---:|---:|---:|")
    for count in (400, 1000):
        for together in (1, 5):
            wrong, fine = shares(count, together, 0.0)
            right, _ = shares(count, together, 0.05)
            print(f"| {count} | {together} | {wrong:.3f} | {right:.3f} | {fine:.3f} |")
