"""MT-Bench as a price: a judge rates the answers of each measurement before they count.

All verdicts of a command are kept in one file: an answer that two arms share is rated once, and
the same command again asks for what is missing alone.
"""

from __future__ import annotations

from pathlib import Path

from ctx_tasks.columns import TURNS
from ctx_tasks.errors import UserError
from ctx_tasks.judge.cost import Estimate, Meter
from ctx_tasks.judge.endpoint import Options
from ctx_tasks.judge.run import judge, price

VERDICTS = "verdicts.jsonl"


def refused(task: str, *, a_price: bool, judge: Options | None) -> str | None:
    """Why a task that a judge rates cannot be used so; None where it can, or none rates it."""
    if task not in TURNS:
        return None
    if not a_price:
        return f"{task} is no context task; what it may lose is --at-most mt_bench=0.2"
    if TURNS[task] > 1:
        return f"{task} goes on from the first answers of one arm; mt_bench can have a price"
    if judge is None:
        return (
            f"{task} is rated by a judge: name it in --metadata as judge_model, with judge_yes, "
            "or judge_max_cost and the prices"
        )
    return None


class Rater:
    """The judge of one command.

    Args:
        folder: where its verdicts are kept.
    """

    def __init__(self, settings: Options, folder: Path) -> None:
        self._settings = settings
        self._verdicts = folder / VERDICTS
        self._meter = Meter(price(settings), settings.max_cost)

    def rate(self, results: Path) -> None:
        """Rate the answers in a folder of results; the ratings lie beside them.

        Raises:
            UserError: the judge refuses, its verdicts lack ratings, or the money is spent.
        """
        found = judge(
            [results], self._settings, self._agree, verdicts=self._verdicts, meter=self._meter
        )
        if found.problems:
            raise UserError(
                f"{found.missing} of {found.questions} answers in {results} got no rating "
                f"({found.problems}): repeat the command, which asks for what is missing alone."
            )

    def _agree(self, cost: Estimate) -> None:
        limit, spent = self._settings.max_cost, self._meter.cost
        if limit is None or spent is None or cost.cost is None or spent + cost.cost <= limit:
            return
        raise UserError(
            f"The judge has cost ${spent:.2f}, and the next answers would cost about "
            f"${cost.cost:.2f}, which together is more than judge_max_cost {limit}; answers and "
            "verdicts are kept, so repeat the command with a higher limit."
        )
