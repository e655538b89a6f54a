"""The kinds of change a leaderboard has, a column each: what the template costs, what wins it back.

Gains with the answer begun and without are apart: where only the latter moves, a remedy changes how
answers begin rather than what is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ctx_tasks.leaderboard.board import Board, Change, Row


@dataclass(frozen=True)
class Kind:
    """A column of changes.

    Attributes:
        name, under: its heading, and what stands below it.
        field: which of a row's changes stands there.
        prefix: of which rows, those whose answer is begun or those whose is not; None for all.
    """

    name: str
    under: str
    field: Literal["tax", "unbegun_tax", "gain"]
    prefix: bool | None = None

    def own(self, row: Row) -> Change | None:
        """The change of the context tasks."""
        change: Change | None = getattr(row, self.field)
        return change if self._fits(row) else None

    def of(self, row: Row) -> list[Change]:
        """The same, then the changes of the tasks that are not ours."""
        own = self.own(row)
        others = row.others[self.field] if self._fits(row) else []
        return [*([own] if own else []), *others]

    def _fits(self, row: Row) -> bool:
        return self.prefix in (None, row.arm.prefix)


KINDS = (
    Kind("template tax", "(raw minus chat, begun)", "tax"),
    Kind("raw minus chat", "(unbegun)", "unbegun_tax"),
    Kind("gain, begun", "(over chat, prefix)", "gain", prefix=True),
    Kind("gain, unbegun", "(over chat)", "gain", prefix=False),
)


def kinds(board: Board) -> list[Kind]:
    """The columns of changes that any row has."""
    return [kind for kind in KINDS if any(kind.of(row) for row in board.rows)]
