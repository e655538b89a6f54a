"""The file that keeps every reply of a judge as it comes: a killed run never pays twice.

A journal without a header: replies of any judge to anything lie in one file, and each has a key of
all that it depends on. A reply without a rating is kept as well, to be looked at, but does not
count as done.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from ctx_tasks.journal import Journal, lines

logger = logging.getLogger(__name__)


class KeptReply(msgspec.Struct):
    """One reply. `turn` and `repeat` count from 1; `rating` is None where the reply had none."""

    key: str
    question: str
    turn: int
    repeat: int
    rating: float | None
    reply: str
    model: str
    tokens_in: int
    tokens_out: int


class VerdictFile(Journal):
    """The replies in `path`; errors as `Journal`.

    Attributes:
        ratings: of all kept replies that have one, by key.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ratings: dict[str, float] = {}

    def __enter__(self) -> VerdictFile:
        super().__enter__()
        for number, line in lines(self.path):
            try:
                self._take(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                logger.warning("%s, line %d is no verdict and is skipped.", self.path, number)
        return self

    def keep(self, reply: KeptReply) -> None:
        """Append one reply; it is on the disk when this returns."""
        self.add(msgspec.structs.asdict(reply))
        self._take(reply)

    def _take(self, reply: KeptReply) -> None:
        if reply.rating is not None:
            self.ratings[reply.key] = reply.rating


_DECODER = msgspec.json.Decoder(KeptReply)
