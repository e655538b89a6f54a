"""Part files: what a killed or distributed run has finished so far.

A hidden folder `.NAME.parts` beside the output `NAME` holds `settings.json` (whose run it is) and a
journal `RANK.jsonl` for each process, a line a finished batch. On several machines the folder must
be on a file system they share.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text
from ctx_tasks.journal import Journal, Line, read, refuse_other


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
            write_text(record, json.dumps(settings, indent=2))
            return
        refuse_other(self.folder, json.loads(record.read_text(encoding="utf-8")), settings)

    def read(self) -> Iterator[Line]:
        """Every whole line of every part, parts in name order."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in read(path):
                _require_batch(line, path)
                yield line

    def writer(self, rank: int) -> Journal:
        """The part of process `rank`, to add lines to."""
        return Journal(self.folder / f"{rank}.jsonl")

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def _require_batch(line: Line, path: Path) -> None:
    rows, scores, fates = line.get("rows"), line.get("scores"), line.get("fates")
    batch = isinstance(rows, list) and isinstance(scores, list) and isinstance(fates, dict)
    if not (batch and rows and len(rows) == len(scores or ())):
        raise UserError(
            f"{path} holds a line without the scores of its rows: delete that file and run again; "
            "only what it holds is computed anew."
        )
