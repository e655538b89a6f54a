"""Where answers looked, as colours: steps of the user's text, on one scale in all arms.

Colour is attention a token, so that a piece is no darker for being long. The scale ends where all
but one piece in a hundred lie: the few that take most of all, as the first token may, would
otherwise leave the rest without colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from msgspec.structs import astuple

from ctx_tasks.looks import Look, Piece
from ctx_tasks.report.prompts import USER

STEPS = 8
_FIRST = 3
_WORDS = 40


@dataclass(frozen=True)
class Coloured:
    """An answer's look for the page.

    Attributes:
        look: what was measured.
        first: the pieces that got most, each with its share.
        runs: for each shown piece of the user's text, length and step of its stretches in turn.
    """

    look: Look
    first: list[tuple[str, float]]
    runs: list[list[int]]

    @property
    def size(self) -> int:
        """Bytes in the page, generously."""
        return 100 + 4 * _WORDS * len(self.first) + 6 * sum(map(len, self.runs))

    def plain(self) -> list[Any]:
        """As the page's script takes it."""
        totals = [round(share, 4) for share in astuple(self.look.totals)]
        return [self.look.tokens, totals, self.first, self.runs]


def darkest(looks: Sequence[Look]) -> float:
    """The share of a token from which on a piece has the last step; 0 where none has any."""
    found = [_density(piece) for look in looks for piece in look.pieces]
    return float(np.quantile(found, 0.99, method="lower")) if found else 0.0


def coloured(
    look: Look, prompt: str, spans: Sequence[tuple[str, int, int]], top: float
) -> Coloured:
    """Colour a prompt, of which `spans` (kind, start, end) are shown; `top` is `darkest`'s."""
    first = sorted(look.pieces, key=lambda piece: -piece.share)[:_FIRST]
    steps = np.zeros(len(prompt), dtype=np.int64)
    for piece in look.pieces:
        steps[piece.start : piece.end] = _step(piece, top)
    return Coloured(
        look,
        [(_words(prompt[piece.start : piece.end]), piece.share) for piece in first],
        [_runs(prompt[a:b], steps[a:b].tolist()) for kind, a, b in spans if kind == USER],
    )


def _density(piece: Piece) -> float:
    return piece.share / piece.tokens


def _step(piece: Piece, top: float) -> int:
    return min(STEPS, round(STEPS * _density(piece) / top)) if top else 0


def _runs(text: str, steps: Sequence[int]) -> list[int]:
    """Length and step, length and step, ...; the script counts characters in UTF-16."""
    runs, at = [], 0
    for step, places in groupby(steps):
        end = at + len(list(places))
        runs += [len(text[at:end].encode("utf-16-le", "surrogatepass")) // 2, step]
        at = end
    return runs


def _words(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WORDS else f"{words[: _WORDS - 1]}…"
