"""What became of a request, carried by its answer into samples and results.

A prompt may be longer than the window and lose tokens, or not be told from its chat template and
never run; an answer may meet its token limit before it ends. The harness has a place for none of
it, so the answers of our models are strings (and pairs of numbers) that remember it, and `watch`
adds it to the metrics of a document:

- `cut`: in a sample the tokens that its prompt lost, in results the share of documents that lost
  any. Of several requests (choices, repeats) the one that lost most counts.
- `unfinished`: in a sample the share of its answers that met the token limit before an end or a
  stop string (an answer, unless the task repeats), in results the share of documents with one.
- `unsegmented`, where prompts are segmented: in a sample whether its prompt could not be, in
  results the share of such documents.

All are beside the scores, as `empty` is, and never part of a mean over tasks. A document that was
skipped or unsegmented has no answer (`unanswered`) and is in no score. Answers of other models
remember nothing; a task may know what became of their prompts (`ctx_tasks.cuts`), else they add
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CUT, UNFINISHED, UNSEGMENTED = "cut", "unfinished", "unsegmented"
NAMES = (CUT, UNFINISHED, UNSEGMENTED)


@dataclass(frozen=True)
class Note:
    """What became of one request.

    Attributes:
        cut: tokens that its prompt lost.
        unfinished: whether the answer met its token limit; None where nothing is generated.
        skipped: whether it was left out because its prompt is too long.
        unsegmented: whether it was left out because its prompt could not be segmented; None where
            that was not asked for.
    """

    cut: int = 0
    unfinished: bool | None = None
    skipped: bool = False
    unsegmented: bool | None = None

    @property
    def left_out(self) -> bool:
        """Whether nothing was run, so that there is nothing to score."""
        return self.skipped or self.unsegmented is True


class Answer(str):
    """A generated text that remembers its note (and keeps it when pickled)."""

    note: Note

    @classmethod
    def of(cls, text: str, note: Note) -> Answer:
        """`text` with `note`."""
        answer = cls(text)
        answer.note = note
        return answer


class LogLikelihood(tuple[float, bool]):
    """A log-likelihood and whether it is the greedy one, with a note."""

    note: Note

    @classmethod
    def of(cls, values: Iterable[Any], note: Note) -> LogLikelihood:
        """`values` with `note`."""
        answer = cls(values)
        answer.note = note
        return answer


def notes(responses: Iterable[Any]) -> list[Note]:
    """The notes of those responses that remember one."""
    return [one.note for one in responses if isinstance(one, Answer | LogLikelihood)]


def metrics(found: Sequence[Note]) -> dict[str, float]:
    """The notes of one document's responses as metrics; none without notes."""
    if not found:
        return {}
    noted: dict[str, float] = {CUT: max(note.cut for note in found)}
    ends = [note.unfinished for note in found if note.unfinished is not None]
    if ends:
        noted[UNFINISHED] = sum(ends) / len(ends)
    asked = [note.unsegmented for note in found if note.unsegmented is not None]
    if asked:
        noted[UNSEGMENTED] = float(any(asked))
    return noted


def unanswered(sample: Mapping[str, Any]) -> bool:
    """Whether the sample of a task that generates is of a document that was left out."""
    return CUT in sample and UNFINISHED not in sample


def share(values: Sequence[float]) -> float:
    """The share of documents with more than nothing."""
    return sum(value > 0 for value in values) / len(values)


def watch(task: Any, known: Callable[[Any], Note] | None = None) -> None:
    """Add what the answers remember to the metrics of a harness task.

    Args:
        known: the note of a request whose answers remember nothing, where there is a way to know.
    """
    if not isinstance(getattr(task.process_results, "__self__", None), _Watched):
        watched = _Watched(task, known)
        task.doc_iterator, task.process_results = watched.doc_iterator, watched.process_results
        task.aggregation, task.higher_is_better = watched.aggregation, watched.higher_is_better


class _Watched:
    """The methods of a task through which scores reach the results.

    The harness hands `process_results` a document without its number; the number is known because
    documents are taken one by one.
    """

    def __init__(self, task: Any, known: Callable[[Any], Note] | None) -> None:
        self._task, self._known = task, known
        self._iterate: Callable[..., Iterator[tuple[int, Any]]] = task.doc_iterator
        self._score: Callable[..., Any] = task.process_results
        self._aggregation: Callable[[], Any] = task.aggregation
        self._better: Callable[[], Any] = task.higher_is_better
        self._notes: dict[int, list[Note]] | None = None
        self._number = -1
        self._reported: dict[str, None] = {}

    def doc_iterator(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        self._notes = None
        for number, doc in self._iterate(*args, **kwargs):
            self._number = number
            yield number, doc

    def process_results(self, doc: Any, results: Any) -> Any:
        if self._notes is None:
            self._notes = defaultdict(list)
            for instance in self._task.instances:
                self._notes[instance.doc_id] += self._of(instance)
        found = self._notes.get(self._number, [])
        noted = metrics(found)
        self._reported |= dict.fromkeys(noted)
        if any(note.left_out for note in found):
            return noted
        return {**self._score(doc, results), **noted}

    def _of(self, instance: Any) -> list[Note]:
        remembered = notes(instance.resps)
        return remembered or ([self._known(instance)] if self._known is not None else [])

    def aggregation(self) -> Mapping[str, Any]:
        return {**(self._aggregation() or {}), **dict.fromkeys(self._reported, share)}

    def higher_is_better(self) -> Mapping[str, Any]:
        return {**(self._better() or {}), **dict.fromkeys(self._reported, False)}
