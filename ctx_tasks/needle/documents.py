"""Haystack and needle -> documents of an exact length in tokens.

A tokenizer does not add up: the tokens of two texts joined are not the sum of their tokens. So the
haystack is tokenised once, a document is cut by the tokens' offsets, the finished text is measured,
and the cut is moved by what was too much or too little, until the text is within `TOLERANCE`.

The needle goes behind the sentence end nearest to its depth, in tokens of the filler (the start
counts as one; the cut does not). At 0 % it is the first thing, a paragraph of its own, at 100 % the
last. The filler is cut behind a word at its end, in the middle of a sentence as a rule; at 100 % it
is cut before a word at its start instead, so that the needle still follows a whole sentence. Only
where one word has more tokens than the tolerance, the cut falls inside a word.

A sentence ends in one of . ! ? (and closing quotes) before white space, or in 。！？; abbreviations
are not recognised.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tqdm import tqdm

from ctx_tasks.errors import UserError
from ctx_tasks.needle.inputs import Needle

TOLERANCE = 2
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s)|[。！？][”’」』）]*")

_WORD_END = re.compile(r"(?<=\S)(?=\s)")
_WORD_START = re.compile(r"(?<=\s)(?=\S)")
_LEAST_FILLER = 16
# How far the first cut may be off: that much filler is kept between needle and cut.
_SLACK = 8
_ATTEMPTS = 12
_BATCH = 16


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text alone, without special tokens added."""
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return [len(ids) for ids in encoded["input_ids"]]


@dataclass(frozen=True)
class Filler:
    """The haystack as one running text. Places are character offsets into it.

    Attributes:
        token_ends: the place where each token ends, rising.
    """

    text: str
    token_ends: list[int]

    @cached_property
    def sentence_ends(self) -> list[int]:
        return [found.end() for found in SENTENCE_END.finditer(self.text)]

    @cached_property
    def sentence_tokens(self) -> list[int]:
        return [self.tokens_before(end) for end in self.sentence_ends]

    @cached_property
    def word_ends(self) -> list[int]:
        return [found.start() for found in _WORD_END.finditer(self.text)]

    @cached_property
    def word_starts(self) -> list[int]:
        return [0, *(found.start() for found in _WORD_START.finditer(self.text))]

    def tokens_before(self, place: int) -> int:
        return bisect_right(self.token_ends, place)

    def place(self, tokens: int, words: Sequence[int]) -> int:
        """The end of the first `tokens` tokens, or the nearest of `words` if within `TOLERANCE`."""
        exact = self.token_ends[tokens - 1] if tokens > 0 else 0
        near = _nearest(words, exact) if words else exact
        return near if abs(self.tokens_before(near) - tokens) <= TOLERANCE else exact


def running_text(tokenizer: Any, text: str, longest: int) -> Filler:
    """`text`, repeated or cut, to be enough for documents of `longest` tokens.

    `text` has a sentence end and ends in white space.
    """
    characters = 6 * longest + 2000
    while True:
        running = (text * (characters // len(text) + 1))[:characters]
        encoded = tokenizer(
            running, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        filler = Filler(running, [end for _, end in encoded["offset_mapping"]])
        if filler.sentence_tokens and filler.sentence_tokens[-1] >= longest + _SLACK:
            return filler
        characters *= 2


@dataclass
class Document:
    """A document in the making: `tokens` of filler are tried until the whole has `length`.

    Attributes:
        length, depth: the cell, in tokens and percent.
        place: where the needle goes in; at 100 % where the filler ends.
        placed: percent of the filler's tokens before the needle.
        text, n_tokens: the finished text and its measured length.
    """

    length: int
    depth: int
    needle: Needle
    place: int
    placed: float
    tokens: int
    text: str = ""
    n_tokens: int = 0

    def write(self, filler: Filler, whole_words: bool) -> str:
        """Write `text` with the filler cut at a word's edge, or exactly."""
        if self.depth == 100:
            first = filler.tokens_before(self.place) - self.tokens
            start = filler.place(first, filler.word_starts if whole_words else ())
            self.text = f"{filler.text[start : self.place].lstrip()} {self.needle.needle}"
        else:
            cut = filler.place(self.tokens, filler.word_ends if whole_words else ())
            self.text = _inserted(filler.text[:cut], self.place, self.needle.needle)
        return self.text

    def accept(self, n_tokens: int) -> bool:
        """Whether the measured length is right; if not, the next attempt has other filler."""
        self.n_tokens = n_tokens
        self.tokens = max(1, self.tokens + self.length - n_tokens)
        return abs(n_tokens - self.length) <= TOLERANCE


def write_documents(
    tokenizer: Any,
    filler: Filler,
    cells: Sequence[tuple[int, int]],
    needles: Sequence[Needle],
) -> list[Document]:
    """One finished document for each cell `(tokens, percent)` with its needle.

    Raises:
        UserError: a length too short for its needle, or text that cannot be cut to a length.
    """
    counts = count_tokens(tokenizer, [one.needle for one in needles])
    documents = [
        _draft(filler, cell, needle, count)
        for cell, needle, count in zip(cells, needles, counts, strict=True)
    ]
    pending = documents
    with tqdm(total=len(documents), desc="Building needle documents", delay=2) as progress:
        for attempt in range(_ATTEMPTS):
            whole_words = attempt < _ATTEMPTS // 2
            wrong: list[Document] = []
            for start in range(0, len(pending), _BATCH):
                batch = pending[start : start + _BATCH]
                failed = _still_wrong(tokenizer, filler, batch, whole_words)
                progress.update(len(batch) - len(failed))
                wrong += failed
            pending = wrong
    if pending:
        raise UserError(
            f"The haystack cannot be cut to {pending[0].length} tokens of this tokenizer (nearest: "
            f"{pending[0].n_tokens}); use another haystack."
        )
    return documents


def _draft(filler: Filler, cell: tuple[int, int], needle: Needle, needle_tokens: int) -> Document:
    length, depth = cell
    tokens = length - needle_tokens
    if tokens < _LEAST_FILLER:
        raise UserError(
            f"A document of {length} tokens is too short for needle {needle.id} of {needle_tokens} "
            f"tokens; use a min_length of at least {needle_tokens + _LEAST_FILLER}."
        )
    if depth == 100:
        last = bisect_left(filler.sentence_tokens, tokens + _SLACK)
        return Document(length, depth, needle, filler.sentence_ends[last], 100.0, tokens)
    inside = bisect_left(filler.sentence_tokens, tokens - _SLACK)
    counts = [0, *filler.sentence_tokens[:inside]]
    count = _nearest(counts, tokens * depth / 100) if depth else 0
    place = filler.sentence_ends[counts.index(count) - 1] if count else 0
    return Document(length, depth, needle, place, round(100 * count / tokens, 1), tokens)


def _still_wrong(
    tokenizer: Any, filler: Filler, documents: list[Document], whole_words: bool
) -> list[Document]:
    texts = [document.write(filler, whole_words) for document in documents]
    measured = zip(documents, count_tokens(tokenizer, texts), strict=True)
    return [document for document, count in measured if not document.accept(count)]


def _inserted(text: str, place: int, needle: str) -> str:
    if place == 0:
        return f"{needle}\n\n{text}"
    gap = "" if text[place : place + 1].isspace() else " "
    return f"{text[:place]} {needle}{gap}{text[place:]}"


def _nearest(values: Sequence[int], wanted: float) -> int:
    """The nearest of rising `values`, the smaller of two equally near."""
    right = bisect_left(values, wanted)
    return min(values[max(right - 1, 0) : right + 1], key=lambda value: abs(value - wanted))
