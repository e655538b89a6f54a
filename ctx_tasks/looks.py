"""Where answers looked, as a sweep keeps it: `attention_TASK_DATE.jsonl` beside the sample file.

One line a document: the attention at the last token of the prompt and the answer's first tokens,
mean over those, layers and heads; in total, and on each piece (a word or several) of the user's
text. Nothing in the file is trusted: what does not have this shape is an error that names the line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Characters `start` to `end` of the prompt, `tokens` tokens, with `share` of the attention."""

    start: int
    end: int
    tokens: int
    share: float


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of all that can be looked at; they sum to 1, less what an attention sink takes.

    `special` are control tokens such as BOS; `answer` is what is begun or answered so far, in
    earlier turns too.
    """

    user: float
    system: float
    template: float
    special: float
    answer: float


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the answer to a document looked; `tokens` are those it is the mean of."""

    doc_hash: str
    tokens: int
    totals: Totals
    pieces: tuple[Piece, ...]


def write(path: Path, looks: Iterable[Look]) -> None:
    """Write a file of looks, whole."""
    encode = msgspec.json.Encoder().encode
    write_text(path, "".join(encode(look).decode() + "\n" for look in looks))


def read(path: Path) -> dict[str, Look]:
    """The looks of a file by document hash; none where there is no file.

    Raises:
        UserError: a malformed line.
    """
    if not path.is_file():
        return {}
    decoder = msgspec.json.Decoder(Look)
    looks: dict[str, Look] = {}
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                look = decoder.decode(text)
                _check(look)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number} does not say where an answer looked ({error}); run "
                    "the sweep again, or remove the file."
                ) from error
            looks[look.doc_hash] = look
    return looks


def _check(look: Look) -> None:
    """Raise ValueError for numbers that cannot be: JSON's own are finite."""
    totals = msgspec.structs.astuple(look.totals)
    shares = [*totals, *(piece.share for piece in look.pieces)]
    if not all(0 <= share <= 1.001 for share in shares):
        raise ValueError(f"a share of {next(s for s in shares if not 0 <= s <= 1.001)}")
    end = 0
    for piece in look.pieces:
        if not end <= piece.start < piece.end or piece.tokens < 1:
            raise ValueError(f"a piece from {piece.start} to {piece.end}, {piece.tokens} tokens")
        end = piece.end
