"""Where a command's text goes: the terminal, or a file."""

from __future__ import annotations

import sys
from pathlib import Path

from ctx_tasks.errors import UserError


def put(text: str, output: Path | None) -> None:
    """Print `text`, or write it to a file whole or not at all."""
    if output is None:
        sys.stdout.write(text)
        return
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(output)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error}).") from error
