"""Rows in, rows out: the files every `ctx-train` step reads and writes.

A dataset is a local file, a folder of such files, or a hub name. `.jsonl`, `.json` (an array, or
lines in a file named so) and `.parquet` are read as a stream of dicts, so that memory does not grow
with the file: a JSON array comes through `ijson`, parquet in batches through pyarrow.

Every file is written under a hidden `.NAME.partial` beside it and renamed when complete: a killed
run leaves nothing half-written under the final name, and a rerun overwrites what it left. Beside
a dataset `NAME` lies `NAME.meta.json`: inputs with hashes, settings, counts, versions, and no clock
time, so that the same run gives the same bytes.

Not handled: compressed JSON, and two runs writing one output at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from ctx_tasks.errors import UserError

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".json", ".parquet")
META_SUFFIX = ".meta.json"
_BATCH = 1000
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
# A column whose first batch holds only nulls has no type of its own.
_NULLABLE = {
    "id": pa.string(),
    "source": pa.string(),
    "context_dependency": pa.list_(pa.float64()),
}


def local_files(path: str | Path) -> list[Path]:
    """The data files of `path`: itself, or those in the folder and below, sorted by name.

    Hidden files and `*.meta.json` are left out. Raises UserError if nothing readable is there.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _is_data(p.relative_to(path)))
        if not found:
            raise UserError(
                f"The folder {path} holds no {', '.join(SUFFIXES)} file: name one that does."
            )
        return found
    if not path.is_file():
        raise UserError(
            f"There is no file or folder {path}: give an existing one, or a hub name OWNER/NAME."
        )
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path} ends in {path.suffix!r}; readable are {', '.join(SUFFIXES)}: convert it first."
        )
    return [path]


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix in SUFFIXES and not path.name.endswith(META_SUFFIX) and not hidden


def read_rows(path: str | Path) -> Iterator[Row]:
    """Stream the rows of a local file or folder, in file order.

    Lone surrogates (half an emoji, common in scraped chats) become `?`, so that every text can be
    written as UTF-8 again. Raises UserError naming the file, and the line where there is one, for
    data that does not parse.
    """
    for file in local_files(path):
        yield from _READERS[file.suffix](file)


def _read_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield _parse_line(text, path, number)


def _parse_line(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"Line {number} of {path} is not JSON ({error}): repair or remove that line."
        ) from error
    return _as_row(row, f"line {number} of {path}")


def _as_row(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(
            f"{where[0].upper()}{where[1:]} is a {type(row).__name__}, not an object: "
            "give one JSON object a row."
        )
    cleaned: Row = _without_surrogates(row)
    return cleaned


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(item) for k, item in value.items()}
    return value


def _read_json(path: Path) -> Iterator[Row]:
    """A JSON array element by element, or JSON lines in a file named `.json`."""
    with path.open("rb") as file:
        if _first_character(file) != b"[":
            yield from _read_lines(path)
            return
        try:
            for index, row in enumerate(ijson.items(file, "item", use_float=True)):
                yield _as_row(row, f"element {index} of {path}")
        except ijson.JSONError as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path} is not a whole JSON array ({reason}): download or export it again."
            ) from error


def _first_character(file: IO[bytes]) -> bytes:
    """The first byte that is not white space (or a byte order mark); the file is left before it."""
    start = 3 if file.read(3) == b"\xef\xbb\xbf" else 0
    file.seek(start)
    while (character := file.read(1)).isspace():
        start += 1
    file.seek(start)
    return character


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} is not a readable parquet file ({error}): write or download it again."
        ) from error


_READERS = {".jsonl": _read_lines, ".json": _read_json, ".parquet": _read_parquet}


def is_hub_name(source: str) -> bool:
    """Whether `source` is `OWNER/NAME` of a hub dataset: nothing local is called so."""
    looks_so = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None
    return looks_so and not Path(source).exists() and Path(source).suffix not in SUFFIXES


def read_source(
    source: str, *, split: str = "train", data_file: str | None = None
) -> Iterator[Row]:
    """Stream the rows of a local file or folder, or of a hub dataset.

    A hub dataset is streamed by `datasets`. With `data_file` that one file is fetched to the hub
    cache and read as a local file: `datasets` would load a large JSON array whole.
    """
    if not is_hub_name(source):
        return read_rows(source)
    if data_file is not None:
        return read_rows(hub_file(source, data_file))
    return hub_rows(source, split=split)


def hub_file(name: str, data_file: str) -> Path:
    """The local copy of one file of a hub dataset."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=name, filename=data_file, repo_type="dataset"))
    except Exception as error:
        raise _unreachable(name, error) from error


def hub_rows(name: str, *, split: str = "train", **options: Any) -> Iterator[Row]:
    """Stream a dataset through `datasets.load_dataset(name, split=split, streaming=True)`."""
    import datasets

    try:
        stream = datasets.load_dataset(name, split=split, streaming=True, **options)
    except Exception as error:
        raise _unreachable(name, error) from error
    for row in stream:
        yield _as_row(row, f"a row of {name}")


def _unreachable(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"The hub dataset {name!r} could not be opened ({reason}): check the name, --split and "
        "--data-file, or give a local file."
    )


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A hidden path beside `path` to write to; renamed to `path` on success, removed on error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 text file atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


class RowWriter(Protocol):
    """What `row_writer` gives."""

    def write(self, row: Row) -> None:
        """Append one row."""


@contextlib.contextmanager
def row_writer(path: str | Path) -> Iterator[RowWriter]:
    """A writer of rows to `path` (`.jsonl` or `.parquet`), which appears when all are written.

    Raises UserError for another suffix, and for rows that do not fit one parquet schema.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise UserError(f"The output {path} must end in .jsonl or .parquet: rename it.")
    with atomic_path(path) as partial, _WRITERS[path.suffix](partial) as writer:
        yield writer


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write all `rows` to `path` atomically and return how many there were."""
    count = 0
    with row_writer(path) as writer:
        for row in rows:
            writer.write(row)
            count += 1
    return count


class _JsonLines:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[_JsonLines]:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        yield _JsonLines(file)


class _Parquet:
    """Row groups of one schema, taken from the first batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Row] = []
        self._writer: pq.ParquetWriter | None = None

    def write(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._rows and self._writer is not None:
            return
        table = _table(self._rows)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, _typed(table.schema))
        self._writer.write_table(_cast(table, self._writer.schema))
        self._rows = []

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[_Parquet]:
    writer = _Parquet(path)
    try:
        yield writer
        writer.flush()
    finally:
        writer.close()


_WRITERS: dict[str, Any] = {".jsonl": _json_lines, ".parquet": _parquet}


def _table(rows: list[Row]) -> pa.Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _misfit(error) from error


def _typed(schema: pa.Schema) -> pa.Schema:
    fields = [
        pa.field(f.name, _NULLABLE.get(f.name, pa.string() if pa.types.is_null(f.type) else f.type))
        for f in schema
    ]
    return pa.schema(fields)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` under `schema`; anything it holds beyond that, at any depth, is an error.

    The check is ours: `Table.cast` drops unknown fields of a struct without a word.
    """
    try:
        if not pa.unify_schemas([schema, table.schema], promote_options="permissive").equals(
            schema
        ):
            raise _misfit(f"the columns of a later row differ from the first {_BATCH} rows'")
        missing = [field for field in schema if field.name not in table.column_names]
        for field in missing:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _misfit(error) from error


def _misfit(reason: object) -> UserError:
    return UserError(
        f"These rows do not fit one parquet schema ({reason}): write to a .jsonl file instead."
    )


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
