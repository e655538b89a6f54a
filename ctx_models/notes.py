"""What becomes of each row of a batch, until its answer is at hand.

The harness orders requests, batches them and hands back plain answers. The model class notes what
is about to run (`begin`) and what came out (`end`), and each answer is offered to the harness's
cache as soon as it is made: the cache keeps it with its note, for a run that is killed and goes on.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from ctx_tasks.answers import Answer, LogLikelihood, Note

from .prompts import PromptText


class Ledger:
    """The notes of the rows that have run, by prompt, and those whose answer is not yet made."""

    def __init__(self, *, stripped: bool = False) -> None:
        """`stripped`: whether answers lose their leading blanks, as after a thought."""
        self._stripped = stripped
        self._cuts: list[int] = []
        self._prompts: list[str] = []
        self._open: deque[Note] = deque()
        self._by_prompt: defaultdict[str, deque[Note]] = defaultdict(deque)
        self._scored: dict[tuple[str, str], Note] = {}

    def begin(self, prompts: Sequence[str], cuts: Sequence[int]) -> None:
        """A batch is about to run; `cuts` are the tokens that its prompts lost."""
        self._prompts, self._cuts = list(prompts), list(cuts)

    def end(self, unfinished: Sequence[bool]) -> None:
        """That batch has run."""
        for prompt, cut, one in zip(self._prompts, self._cuts, unfinished, strict=True):
            note = Note(cut, one, unsegmented=_segmented(prompt))
            self._open.append(note)
            # Equal prompts (repeats) stay in their order, whatever the order of the rest.
            self._by_prompt[prompt].append(note)

    def answer(self, prompt: str, text: str) -> Answer:
        """The answer to a prompt, whose note is thereby taken."""
        return self._answer(text, self._by_prompt[prompt].popleft())

    def _answer(self, text: str, note: Note) -> Answer:
        return Answer.of(text.lstrip() if self._stripped else text, note)

    def score(self, pair: tuple[str, str] | None, cut: int) -> Note:
        """Note what a log-likelihood's prompt lost; a window of a rolling one has no pair."""
        note = Note(cut, unsegmented=None if pair is None else _segmented(pair[0]))
        if pair is not None:
            self._scored[pair] = note
        return note

    def kept(self, method: str, request: Any, answer: Any) -> Any:
        """An answer as a cache is to keep it."""
        if isinstance(answer, Answer | LogLikelihood):
            return answer
        if method == "generate_until":
            return self._answer(answer, self._open.popleft())
        if method == "loglikelihood" and request in self._scored:
            return LogLikelihood.of(answer, self._scored[request])
        return answer


def _segmented(prompt: str) -> bool | None:
    """That the segments of a prompt were found, where they were sought."""
    return False if isinstance(prompt, PromptText) else None


class NotedHook:
    """The harness's hook of an answer cache, which keeps answers with their notes."""

    def __init__(self, hook: Any, ledger: Ledger) -> None:
        self._hook, self._ledger = hook, ledger
        self.dbdict = hook.dbdict

    def add_partial(self, method: str, request: Any, answer: Any) -> None:
        """As the harness's."""
        self._hook.add_partial(method, request, self._ledger.kept(method, request, answer))
