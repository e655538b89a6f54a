"""Lines kept as they come: a killed run goes on behind the last whole one.

A journal is a file of JSON objects, a line each, appended and synced to the disk one by one. A kill
leaves at most one torn line at the end, which is cut off when the file is next written to. The
first line may be the settings of the run it belongs to; any other run is then refused. One process
writes at a time.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ctx_tasks.errors import UserError
from ctx_tasks.files import cannot_write

Line = dict[str, Any]
_HEADER = "settings"
_OPENINGS = (b'{"', b"{}")


class Journal:
    """`path`, locked and open at its end; made where there is none.

    Args:
        settings: JSON values, whose run it is; None for a file that any run may add to.

    Raises:
        UserError: another process writes to it, it is of a run with other settings, or it cannot be
            written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._settings = settings
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._adding = threading.Lock()
        self._file: int
        self._end = 0

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._open()
        except Timeout as error:
            raise UserError(
                f"Another process is writing {self.path}; wait until it is done, or end it and run "
                "again."
            ) from error
        except OSError as error:
            self._lock.release()
            raise cannot_write(self.path, error) from error
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
        self._lock.release()

    def add(self, line: Line) -> None:
        """Append one line, from any thread; it is on the disk when this returns."""
        with self._adding:
            self._append(_encoded(line))

    def _open(self) -> None:
        _require_journal(self.path)
        begun = next(lines(self.path, self._settings), None) is not None
        self._end, last = 0, b"\n"
        for last in _whole_lines(self.path) if begun else ():
            self._end += len(last)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(self._file, self._end)
        if not last.endswith(b"\n"):
            self._append(b"\n")
        if not begun and self._settings is not None:
            self._append(_encoded({_HEADER: self._settings}))

    def _append(self, content: bytes) -> None:
        try:
            done = 0
            while done < len(content):
                done += os.pwrite(self._file, content[done:], self._end + done)
            os.fsync(self._file)
        except OSError as error:
            # The next line shall not follow half of this one.
            os.ftruncate(self._file, self._end)
            raise cannot_write(self.path, error) from error
        self._end += len(content)


def lines(path: Path, settings: Mapping[str, Any] | None = None) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of each whole line but the header; none without a file.

    Args:
        settings: as for `Journal`; a file with a header alone is anybody's.

    Raises:
        UserError: the file is of a run with other settings.
    """
    header = None
    for number, line in enumerate(_whole_lines(path), start=1):
        if settings is not None and header is None:
            header = line
            continue
        if header is not None and number == 2:
            _require_ours(path, header, settings or {})
        yield number, line


def read(path: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Line]:
    """The objects of a journal, as `lines`; a damaged line within it is a `UserError`."""
    for number, line in lines(path, settings):
        found = _object(line)
        if found is None:
            raise UserError(
                f"Line {number} of {path} is damaged: delete that file and run again; only what it "
                "holds is computed anew."
            )
        yield found


def refuse_other(
    path: Path,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    run: str = "an unfinished run",
) -> None:
    """Raise `UserError` if settings kept in `path` are not ours, with what differs."""
    ours = json.loads(json.dumps(ours))
    differing = [
        f"{key} {theirs.get(key)!r} (now {ours.get(key)!r})"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise UserError(
            f"{path} belongs to {run} with other settings: {'; '.join(differing)}; run again with "
            "those, name another output, or delete it."
        )


def _require_journal(path: Path) -> None:
    """Nothing is cut off a file that does not begin as a journal, torn or not."""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(2)
        if not any(opening.startswith(head) for opening in _OPENINGS):
            raise UserError(f"{path} is another kind of file: name a new one, or one of this kind.")


def _require_ours(path: Path, header: bytes, settings: Mapping[str, Any]) -> None:
    theirs = (_object(header) or {}).get(_HEADER)
    if not isinstance(theirs, dict):
        raise UserError(f"{path} does not say which run it belongs to: delete it and run again.")
    refuse_other(path, theirs, settings)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Every line but a torn one at the end; an object that lacks its line feed alone is whole."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n") or _object(line) is not None)


def _object(line: bytes) -> Line | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
