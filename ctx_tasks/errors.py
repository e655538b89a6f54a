"""The exception for a mistake the user can mend, and words that its sentence may need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """A wrong input, told in one sentence: the value received, what is allowed, the next step.

    The command lines print the sentence alone, without a traceback, and exit with code 2.
    """


def near(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """ "did you mean alpha?", or "" where nothing known is like `name`."""
    close = get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else ""


def few(names: Sequence[str], most: int = 5) -> str:
    """ "a, b, c, d, e and 7 more": a sentence stays one, however many there are."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"
