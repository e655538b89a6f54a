"""What a `ctx-train` step leaves beside its output: `NAME.meta.json`.

It holds the inputs with their hashes, settings, counts and versions, and no clock time, so that the
same run gives the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256, write_text
from ctx_tasks.rows import META_SUFFIX, is_hub_name, local_files

_PACKAGES = (
    "lm-eval-ctx",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "datasets",
    "pyarrow",
    "fschat",
    "markdownify",
    "beautifulsoup4",
)


def describe(source: str | Path) -> list[dict[str, Any]]:
    """Path, size in bytes and SHA-256 of every data file of a local source; a hub name as it is."""
    if is_hub_name(str(source)):
        return [{"hub": str(source)}]
    return [
        {"path": str(file), "bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in local_files(source)
    ]


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result, where installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def meta_path(output: str | Path) -> Path:
    """Where the provenance of `output` lies: `NAME.meta.json` beside it."""
    output = Path(output)
    return output.with_name(output.name + META_SUFFIX)


def provenance(data: str | Path) -> dict[str, Any]:
    """The settings of the step that wrote `data`, from the record beside it; empty without one."""
    meta = meta_path(data)
    if not meta.is_file():
        return {}
    settings: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8")).get("settings", {})
    return settings


def write_meta(
    output: str | Path,
    *,
    command: str,
    inputs: Iterable[str | Path],
    settings: dict[str, Any],
    counts: dict[str, Any],
) -> Path:
    """Write `NAME.meta.json` beside a finished output file (or folder) and return its path.

    `inputs` are described with hashes (see `describe`), and so is the output where it is one file.
    Settings and counts must be JSON values; a path in them is written as text.
    """
    output = Path(output)
    meta = {
        "command": command,
        "output": output.name,
        "output_sha256": sha256(output) if output.is_file() else None,
        "inputs": [entry for source in inputs for entry in describe(source)],
        "settings": settings,
        "counts": counts,
        "versions": versions(),
    }
    path = meta_path(output)
    write_text(path, json.dumps(meta, ensure_ascii=False, indent=2, default=str) + "\n")
    return path


def refuse_overwrite(output: str | Path, source: str | Path) -> None:
    """Raise UserError if writing `output` would replace a file that `source` is read from."""
    if is_hub_name(str(source)):
        return
    if Path(output).resolve() in {file.resolve() for file in local_files(source)}:
        raise UserError(f"The output {output} is also the input: choose another output name.")
