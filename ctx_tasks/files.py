"""Local files and URLs -> raw records, one dictionary at a time, each with where it was found.

What is read: JSON lines, one JSON document (an object, or a list of objects) and parquet; told
apart by their first bytes, so a name's suffix does not matter. JSON lines and parquet are streamed.
Nothing is executed or unpickled. Compressed files are not read: unpack them first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ctx_tasks.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_LINES = (".jsonl", ".ndjson")
_PARQUET_MAGIC = b"PAR1"


class Record(NamedTuple):
    """A raw dictionary and where it stands ("dev.jsonl, line 3"), for messages."""

    where: str
    value: dict[str, Any]


def read_files(files: Any, option: str) -> Iterator[Record]:
    """Yield every record of `files`: a path, a folder, an http(s) URL, or a list of these.

    Args:
        files: as the user gave it. A folder stands for its files with one of `SUFFIXES`, by name.
        option: what the user wrote it under, such as "squad_files", for messages.

    Raises:
        UserError: a path that does not exist, a URL that cannot be fetched, a file that is neither
            UTF-8 JSON nor parquet; for malformed JSON the message has file and line number.
    """
    for name in listed(files, option):
        for path in _local_paths(name, option):
            yield from read_file(path, name if _is_url(name) else str(path))


def listed(files: Any, option: str) -> list[str]:
    """`files` as a non-empty list of strings (paths or URLs); `UserError` for anything else."""
    names = files if isinstance(files, list | tuple) else [files]
    if not names or not all(isinstance(name, str | Path) and str(name) for name in names):
        raise UserError(
            f"{option} must be a path, a URL or a list of these, but got {files!r}; "
            f'for example --metadata \'{{"{option}": "dev.jsonl"}}\'.'
        )
    return [str(name) for name in names]


def read_file(path: Path, name: str) -> Iterator[Record]:
    """Yield the records of one local file; `name` is what messages call it."""
    try:
        with path.open("rb") as head:
            is_parquet = head.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
        yield from _read_parquet(path, name) if is_parquet else _read_json(path, name)
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(
            f"{name} is neither UTF-8 JSON nor parquet ({error}); unpack or convert it first."
        ) from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error}); check the file.") from error


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _local_paths(name: str, option: str) -> list[Path]:
    if _is_url(name):
        return [fetch(name, option)]
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"{option} names {name}, which does not exist; check the path.")
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not inside:
        raise UserError(
            f"{option} names the folder {name}, which holds no file ending in "
            f"{', '.join(SUFFIXES)}; name a folder or file that has data."
        )
    return inside


def fetch(url: str, option: str) -> Path:
    """Download `url` into the `datasets` cache (or find it there) and return the local path."""
    from datasets import DownloadManager

    try:
        return Path(DownloadManager().download(url))
    # The HTTP stack below raises errors of several libraries; all of them mean: no file.
    except Exception as error:
        raise UserError(
            f"{url} could not be downloaded ({type(error).__name__}); pass a local copy with "
            f'--metadata \'{{"{option}": "PATH"}}\'.'
        ) from error


def _read_parquet(path: Path, name: str) -> Iterator[Record]:
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            for value in batch.to_pylist():
                row += 1
                yield Record(f"{name}, row {row}", value)


def _read_json(path: Path, name: str) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        number, first = _next_line(file, 0)
        if first is None:
            return
        if not _is_json(first) and not name.endswith(_LINES):
            file.seek(0)
            yield from _records(_parse(file.read(), name, 1), name)
            return
        value = _parse(first, name, number)
        after, second = _next_line(file, number)
        if second is None:
            yield from _records(value, name)
            return
        yield _record(value, f"{name}, line {number}")
        while second is not None:
            yield _record(_parse(second, name, after), f"{name}, line {after}")
            after, second = _next_line(file, after)


def _next_line(file: TextIO, number: int) -> tuple[int, str | None]:
    """The next line that is not blank and its number (from 1), or None at the end."""
    for line in iter(file.readline, ""):
        number += 1
        if line.strip():
            return number, line
    return number, None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _parse(text: str, name: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"{name}, line {line} is not valid JSON ({error.msg}, column {error.colno}); "
            f"correct or remove it."
        ) from error


def _records(value: Any, name: str) -> Iterator[Record]:
    if not isinstance(value, list):
        yield _record(value, name)
        return
    for index, item in enumerate(value, start=1):
        yield _record(item, f"{name}, item {index}")


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(
            f"{where} is a JSON {type(value).__name__}, but a row must be an object with named "
            f"columns; correct the file."
        )
    return Record(where, value)
