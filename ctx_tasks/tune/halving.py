"""Successive halving: many candidates on few documents, then few candidates on all.

Karnin, Koren and Somekh ("Almost optimal exploration in multi-armed bandits", ICML 2013) and
Jamieson and Talwalkar (AISTATS 2016): in each round the better half goes on, on twice as many
documents. Documents answered once are not answered again, so a round costs what it adds. Beside
them, the reference is answered on all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ctx_tasks.errors import UserError

HALVINGS = 2
_MOST_HALVINGS = 5


@dataclass(frozen=True)
class Round:
    """So many candidates, on the documents from one share of the choosing half to another."""

    candidates: int
    begin: float
    end: float


def rounds(candidates: int, halvings: int = HALVINGS) -> list[Round]:
    """The rounds of so many candidates; two halvings: all on 1/4, half on 1/2, 1/4 on all."""
    shares = [0.0, *(2.0 ** (place - halvings) for place in range(halvings + 1))]
    return [
        Round(-(-candidates // 2**place), begin, end)
        for place, (begin, end) in enumerate(pairwise(shares))
    ]


def cost(found: Sequence[Round], documents: Callable[[float, float], int]) -> int:
    """Answers that rounds take, those of the reference with them.

    Args:
        documents: how many there are between two shares of the choosing half.
    """
    return sum((one.candidates + 1) * documents(one.begin, one.end) for one in found)


def within(
    budget: int | None, stages: Sequence[int], documents: Callable[[float, float], int]
) -> list[list[Round]]:
    """The rounds of each stage with the fewest halvings that a budget of answers pays for.

    Args:
        budget: None for `HALVINGS`.
        stages: candidates of each.

    Raises:
        UserError: it is too small for any.
    """
    if budget is None:
        return [rounds(candidates) for candidates in stages]
    tried = [[rounds(one, halvings) for one in stages] for halvings in range(_MOST_HALVINGS + 1)]
    costs = [sum(cost(one, documents) for one in found) for found in tried]
    paid = [found for found, answers in zip(tried, costs, strict=True) if answers <= budget]
    if not paid:
        raise UserError(
            f"--budget {budget} is too small: {sum(stages)} candidates take at least {min(costs)} "
            "answers on the choosing half; raise it, or try fewer."
        )
    return paid[0]
