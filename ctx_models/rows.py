"""Which tokens of a log-likelihood row are the user's, found again by the row's token ids.

The harness builds its rows from ids alone and pads them on the right with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ctx_tasks.errors import UserError

from .spans import Segment


class UserRows:
    """User masks of rows, by a digest of their ids."""

    def __init__(self) -> None:
        self._masks: dict[bytes, np.ndarray] = {}

    def note(self, input_ids: Sequence[int], segments: Sequence[Segment], window: int) -> None:
        """Remember the mask of the row that HFLM will build from these tokens."""
        row = slice(-(window + 1), None)
        ids = np.array(input_ids[row][:-1], dtype=np.int32)
        user = np.array(segments[row][:-1]) == Segment.USER
        self._masks[_digest(ids)] = np.packbits(user)

    def mask(self, ids: np.ndarray) -> np.ndarray:
        """The mask of a row that HFLM padded on the right with zeros.

        Raises:
            UserError: no such row was noted.
        """
        shortest = int(np.flatnonzero(ids)[-1]) + 1 if ids.any() else 1
        for length in range(shortest, len(ids) + 1):
            packed = self._masks.get(_digest(ids[:length]))
            if packed is not None:
                return np.unpackbits(packed, count=length).astype(bool)
        raise no_user_turn()


def no_user_turn() -> UserError:
    """The refusal of a log-likelihood that has no context."""
    return UserError(
        "A log-likelihood row without a prompt (perplexity tasks, empty context) has no user turn "
        "to steer towards; run it with alpha=1."
    )


def _digest(ids: np.ndarray) -> bytes:
    return blake2b(ids.tobytes(), digest_size=16).digest()
