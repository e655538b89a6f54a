"""Where a command's text goes: the terminal, or a file."""

from __future__ import annotations

import sys
from pathlib import Path

from ctx_tasks.files import write_text


def put(text: str, output: Path | None) -> None:
    """Print `text`, or write it to a file whole or not at all."""
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)
