"""The file that keeps every verdict of a judge as it comes: a killed run never pays twice.

JSON lines, appended and synced to the disk one by one. A kill leaves at most one torn line, which
is closed and skipped the next time. A reply without a rating is kept as well, to be looked at, but
does not count as done.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
from filelock import FileLock, Timeout

from ctx_tasks.errors import UserError

logger = logging.getLogger(__name__)


class Verdict(msgspec.Struct):
    """One reply. `turn` and `repeat` count from 1; `rating` is None where the reply had none."""

    key: str
    question: str
    turn: int
    repeat: int
    rating: float | None
    reply: str
    model: str
    tokens_in: int
    tokens_out: int


class VerdictFile:
    """The verdicts in `path`, made where there is none; a context manager that locks it.

    Attributes:
        ratings: of all kept verdicts that have one, by key.

    Raises:
        UserError: another process uses the file, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ratings: dict[str, float] = {}
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._writing = threading.Lock()
        self._file: BinaryIO

    def __enter__(self) -> VerdictFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._open()
        except Timeout as error:
            raise UserError(
                f"{self.path} is in use by another ctx-eval judge; wait for it, or name another "
                "file with --verdicts."
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error}); name another file."
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._lock.release()

    def add(self, verdict: Verdict) -> None:
        """Append one verdict; it is on the disk when this returns."""
        line = msgspec.json.encode(verdict) + b"\n"
        with self._writing:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._take(verdict)

    def _take(self, verdict: Verdict) -> None:
        if verdict.rating is not None:
            self.ratings[verdict.key] = verdict.rating

    def _open(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                self._take(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                logger.warning("%s, line %d is no verdict and is skipped.", self.path, number)
        self._file = self.path.open("ab")
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")


_DECODER = msgspec.json.Decoder(Verdict)
