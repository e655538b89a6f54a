"""Rows out: JSON lines or parquet, in a file that appears when all are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ctx_tasks.errors import UserError
from ctx_tasks.files import whole_file
from ctx_tasks.rows import Row

_BATCH = 1000
# A column whose first batch holds only nulls has no type of its own.
_NULLABLE = {
    "id": pa.string(),
    "source": pa.string(),
    "context_dependency": pa.list_(pa.float64()),
}


class RowWriter(Protocol):
    """What `row_writer` gives."""

    def write(self, row: Row) -> None:
        """Append one row."""


@contextmanager
def row_writer(path: str | Path) -> Iterator[RowWriter]:
    """A writer of rows to `path` (`.jsonl` or `.parquet`), which appears when all are written.

    Raises UserError for another suffix, and for rows that do not fit one parquet schema.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise UserError(f"The output {path} must end in .jsonl or .parquet: rename it.")
    with whole_file(path) as partial, _WRITERS[path.suffix](partial) as writer:
        yield writer


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write all `rows` to `path` whole and return how many there were."""
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


@contextmanager
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


@contextmanager
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
