"""Documents in two halves by whole clusters: one to choose on, one to report on.

A gain that is read off the documents that chose the winner is too large (the winner's curse), and
questions on one passage are as good as one document; so halves are made of clusters. A cluster's
place follows from a hash of its name alone, so it does not change with the order of the documents,
and a passage that two tasks share lies on one side in both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctx_tasks.errors import UserError

# On each side: with one there is no error.
_FEWEST = 2


@dataclass(frozen=True)
class Halves:
    """The documents of one task, by their index.

    Attributes:
        choosing: of each cluster of the choosing half, in the order in which they are used.
        reporting: of the other half, ascending.
        clusters: the cluster of each document [n], of both halves.
    """

    choosing: tuple[tuple[int, ...], ...]
    reporting: tuple[int, ...]
    clusters: tuple[str, ...]

    def part(self, begin: float, end: float) -> tuple[int, ...]:
        """Documents of the choosing half from one share of its clusters to another, ascending."""
        first, last = (math.ceil(share * len(self.choosing)) for share in (begin, end))
        return tuple(sorted(i for cluster in self.choosing[first:last] for i in cluster))


def halved(clusters: Mapping[str, Sequence[str]], seed: int = 0) -> dict[str, Halves]:
    """Each task's documents in two halves.

    Args:
        clusters: by task, the name of each document's cluster [n].
        seed: another one makes other halves.
    """
    # True on the choosing side; a cluster keeps its side in all tasks.
    sides: dict[str, bool] = {}
    orders = {
        task: sorted(set(names), key=lambda name: _hash(name, seed))
        for task, names in clusters.items()
    }
    for order in orders.values():
        _deal(order, sides)
    return {task: _halves(clusters[task], order, sides) for task, order in orders.items()}


def require_enough(task: str, halves: Sequence[Halves]) -> None:
    """Refuse a task (or the tasks of a group) that cannot be halved.

    Raises:
        UserError: fewer than two clusters on a side.
    """
    found = len({name for one in halves for name in one.clusters})
    choosing = sum(len(one.choosing) for one in halves)
    if min(choosing, found - choosing) < _FEWEST:
        raise UserError(
            f"The documents of {task} lie in too few clusters (passages or needles) to halve them, "
            f"in {found}: "
            f"choosing on one half and reporting on the other takes at least {2 * _FEWEST}; "
            "give it more documents (questions, lengths, depths or --limit)."
        )


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _deal(names: Sequence[str], sides: dict[str, bool]) -> None:
    """Give each cluster without a side one, so that a task has as many here as there.

    Of a task with an odd one, the side with fewer in all tasks gets it.
    """
    known = [sides[name] for name in names if name in sides]
    ahead = 2 * sum(known) - len(known)
    in_all = 2 * sum(sides.values()) - len(sides)
    for name in names:
        if name not in sides:
            sides[name] = (ahead, in_all) <= (0, 0)
            step = 1 if sides[name] else -1
            ahead, in_all = ahead + step, in_all + step


def _halves(clusters: Sequence[str], order: Sequence[str], sides: Mapping[str, bool]) -> Halves:
    places: dict[str, list[int]] = {name: [] for name in order}
    for index, name in enumerate(clusters):
        places[name].append(index)
    choosing = tuple(tuple(places[name]) for name in order if sides[name])
    reporting = sorted(i for name in order if not sides[name] for i in places[name])
    return Halves(choosing, tuple(reporting), tuple(clusters))
