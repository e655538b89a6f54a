"""What libraries say while many evaluations run under one progress bar.

All of it goes to a log file: warnings, what they print on stderr, the traceback of a failure. Each
distinct warning is also told once, above the bar; the harness's hints, which it calls warnings and
gives at every run, are not.
"""

from __future__ import annotations

import io
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TextIO

from ctx_tasks import harness
from ctx_tasks.files import write_text

NAME = "log.txt"
# Of an `accelerate launch`: all processes evaluate together, the first speaks and writes.
RANK = int(os.environ.get("RANK", "0"))
Say = Callable[[str], None]


@contextmanager
def recorded(path: Path | None = None, say: Say = lambda _: None) -> Iterator[None]:
    """Inside, stderr and all log records go to a file; warnings also, in one line each, to `say`.

    The file descriptor too: the harness asks git for a commit, and git says so where there is none.

    Args:
        path: appended to; None for nowhere.
        say: told each warning, in one line.
    """
    where = os.devnull if path is None else path
    with (
        open(where, "a", encoding="utf-8", buffering=1, errors="replace") as log,
        _descriptor_into(log),
        redirect_stderr(_Lines(log)),
        _records_to(_Teller(log, say)),
    ):
        try:
            yield
        except BaseException:
            log.write(traceback.format_exc())
            raise


@contextmanager
def cell_log(folder: Path, say: Say, before: str = "") -> Iterator[Path]:
    """`recorded` for one evaluation, in a file beside its folder; into the folder if it fails.

    Whoever writes the results takes the file along (`keep`), so that both appear at once.

    Args:
        before: what was said while the model was loaded.
    """
    path = folder.with_name(f".{folder.name}.rank{RANK}.{NAME}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(before, encoding="utf-8")
    try:
        with recorded(path, say):
            yield path
    except Exception:
        if RANK == 0:
            keep(path, folder)
        raise
    finally:
        path.unlink(missing_ok=True)


def keep(path: Path, folder: Path) -> None:
    """Move a log into the folder of the evaluation that it is about."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / NAME, path.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def _descriptor_into(log: TextIO) -> Iterator[None]:
    kept = os.dup(2)
    try:
        os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _records_to(handler: logging.Handler) -> Iterator[None]:
    """Inside, `handler` alone gets the records of all loggers, and Python's warnings as records."""
    known = [
        one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)
    ]
    heads = [logging.getLogger(), *(one for one in known if not one.propagate)]
    kept = [(one, one.handlers) for one in heads]
    logging.captureWarnings(True)
    try:
        for one in heads:
            one.handlers = [handler]
        yield
    finally:
        for one, handlers in kept:
            one.handlers = handlers
        logging.captureWarnings(False)


class _Teller(logging.Handler):
    """Writes every record, and tells the warnings."""

    def __init__(self, log: TextIO, say: Say) -> None:
        super().__init__()
        self._log = log
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """One line or more in the log; one told."""
        text = record.getMessage().strip()
        self._log.write(f"{record.levelname} {record.name}: {text}\n")
        if record.exc_info:
            self._log.write("".join(traceback.format_exception(*record.exc_info)))
        hint = any(part in text for part in harness.HINTS)
        if record.levelno >= logging.WARNING and not hint:
            self._say(f"{record.levelname.lower()}: {' '.join(text.split())}")


class _Lines(io.TextIOBase):
    """Whole lines into a log; of a progress bar, which overwrites its line, only its last state."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._rest = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Keep what has no end yet."""
        *lines, self._rest = (self._rest + text).split("\n")
        for state in map(_last_state, lines):
            # A bar below another one steps down for each state, and up again.
            if state and "\x1b[A" not in state:
                self._log.write(f"{state}\n")
        self._rest = _last_state(self._rest)
        return len(text)


def _last_state(line: str) -> str:
    return next((state for state in reversed(line.split("\r")) if state), "")
