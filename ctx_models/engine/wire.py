"""How marks travel: from the driver in a request's `extra_args`, in the engine in its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# The name of our entry in `extra_args` and in `additional_config`.
NAME = "ctx"
# Above any vocabulary, below the sign of an int32.
MARK = 1 << 28
IDS = MARK - 1


def request(user: Sequence[bool], steer_generated: bool, salt: str) -> dict[str, Any]:
    """A prompt's marks as plain values.

    What is steered is marked XOR steer_generated: a token that the model generates has no mark.

    Args:
        user: of each token of the prompt, whether it is the user's.
        salt: tells apart arms that move a key differently; no cached block is shared across it.
    """
    marks = np.asarray(user, dtype=bool)
    marks = marks if steer_generated else ~marks
    return {"marks": np.packbits(marks).tobytes().hex(), "salt": salt}


def marked(ids: Sequence[int], given: dict[str, Any]) -> list[int]:
    """Token ids with the marks of a `request` in them."""
    packed = np.frombuffer(bytes.fromhex(given["marks"]), dtype=np.uint8)
    marks = np.unpackbits(packed, count=len(ids)).astype(np.int64)
    found: list[int] = (np.asarray(ids, dtype=np.int64) | marks * MARK).tolist()
    return found
