"""Requests of one kind, which a model answers batch by batch; each batch is kept (`kept.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .kept import Answers, Kept, digest
from .progress import Done
from .prompts import PromptText

Run = Callable[[list[Any]], Answers]


@dataclass
class Work:
    """Requests of one kind.

    Attributes:
        digests: what each is known by where answers are kept.
        rows: places of requests, those together that the model answers by one row.
        answer: gives the answers to the requests of one batch.
        done: told how many are answered.
    """

    requests: Sequence[Any]
    digests: list[str]
    rows: list[list[int]]
    answer: Run
    done: Done

    def batch(self, rows: Sequence[list[int]], kept: Kept) -> list[list[Any]]:
        """The answers to each of these rows: kept ones, or made and kept."""
        places = [place for row in rows for place in row]
        digests = [self.digests[place] for place in places]
        known = kept.has(digests)
        asked = [self.requests[place] for place in places]
        answers = iter(kept.batch(digests, lambda: self.answer(asked)))
        self.done(len(places), kept=known)
        return [[next(answers) for _ in row] for row in rows]

    def known(self, rows: Sequence[list[int]], kept: Kept) -> int | None:
        """How many of these rows are the next kept batch."""
        count = kept.size([self.digests[place] for row in rows for place in row])
        return count and next(n for n in range(1, count + 1) if sum(map(len, rows[:n])) >= count)

    def in_order(self, answers: Sequence[list[Any]]) -> Answers:
        """The answers to the rows as answers to the requests."""
        pairs = zip(self.rows, answers, strict=True)
        by_place = {p: one for row, found in pairs for p, one in zip(row, found, strict=True)}
        return [by_place[place] for place in range(len(self.requests))]


def request_digest(prompt: Any, *parts: Any) -> str:
    """Of a request whose first part is a prompt, or a pair that begins with one."""
    text = prompt[0] if isinstance(prompt, tuple) else prompt
    marks = (text.rendered, text.prefix) if isinstance(text, PromptText) else ()
    return digest(prompt, marks, *parts)


def documents(requests: Sequence[Any]) -> int:
    """How many documents requests are of."""
    return len({(one.task_name, one.doc_id) for one in requests})
