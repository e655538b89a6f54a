"""How far a run is: one bar over all its documents, and below it the evaluation that runs.

Whoever runs many evaluations (`shown`) says how many documents each has; the model that answers
them says how far it is (`requests`). Time left is what is left at the pace of this process: what
earlier runs have answered counts as done, not as fast. Where nobody looks (a log of a CI) the bars
are a line a minute.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from ctx_models.logs import RANK

# Seconds between two lines where there is no terminal.
_PAUSE = 60.0
_WHOLE = (
    "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} documents [{elapsed}, {remaining} left]"
)
_PART = "  {desc}: {n:.0f}/{total:.0f} documents [{elapsed}]"


class Progress:
    """Two bars on the terminal.

    Args:
        documents: of all evaluations.
        terminal: where the bars are drawn.
    """

    def __init__(self, documents: float, terminal: TextIO) -> None:
        self._terminal, self._live = terminal, terminal.isatty()
        # Drawn into nowhere, a bar still knows its state.
        self._canvas = terminal if self._live else StringIO()
        self._told: set[str] = set()
        self._spoke = time.monotonic()
        self._whole = self._bar(documents, _WHOLE, 0)
        self._part: tqdm[Any] | None = None

    def _bar(self, total: float, how: str, position: int) -> tqdm[Any]:
        return tqdm(
            total=total,
            file=self._canvas,
            bar_format=how,
            # Time left by the mean pace: the last batches of an evaluation are its shortest.
            smoothing=0,
            position=position,
            leave=position == 0,
            disable=RANK > 0,
        )

    def skip(self, documents: float) -> None:
        """So many documents were answered in an earlier run."""
        if RANK == 0:
            self._whole.initial += documents
        self.advance(documents)

    def advance(self, documents: float) -> None:
        """So many documents are done; of a batch of choices it may be a fraction."""
        self._whole.update(documents)
        if self._part is not None:
            self._part.update(documents)
        self._speak()

    @contextmanager
    def evaluation(self, title: str, documents: float) -> Iterator[None]:
        """Inside, what advances is of one evaluation; in the end all of it is done."""
        end = self._whole.n + documents
        self._part = self._bar(documents, _PART, 1)
        self._part.set_description_str(title)
        try:
            yield
        finally:
            self._part.close()
            self._part = None
            self._whole.update(end - self._whole.n)
            self._speak()

    def title(self, text: str) -> None:
        """What is being done before, between or after evaluations."""
        self._whole.set_description_str(text and f"{text}: ")

    def say(self, text: str) -> None:
        """Tell something above the bars, the same thing once."""
        if RANK == 0 and text not in self._told:
            self._told.add(text)
            self._whole.write(text, file=self._terminal)

    def _speak(self) -> None:
        if not self._live and time.monotonic() > self._spoke + _PAUSE:
            self._print()

    def _print(self) -> None:
        self._spoke = time.monotonic()
        if RANK == 0:
            said = [str(bar) for bar in (self._whole, self._part) if bar is not None]
            print(*said, file=self._terminal, flush=True)

    def close(self) -> None:
        """Leave the last state on the terminal."""
        self.title("")
        if not self._live:
            self._print()
        self._whole.close()


_shown: Progress | None = None


@contextmanager
def shown(documents: float) -> Iterator[Progress]:
    """Inside, models tell this progress how far they are."""
    global _shown
    with _terminal() as terminal:
        before, _shown = _shown, Progress(documents, terminal)
        try:
            yield _shown
        finally:
            _shown.close()
            _shown = before


class Done(Protocol):
    """Told how many requests more are answered, and whether the answers were kept ones."""

    def __call__(self, requests: int, *, kept: bool) -> None: ...


@contextmanager
def requests(total: int, documents: float, kind: str, quiet: bool) -> Iterator[Done]:
    """The harness's own bar over requests; where there is no terminal, a line a minute.

    Args:
        total: requests of this process.
        documents: that all processes evaluate with such requests.
    """
    pause = 0.1 if sys.stderr.isatty() else _PAUSE
    name = f"Running {kind} requests"
    bar = tqdm(total=total, disable=quiet, desc=name, mininterval=pause, maxinterval=pause)

    def done(requests: int, *, kept: bool) -> None:
        bar.update(requests)
        if _shown is not None:
            share = documents * requests / total
            (_shown.skip if kept else _shown.advance)(share)

    with bar:
        yield done


@contextmanager
def _terminal() -> Iterator[TextIO]:
    """stderr as it is now, whatever `logs.recorded` does to it later."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # stderr is no file, as in a notebook or a test
        yield sys.stderr
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as terminal:
        yield terminal
