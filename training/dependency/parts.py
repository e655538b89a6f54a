"""Part files: what a killed or distributed run has finished so far.

A hidden folder `.NAME.parts` beside the output `NAME` holds `settings.json` (whose run it is) and
one `RANK.jsonl` for each process, a line a finished batch. A line is written and flushed at once; a
kill can only leave a half line at the end of a file, which is dropped. On several machines the
folder must be on a file system they share.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctx_tasks.errors import UserError
from training import files

Line = dict[str, Any]


class Parts:
    """The part files of one output."""

    def __init__(self, output: str | Path) -> None:
        output = Path(output)
        self.folder = output.with_name(f".{output.name}.parts")

    def claim(self, settings: dict[str, Any]) -> None:
        """Take the folder for a run with these settings (JSON values), or find that it is ours.

        Raises UserError if it holds parts of a run with other settings.
        """
        record = self.folder / "settings.json"
        if not record.is_file() or next(self.read(), None) is None:
            files.write_text(record, json.dumps(settings, indent=2))
            return
        theirs = json.loads(record.read_text(encoding="utf-8"))
        if theirs == settings:
            return
        keys = sorted(theirs.keys() | settings.keys())
        differing = [
            f"{key} {theirs.get(key)!r} (now {settings.get(key)!r})"
            for key in keys
            if theirs.get(key) != settings.get(key)
        ]
        raise UserError(
            f"{self.folder} holds the parts of an unfinished run with other settings: "
            f"{'; '.join(differing)}; run again with those to finish it, or delete that folder."
        )

    def read(self) -> Iterator[Line]:
        """Every whole line of every part, parts in name order."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for number, line in enumerate(_whole_lines(path), start=1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise UserError(
                        f"Line {number} of {path} is damaged: delete that file and run again; only "
                        "its part is computed anew."
                    ) from error

    @contextlib.contextmanager
    def writer(self, rank: int) -> Iterator[Callable[[Line], None]]:
        """A function that appends one line to the part of process `rank`.

        Raises UserError if another process has it open: a killed launcher may leave workers.
        """
        path = self.folder / f"{rank}.jsonl"
        with _locked(path), path.open("ab") as file:
            file.truncate(sum(map(len, _whole_lines(path))))

            def write(line: Line) -> None:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()

            yield write

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            yield
    except Timeout as error:
        raise UserError(
            f"Another process is writing {path}: wait until it is done, or end it and run again."
        ) from error


def _whole_lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        return
    with path.open("rb") as lines:
        yield from (line for line in lines if line.endswith(b"\n"))
