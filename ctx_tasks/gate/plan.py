"""How many documents a gate needs, answered before it is run.

What a harmless change does to the answers (how many documents flip, and how much those of one
passage flip together) is read off two runs that ought to be equal; then gates of any size are
simulated, decided by the gate's own bounds (`ctx_tasks.gate.loss`), and the size is sought at which
enough of them say what they should. As the gate corrects p over its tasks, a loss of one task is
found at the level divided by their number, which is Holm's first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctx_tasks.columns import is_needle
from ctx_tasks.errors import UserError
from ctx_tasks.gate.baseline import Measured, Measurement
from ctx_tasks.gate.decision import incomparable, match, places, tolerated
from ctx_tasks.gate.loss import LEVEL, bounds, p_beyond
from ctx_tasks.gate.margin import Margin
from ctx_tasks.intervals import Clustering
from ctx_tasks.statistics import SCALES, has_bounds

POWERS = (0.8, 0.95)
SMALLER = (0.25, 0.5, 1.0)
ASSUMED_FLIPS = 0.05
MOST_DOCUMENTS = 20_000
# Fewer flips than these do not show whether they come together.
_ENOUGH_FLIPS = 10
_TRIALS = 1000
# Bounds the memory of a simulation: this many documents are drawn at a time.
_AT_ONCE = 2_000_000
# A size is sought to this share of itself.
_FINE = 1.02


@dataclass(frozen=True)
class Noise:
    """What a harmless change does to one task.

    Attributes:
        flips: share of the documents whose score changes.
        together: correlation of the changes of two documents of a cluster.
        steps: sizes of the changes that were seen, alike likely.
        source: what the numbers were read off.
    """

    flips: float
    together: float
    steps: np.ndarray
    source: str


@dataclass(frozen=True)
class Size:
    """So many documents in so many clusters, and the share of gates that say what they should."""

    documents: int
    clusters: int
    chance: float


@dataclass(frozen=True)
class Question:
    """How often one thing is said that should be.

    Attributes:
        smaller: with shares of the baseline's documents, `SMALLER`.
        needed: the least documents for each of `POWERS`; None where `MOST_DOCUMENTS`, or these
            needles, do not do.
    """

    smaller: list[Size]
    needed: list[Size | None]


@dataclass(frozen=True)
class TaskPlan:
    """What the gate can show of one task: that nothing changed passes, that a loss is found."""

    task: str
    noise: Noise
    margin: float
    passing: Question
    finding: Question


def plan(
    baseline: Sequence[Measurement],
    second: Sequence[Measurement],
    margin: Margin,
    loss: float,
    flips: float = ASSUMED_FLIPS,
) -> Iterator[TaskPlan]:
    """A plan for each task of the baseline's first run.

    Args:
        second: results of a run that ought to score alike; without them runs of one arm in the
            baseline are each other's repeats, and without those `flips` is assumed.
        loss: of a score, which the gate should find.

    Raises:
        UserError: a loss within the margin, or more than there is to lose; results of other
            documents.
    """
    first, pairs = baseline[0], _repeats(baseline, second)
    for name, task in first.tasks.items():
        before = float(np.nanmean(task.scores))
        bounded = has_bounds(task.metric, task.scores)
        allowed = tolerated(name, task.metric, margin, before, bounded)
        if not allowed < loss:
            raise UserError(f"--loss {loss:g} must be more than the margin {allowed:g} of {name}.")
        noise = _noise(name, task, pairs, flips)
        yield _planned(name, task, noise, allowed, loss, len(first.tasks), bounded)


def _repeats(
    baseline: Sequence[Measurement], second: Sequence[Measurement]
) -> list[tuple[Measurement, Measurement]]:
    """Pairs of runs that ought to score alike."""
    if second:
        return match(baseline[:1] if len(second) == 1 else baseline, second)
    first = baseline[0]
    return [(first, other) for other in baseline[1:] if other.arm == first.arm]


def _noise(
    name: str, task: Measured, pairs: Sequence[tuple[Measurement, Measurement]], flips: float
) -> Noise:
    clusters = np.array(task.clusters)
    changes = [
        _changes(name, old.tasks[name], new.tasks[name])
        for old, new in pairs
        if name in old.tasks and name in new.tasks
    ]
    if not changes:
        together = correlation([task.scores], clusters)
        return Noise(flips, together, np.ones(1), f"assumed: {flips:g} flip, as its scores cluster")
    flat = np.concatenate(changes)
    seen = np.abs(flat[flat != 0])
    enough = len(seen) >= _ENOUGH_FLIPS
    together = correlation(changes if enough else [task.scores], clusters)
    source = f"{len(seen)} of {len(flat)} documents flipped"
    source += "" if enough else "; too few to tell how they cluster: as its scores do"
    # No flip among n leaves a rate of up to 3/n possible (95 %): the rule of three.
    share = max(len(seen), 3 if not len(seen) else 0) / len(flat)
    return Noise(share, together, seen if len(seen) else np.ones(1), source)


def _changes(name: str, old: Measured, new: Measured) -> np.ndarray:
    wrong = incomparable(old, new, one_arm=True)
    if wrong:
        raise UserError(f"{name}: the second run is no repeat of the baseline: {wrong}.")
    return old.scores - new.scores[places(old, new)]


def correlation(runs: Sequence[np.ndarray], clusters: np.ndarray) -> float:
    """Correlation of the values [n] of two documents of a cluster, from 0 to 1; 0 if none has two.

    The moment estimate: mean product of deviations over the pairs within clusters, as a share of
    the variance (Donner, "A review of inference procedures for the intraclass correlation
    coefficient", International Statistical Review 54, 1986).
    """
    clustering = Clustering.of(clusters)
    pairs = float((clustering.sizes * (clustering.sizes - 1)).sum())
    deviations = np.stack([values - values.mean() for values in runs])
    variance = float((deviations**2).mean())
    if not pairs or not variance:
        return 0.0
    products = (clustering.sums(deviations) ** 2).sum(axis=1) - (deviations**2).sum(axis=1)
    return float(np.clip(products.mean() / pairs / variance, 0, 1))


# ---- simulated gates -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """Gates of one task, of any size.

    Attributes:
        step: share of the documents that rise by chance, and that fall.
        sizes: of the baseline's clusters.
        level: of a regression.
    """

    noise: Noise
    step: float
    sizes: np.ndarray
    needles: bool
    margin: float
    loss: float
    level: float
    bounded: bool

    def clusters(self, documents: int) -> np.ndarray:
        """Cluster numbers [documents]: as large as the baseline's, of needles as many."""
        if self.needles:
            return np.arange(documents) * min(len(self.sizes), documents) // documents
        repeats = math.ceil(documents / int(self.sizes.sum()))
        sizes = np.random.default_rng(0).permuted(np.tile(self.sizes, repeats))
        numbers = np.repeat(np.arange(len(sizes)), sizes)[:documents]
        return np.asarray(numbers)

    def size(self, documents: int, chance: float) -> Size:
        """With the clusters that so many documents have."""
        return Size(documents, len(set(self.clusters(documents).tolist())), chance)

    def passed(self, documents: int) -> float:
        """The share of gates in which no change passes."""
        return self._share(documents, 0.0, lambda _, high: high <= self.margin)

    def found(self, documents: int) -> float:
        """The share of gates in which the loss is called a regression."""
        return self._share(documents, self.loss, lambda p, _: p < self.level)

    def _share(
        self,
        documents: int,
        loss: float,
        says: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> float:
        numbers = self.clusters(documents)
        clustering = Clustering.of(numbers)
        if clustering.count < 2:
            return 0.0
        rng, said = np.random.default_rng(documents), []
        largest = 1.0 if self.bounded else float(self.noise.steps.max())
        each = max(_AT_ONCE // documents, 1)
        for begin in range(0, _TRIALS, each):
            trials = min(each, _TRIALS - begin)
            losses = self._losses(rng, trials, numbers, loss)
            mean, error, _, high = bounds(losses, clustering, largest, self.bounded)
            said.append(says(p_beyond(losses, mean, error, self.margin, clustering), high))
        return float(np.concatenate(said).mean())

    def _losses(
        self, rng: np.random.Generator, trials: int, numbers: np.ndarray, loss: float
    ) -> np.ndarray:
        """Losses [trials, n] of the harmless flips, and of the loss beside them."""
        steps, n = self.noise.steps, len(numbers)
        # Two documents that share a draw with probability s each go together with s squared.
        shared = rng.random((trials, n)) < math.sqrt(self.noise.together)
        drawn = np.where(
            shared,
            rng.random((trials, int(numbers.max()) + 1))[:, numbers],
            rng.random((trials, n)),
        )
        fall = self.step + loss / float(steps.mean())
        signs = np.where(drawn < fall, 1.0, np.where(drawn > 1 - self.step, -1.0, 0.0))
        return signs * rng.choice(steps, signs.shape)


def _planned(
    name: str, task: Measured, noise: Noise, margin: float, loss: float, tasks: int, bounded: bool
) -> TaskPlan:
    least, most = SCALES.get(task.metric, (0.0, 1.0))
    share = (float(np.nanmean(task.scores)) - least) / (most - least)
    room = (share if task.higher_is_better else 1 - share) * (most - least)
    if bounded and loss > room:
        raise UserError(
            f"--loss {loss:g} is more than {name} has to lose: its {task.metric} is "
            f"{float(np.nanmean(task.scores)):.3g}."
        )
    sizes, level = np.bincount(task.clusters), LEVEL / tasks
    # Of scores without bounds no share can be taken: rises and falls are alike likely.
    step = min(noise.flips / 2, share, 1 - share) if bounded else noise.flips / 2
    gate = _Gate(noise, step, sizes, is_needle(name), margin, loss, level, bounded)
    n = len(task.hashes)
    return TaskPlan(
        name, noise, margin, _question(gate, gate.passed, n), _question(gate, gate.found, n)
    )


def _question(gate: _Gate, chance: Callable[[int], float], documents: int) -> Question:
    smaller = [max(round(part * documents), 2) for part in SMALLER]
    needed = [(_needed(chance, power), power) for power in POWERS]
    return Question(
        [gate.size(n, chance(n)) for n in smaller],
        [None if n is None else gate.size(n, power) for n, power in needed],
    )


def _needed(chance: Callable[[int], float], power: float) -> int | None:
    """The least documents, to 2 %, with a chance of `power`."""
    enough = 16
    while chance(enough) < power:
        if enough >= MOST_DOCUMENTS:
            return None
        enough = min(2 * enough, MOST_DOCUMENTS)
    few = enough // 2
    while enough > max(few * _FINE, few + 1):
        middle = (few + enough) // 2
        few, enough = (few, middle) if chance(middle) >= power else (middle, enough)
    return enough
