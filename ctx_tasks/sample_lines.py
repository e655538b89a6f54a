"""Lines of a sample file of the harness, decoded no further than is needed.

Harness 0.4.5 and older write no filter into a line: they write all documents once for each filter,
so that the nth line of a document is of the nth filter.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ctx_tasks.errors import UserError
from ctx_tasks.exchange.foreign import texts


class Doc(msgspec.Struct):
    """What of a document says which others it may depend on."""

    passage_id: str | int | None = None
    needle_id: str | int | None = None


_DOC = msgspec.json.Decoder(Doc)


def read_lines(
    path: Path, task: str, filters: Sequence[str], metrics: Sequence[str] = ()
) -> Iterator[tuple[bytes, Any]]:
    """Each line as text and as an object with doc_hash, doc, filter_name and metric_0, metric_1...

    Args:
        path: of the harness, or of another tool whose files are read (`exchange.foreign`).
        filters: of the task, in the order of its results.

    Raises:
        UserError: a malformed line.
    """
    line_type = _line_type(tuple(metrics))
    decoder = msgspec.json.Decoder(line_type)
    seen: Counter[Any] = Counter()
    for number, text in enumerate(texts(path, task), 1):
        try:
            line = _decode(decoder, text, line_type)
            if line.filter_name is None:
                line.filter_name = _filter(line, filters, seen)
            yield text, line
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is no sample of lm-eval ({error}); run it again."
            ) from error


def as_object(text: bytes) -> dict[str, Any]:
    """A line as a dict, NaN and infinities as None."""
    found = json.loads(text, parse_constant=lambda _: None)
    if not isinstance(found, dict) or "doc_hash" not in found:
        raise ValueError("no object with a doc_hash")
    return found


def doc_of(line: Any) -> Doc:
    """Passage and needle of a line; neither, where a task's documents are shaped otherwise."""
    try:
        return _DOC.decode(line.doc)
    except msgspec.ValidationError:
        return Doc()


def _filter(line: Any, filters: Sequence[str], seen: Counter[Any]) -> str:
    if len(filters) < 2:
        return filters[0] if filters else "none"
    key = line.doc_hash if line.doc_id is None else line.doc_id
    seen[key] += 1
    if seen[key] > len(filters):
        raise ValueError(f"more lines of document {key} than filters ({', '.join(filters)})")
    return filters[seen[key] - 1]


@lru_cache
def _line_type(metrics: tuple[str, ...]) -> type[msgspec.Struct]:
    """A line with only the fields that are needed; the decoder skips all others unread."""
    fields: list[Any] = [
        ("doc_hash", str),
        ("doc_id", int | None, None),
        ("doc", msgspec.Raw, msgspec.Raw(b"{}")),
        ("filter_name", str | None, None),
        ("prompt_hash", str | None, None),
        *((f"metric_{i}", Any, None) for i in range(len(metrics))),
    ]
    renamed = {f"metric_{i}": name for i, name in enumerate(metrics)}
    return msgspec.defstruct("Line", fields, rename={**renamed, "filter_name": "filter"})


def _decode(decoder: Any, text: bytes, line_type: type[msgspec.Struct]) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        # Python writes NaN and Infinity, which are no JSON; rare enough to be read slowly.
        plain = as_object(text)
        doc = msgspec.Raw(json.dumps(plain.get("doc")).encode())
        return msgspec.convert({**plain, "doc": doc}, line_type)
