"""How wide a head becomes that holds the bias too."""

from __future__ import annotations

from collections.abc import Callable

# The high and the low part of the bias; kernels want a multiple of eight.
_CHANNELS, _STEP = 2, 8


def narrowest(own: int, takes: Callable[[int], bool]) -> int | None:
    """The narrowest head that a backend takes, wide enough for `own` and the bias; None if none.

    At most twice as wide, and 32 for the smallest: more would cost more memory than it is worth.
    """
    first = -(-(own + _CHANNELS) // _STEP) * _STEP
    widths = range(first, 2 * own + 4 * _STEP + 1, _STEP)
    return next((width for width in widths if takes(width)), None)
