"""Rows in: JSON lines, JSON documents and parquet, as a stream of dictionaries.

What is read: JSON lines, a JSON array, JSON objects over several lines, and parquet, and of the
JSON what gzip or zstd packed; told apart by their content, so a name's suffix does not matter. All
are streamed, so memory does not grow with the file: an array and objects over several lines come
through `ijson`, parquet in batches. Nothing is executed or unpickled.
Lone surrogates (half an emoji, common in scraped chats) become `?`, so that every text can be
written as UTF-8 again.

A source is a local file, a folder of files, an http(s) URL (benchmarks) or a dataset of the hub
(training).
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from ctx_tasks.errors import UserError
from ctx_tasks.nesting import Nesting

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_PACKED = (".gz", ".zst")
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
META_SUFFIX = ".meta.json"
_LINES = (".jsonl", ".ndjson")
_PARQUET_MAGIC = b"PAR1"
_BOM = b"\xef\xbb\xbf"
_BATCH = 1000
# Lists and objects in each other, in a text that is streamed: what `json` takes in about all.
_DEEPEST = 500


class Record(NamedTuple):
    """A raw dictionary and where it stands ("dev.jsonl, line 3"), for messages."""

    where: str
    value: Row


Told = Callable[[int], object]


def _untold(count: int) -> None:
    """Who is not interested in bytes."""


def read_files(files: Any, option: str) -> Iterator[Record]:
    """Yield every record of `files`: a path, a folder, an http(s) URL, or a list of these.

    Args:
        files: as the user gave it. A folder stands for its data files, see `local_files`.
        option: what the user wrote it under, such as "squad_files", for messages.

    Raises:
        UserError: a path that does not exist, a URL that cannot be fetched, a file that is neither
            UTF-8 JSON nor parquet; for malformed JSON the message has file and line number.
    """
    for name in listed(files, option):
        if _is_url(name):
            yield from read_file(fetch(name, option), name)
            continue
        for path in local_files(name, option):
            yield from read_file(path, str(path))


def listed(files: Any, option: str) -> list[str]:
    """`files` as a non-empty list of strings (paths or URLs); `UserError` for anything else."""
    names = files if isinstance(files, list | tuple) else [files]
    if not names or not all(isinstance(name, str | Path) and str(name) for name in names):
        raise UserError(
            f"{option} must be a path, a URL or a list of these, but got {files!r}; "
            f'for example --metadata \'{{"{option}": "dev.jsonl"}}\'.'
        )
    return [str(name) for name in names]


def read_rows(path: str | Path, told: Told = _untold) -> Iterator[Row]:
    """Yield the rows of a local file or folder, in file order; errors as `read_files`.

    `told` hears how many bytes of the files were read, each time some are.
    """
    for file in local_files(path):
        for record in read_file(file, str(file), told):
            yield record.value


def local_files(path: str | Path, option: str = "source") -> list[Path]:
    """The data files of `path`: itself, or those in the folder and below, sorted by name.

    In a folder, a data file has one of `SUFFIXES`, perhaps followed by `.gz` or `.zst`; hidden
    files and `*.meta.json` are left out.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{option} names {path}, which does not exist; check the path.")
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.rglob("*") if p.is_file() and _is_data(p.relative_to(path)))
    if not inside:
        raise UserError(
            f"{option} names the folder {path}, which holds no file ending in "
            f"{', '.join(SUFFIXES)}; name a folder or file that has data."
        )
    return inside


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    name = _unpacked(path.name)
    return name.endswith(SUFFIXES) and not name.endswith(META_SUFFIX) and not hidden


def _unpacked(name: str) -> str:
    """A file's name without what packed it."""
    return next((name.removesuffix(end) for end in _PACKED if name.endswith(end)), name)


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


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


def is_hub_name(source: str) -> bool:
    """Whether `source` is `OWNER/NAME` of a hub dataset: nothing local is called so."""
    looks_so = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None
    return looks_so and not Path(source).exists() and Path(source).suffix not in SUFFIXES


def hub_file(name: str, data_file: str) -> Path:
    """The local copy of one file of a hub dataset, which `datasets` would load whole."""
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
    for number, row in enumerate(stream, start=1):
        yield _record(row, f"{name}, row {number}").value


def _unreachable(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"The hub dataset {name!r} could not be opened ({reason}): check the name, --split and "
        "--data-file, or give a local file."
    )


def read_file(path: Path, name: str, told: Told = _untold) -> Iterator[Record]:
    """Yield the records of one local file; `name` is what messages call it."""
    try:
        if _is_parquet(path):
            yield from _read_parquet(path, name, told)
            return
        with io.BufferedReader(_Counted(path, told)) as raw, _unpacking(raw) as file:
            blank, first = _first_character(file)
            read = _read_array if first == b"[" else _read_objects
            yield from read(_CountedLines(file, blank), name)
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(
            f"{name} is neither UTF-8 JSON nor parquet ({error}); unpack or convert it first."
        ) from error
    except RecursionError as error:
        raise UserError(f"{name} nests lists or objects too deeply; correct the file.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} cannot be read ({error}); check the file.") from error


