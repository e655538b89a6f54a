"""Answers kept as they come: a run that is killed goes on behind its last whole batch.

The model's answers to a batch are a line of a journal (`ctx_tasks.journal`) as soon as they are
made. A later run of the same settings is given them back, and only runs the rest. A line belongs
to the batch as a whole, by a digest of all its requests, so that what runs again runs in the
batches that it would have run in: beside others, or padded otherwise, a row's numbers may differ.

The file is named by a hash of what can move an answer: no two settings share one. Whoever starts a
run says where (`kept_in`), a model class opens the journal there while it answers (`opened`).
Answers that are sampled are not kept: they depend on all that was drawn before them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ctx_models.fingerprint import short_hash
from ctx_models.logs import RANK, Say
from ctx_tasks.answers import Answer, LogLikelihood, Note
from ctx_tasks.journal import Journal, Line, read

Answers = list[Any]


@dataclass
class _Place:
    """Where a run's answers are kept: `kept_in` as it was called, and the files opened so far."""

    folder: Path
    run: Mapping[str, Any]
    fresh: bool
    say: Say
    opened: dict[Path, None] = field(default_factory=dict)


_place: _Place | None = None


@contextmanager
def kept_in(
    folder: Path,
    run: Mapping[str, Any],
    *,
    fresh: bool = False,
    say: Say = lambda _: None,
    written: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Inside, models that can keep their answers in `folder`; left without an error, none are kept.

    Args:
        folder: made when there is something to keep; nothing else belongs into it.
        run: JSON values that tell one run from another, beside what the model says of itself.
        fresh: forget the answers of earlier runs with these settings.
        say: told in a sentence what is kept, or was found.
        written: asked in the end whether the results are there; if not, the answers stay.
    """
    global _place
    before, _place = _place, _Place(folder, run, fresh, say)
    try:
        yield
        if RANK == 0 and written():
            _forget(_place.opened)
    finally:
        _place = before


def _forget(journals: Iterable[Path]) -> None:
    """Remove journals of all processes, and the folder if that leaves it empty."""
    for path in journals:
        stem = path.name.rpartition("-rank")[0]
        for one in (*path.parent.glob(f"{stem}-rank*"), *path.parent.glob(f".{stem}-rank*.lock")):
            one.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


@contextmanager
def opened(settings: Mapping[str, Any], rank: int, paths: set[str]) -> Iterator[Kept]:
    """The kept answers of one model, for as long as it answers; nothing is kept without `kept_in`.

    Args:
        settings: JSON values; all of the model that can move an answer.
        paths: see `Kept`.

    Raises:
        UserError: another process keeps the same answers, or the file cannot be written.
    """
    if _place is None:
        yield Kept(None, [], paths)
        return
    whole = {**settings, **_place.run}
    name = short_hash(json.dumps(whole, sort_keys=True, default=str))
    path = _place.folder / f"{name}-rank{rank}.jsonl"
    header = {"run": name}
    first = path not in _place.opened
    if first and _place.fresh:
        path.unlink(missing_ok=True)
    with Journal(path, header) as journal:
        found = list(read(path, header))
        if first and rank == 0:
            _place.say(_told(_place.folder, sum(len(line["answers"]) for line in found)))
        _place.opened[path] = None
        yield Kept(journal, found, paths)


def _told(folder: Path, count: int) -> str:
    if count:
        return f"{count} answers of an unfinished run are in {folder}; --fresh starts over."
    return f"Answers are kept in {folder} as they come: run again, a killed run goes on."


class Kept:
    """The answers that one model has given, batch by batch.

    Args:
        journal: None where nothing is kept.
        found: its lines.
        paths: the attention paths that the model has taken (`SteeredLM`); they stand in the results
            and are kept along.
    """

    def __init__(self, journal: Journal | None, found: Sequence[Line], paths: set[str]) -> None:
        self._journal, self._paths = journal, paths
        self._batches = {line["batch"]: line for line in found}
        self._sizes = {line["first"]: len(line["answers"]) for line in found}

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._journal is not None

    def has(self, requests: Sequence[str]) -> bool:
        """Whether the answers to this batch of requests (digests) are kept."""
        return _whole(requests) in self._batches

    def size(self, requests: Sequence[str]) -> int | None:
        """How many of these requests are the kept batch that begins them, if there is one.

        For batches whose size is not fixed.
        """
        size = self._sizes.get(requests[0])
        return size if size and self.has(requests[:size]) else None

    def batch(self, requests: Sequence[str], run: Callable[[], Answers]) -> Answers:
        """The answers to a batch of requests (digests): those that are kept, or made now and kept.

        `run` gives an `Answer` or a `LogLikelihood` for each.
        """
        whole = _whole(requests)
        line = self._batches.get(whole)
        if line is not None:
            self._paths.update(line["paths"])
            return [_answer(*one) for one in line["answers"]]
        answers = run()
        if self._journal is not None:
            lines = [_values(one) for one in answers]
            self._journal.add(
                {
                    "batch": whole,
                    "first": requests[0],
                    "answers": lines,
                    "paths": sorted(self._paths),
                }
            )
        return answers


def digest(*parts: Any) -> str:
    """What a request is known by: a hash of all that it consists of, by their `repr`."""
    return sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _whole(requests: Sequence[str]) -> str:
    return sha256("".join(requests).encode()).hexdigest()


def _values(answer: Answer | LogLikelihood) -> list[Any]:
    """An answer as JSON: its text or its numbers, and its note."""
    return [str(answer) if isinstance(answer, Answer) else list(answer), asdict(answer.note)]


def _answer(values: Any, note: dict[str, Any]) -> Answer | LogLikelihood:
    noted = Note(**note)
    if isinstance(values, str):
        return Answer.of(values, noted)
    return LogLikelihood.of(values, noted)