class _Counted(io.FileIO):
    """A file that tells how much of it is read, packed or not."""

    def __init__(self, path: Path, told: Told) -> None:
        super().__init__(path)
        self._told = told

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._told(count or 0)
        return count


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def _unpacking(raw: io.BufferedReader[Any]) -> io.BufferedReader:
    """What `raw` holds, unpacked if need be."""
    head = raw.peek(len(_ZSTD_MAGIC))
    if head.startswith(_GZIP_MAGIC):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if head.startswith(_ZSTD_MAGIC):
        return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"))
    return raw


def _first_character(file: io.BufferedReader) -> tuple[int, bytes]:
    """How many lines are blank before the first character but white space, and that character.

    It is still to be read; a byte order mark is behind us.
    """
    if file.peek(len(_BOM)).startswith(_BOM):
        file.read(len(_BOM))
    blank = 0
    while (first := file.peek(1)[:1]).isspace():
        blank += file.read(1) == b"\n"
    return blank, first


def _read_parquet(path: Path, name: str, told: Told) -> Iterator[Record]:
    row = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            told(path.stat().st_size * len(batch) // file.metadata.num_rows)
            for value in batch.to_pylist():
                row += 1
                yield Record(f"{name}, row {row}", value)


class _CountedLines:
    """A file that is read a line, or a part of a long one, at a time; `number` is the last's."""

    def __init__(self, file: IO[bytes], number: int = 0) -> None:
        self._file = file
        self._ended = True
        self._back = b""
        self.number = number

    def read(self, size: int = -1) -> bytes:
        """As `ijson` calls it."""
        if self._back:
            line, self._back = self._back[:size], self._back[size:]
            return line
        line = self._file.readline(size)
        if line:
            self.number += self._ended
            self._ended = line.endswith(b"\n")
        return line

    def put_back(self, line: bytes) -> None:
        """Have `line`, the last that was read, read again."""
        self._back = line

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while line := self.read():
            yield self.number, line


class _Shallow:
    """Lines for `ijson`, whose memory grows with the square of the depth."""

    def __init__(self, lines: _CountedLines, name: str) -> None:
        self._lines, self._name = lines, name
        self._nesting = Nesting(_DEEPEST)

    def read(self, size: int = -1) -> bytes:
        """As `ijson` calls it."""
        piece = self._lines.read(size)
        if self._nesting.exceeded(piece):
            raise UserError(
                f"{self._name}, line {self._lines.number} nests lists or objects more than "
                f"{_DEEPEST} deep; correct the file."
            )
        return piece


def _read_array(lines: _CountedLines, name: str) -> Iterator[Record]:
    for index, value in enumerate(_streamed(lines, name, "item"), start=1):
        yield _record(value, f"{name}, item {index}")


def _streamed(lines: _CountedLines, name: str, prefix: str) -> Iterator[Any]:
    """The values at `prefix` of a JSON text, or with "" the values of several in a row."""
    try:
        shallow = _Shallow(lines, name)
        yield from ijson.items(shallow, prefix, use_float=True, multiple_values=not prefix)
    except ijson.JSONError as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(
            f"{name}, line {lines.number} is not valid JSON ({reason}); correct it, or download or "
            "export the file again."
        ) from error


def _read_objects(lines: _CountedLines, name: str) -> Iterator[Record]:
    """An object a line; or objects over several lines, such as a release of SQuAD."""
    filled = ((number, line) for number, line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        return
    by_lines = _unpacked(name).endswith(_LINES) or not first[1].startswith(b"{")
    if not by_lines and not _is_json(first[1]):
        lines.put_back(first[1])
        for index, value in enumerate(_streamed(lines, name, ""), start=1):
            yield _record(value, name if index == 1 else f"{name}, object {index}")
        return
    second = next(filled, None)
    if second is None:
        yield _record(_parse(first[1], name, first[0]), name)
        return
    for number, line in itertools.chain([first, second], filled):
        yield _record(_parse(line, name, number), f"{name}, line {number}")


def _is_json(text: bytes) -> bool:
    try:
        _loaded(text)
    except ValueError:
        return False
    return True


def _parse(text: bytes, name: str, first_line: int) -> Any:
    try:
        return _loaded(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        other = first_line == 1 and error.pos == 0
        step = "convert it to JSON, JSON lines or parquet" if other else "correct or remove it"
        raise UserError(
            f"{name}, line {line} is not valid JSON ({error.msg}, column {error.colno}); {step}."
        ) from error
    except UnicodeDecodeError as error:
        byte, column = text[error.start], error.start + 1
        raise UserError(
            f"{name}, line {first_line} is not UTF-8 (byte {byte:#x}, column {column}); correct "
            "that line, or convert the file."
        ) from error


def _loaded(text: bytes) -> Any:
    """UTF-8 alone: given bytes, `json` would guess. Halves of an emoji are seen to in `_record`."""
    return json.loads(text.decode("utf-8", "surrogatepass"))


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(
            f"{where} is a JSON {type(value).__name__}, but a row must be an object with named "
            f"columns; correct the file."
        )
    return Record(where, _without_surrogates(value))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(item) for k, item in value.items()}
    return value
