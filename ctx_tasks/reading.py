"""SQuAD, QuAC and DROP questions in one shape, and their scores.

Source: arXiv 2411.02688, measurements. SQuAD v1.1: answerable validation questions. QuAC: the first
question of each validation dialog, the CANNOTANSWER at the end of the passage removed, questions
whose only reference is CANNOTANSWER kept (the paper's n is 1000). DROP: all validation questions.

Each benchmark is read from the columns of its hub dataset or from the JSON of its original release;
both give the same documents and so the same hash. Divergences:
- QuAC's default is the release's own file: `allenai/quac` is a script, which `datasets` no longer
  runs, and `lighteval/quac_helm` holds a random turn of each dialog, not the first.
- SQuAD's `answer_start` is never read; equal references are counted once; empty ones are dropped.
- DROP's `contains` accepts any annotator's answer and wants all its spans, as the paper words it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import pyarrow as pa
from tqdm import tqdm

from ctx_tasks import metrics
from ctx_tasks.errors import UserError
from ctx_tasks.rows import Record, fetch, listed, read_file, read_files

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

CANNOTANSWER = "CANNOTANSWER"
QUAC_URL = "https://s3.amazonaws.com/my89public/quac/val_v0.2.json"


class Document(TypedDict):
    """One question. `references`: alternative answers, each a list of spans that are all needed."""

    id: str
    passage_id: str
    context: str
    question: str
    references: list[list[str]]
    answerable: bool
    target: str


@dataclass(frozen=True)
class Benchmark:
    """How to read one benchmark.

    Attributes:
        name: as it is called; `option` is the --metadata key that names its files.
        columns: what a row must have, for the message when it does not.
        unnest: a record of the original release -> rows in the hub's columns; a row -> itself.
        parse: a row -> its document, or None for a question without any answer.
        hub: arguments of `datasets.load_dataset`; empty where the default is `url`.
    """

    name: str
    option: str
    columns: str
    unnest: Callable[[Record], Iterable[Record]]
    parse: Callable[[Record], Document | None]
    hub: tuple[str, ...] = ()
    url: str = ""


def squad(
    *, squad_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """SQuAD v1.1 as the harness wants it: `{"validation": Dataset}` of `Document` columns.

    Args:
        squad_files: a path, folder, URL or list of these; None for `rajpurkar/squad`.
        data_used: filled with `source`, `sha256` and `rows`. The task's YAML puts an empty one into
            its metadata, which the harness hands on and writes into the results.

    Raises:
        UserError: data that cannot be fetched or read, lacks a column, or holds no question.
    """
    return _load(SQUAD, squad_files, data_used)


def quac(
    *, quac_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """QuAC's first questions, like `squad`; None for the release's `val_v0.2.json`."""
    return _load(QUAC, quac_files, data_used)


def drop(
    *, drop_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """DROP, like `squad`; None for `EleutherAI/drop`."""
    return _load(DROP, drop_files, data_used)


def squad_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The scores of one output, each 0.0 or 1.0, of what stands before its first ". ".

    `contains`, `contains_words`, `contains_verbatim`, `score` (= contains), and `empty` with its
    part `dangling`, which are never 1 where the answer holds a reference.
    """
    prediction = metrics.first_sentence(results[0])
    verbatim = metrics.contains_verbatim(prediction, doc["references"])
    return {**_scores(doc, prediction), "contains_verbatim": float(verbatim)}


def quac_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As `squad_scores`, with `contains_answerable` where the question has an answer.

    The harness takes a metric's mean over the documents that report it. The partial key comes last,
    so that every process of a distributed run lists the metrics in one order.
    """
    scores = squad_scores(doc, results)
    if doc["answerable"]:
        scores["contains_answerable"] = scores["contains"]
    return scores


def drop_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As `squad_scores`, but the published rule is `contains_released`, not `contains_verbatim`."""
    prediction = metrics.first_sentence(results[0])
    released = metrics.contains_released(prediction, doc["references"])
    return {**_scores(doc, prediction), "contains_released": float(released)}


def _scores(doc: dict[str, Any], prediction: str) -> dict[str, float]:
    contained = metrics.contains_all(prediction, doc["references"])
    words = metrics.contains_all(prediction, doc["references"], whole_words=True)
    return {
        "contains": float(contained),
        "contains_words": float(words),
        "score": float(contained),
        **metrics.unanswered(prediction, answered=contained),
    }


def documents(benchmark: Benchmark, records: Iterable[Record]) -> Iterator[Document]:
    """Parse records of either format; questions without any answer are left out and counted."""
    left_out = 0
    for record in records:
        for row in benchmark.unnest(record):
            document = benchmark.parse(row)
            if document is not None:
                yield document
            left_out += document is None
    if left_out:
        logger.info("%s: left out %d questions without an answer", benchmark.name, left_out)


def dataset(benchmark: Benchmark, records: Iterable[Record], source: str) -> Dataset:
    """The documents as an in-memory dataset; every row also has `data_hash`.

    `data_hash` is the sha256 of the documents in order, one JSON line each: the same questions from
    another file or format have the same hash. The source's name is left out of the rows, so that
    the harness's `doc_hash` pairs the documents of runs that read the same data by other paths.
    """
    from datasets import Dataset

    digest = hashlib.sha256()
    progress = tqdm(
        documents(benchmark, records), desc=f"Reading {benchmark.name}", unit=" rows", delay=2
    )
    batches = [
        pa.RecordBatch.from_pylist(rows, _SCHEMA) for rows in _chunks(_hashed(progress, digest))
    ]
    table = pa.Table.from_batches(batches, _SCHEMA)
    if table.num_rows == 0:
        raise UserError(
            f"{source} holds no {benchmark.name} question with an answer; "
            f'name other files with --metadata \'{{"{benchmark.option}": "PATH"}}\'.'
        )
    data_hash = digest.hexdigest()
    table = table.append_column("data_hash", pa.repeat(data_hash, table.num_rows))
    # A fingerprint of our own: `datasets` would pickle the whole table to make one.
    return Dataset(table, fingerprint=data_hash[:16])


def _load(benchmark: Benchmark, files: Any, data_used: dict[str, Any] | None) -> dict[str, Dataset]:
    if files is None:
        records, source = _default_records(benchmark)
    else:
        source = ", ".join(listed(files, benchmark.option))
        records = read_files(files, benchmark.option)
    loaded = dataset(benchmark, records, source)
    if data_used is not None:
        data_used.update(source=source, sha256=loaded[0]["data_hash"], rows=len(loaded))
    return {"validation": loaded}


def _default_records(benchmark: Benchmark) -> tuple[Iterable[Record], str]:
    if benchmark.url:
        return read_file(fetch(benchmark.url, benchmark.option), benchmark.url), benchmark.url
    from datasets import load_dataset

    name = benchmark.hub[0]
    try:
        rows = load_dataset(*benchmark.hub, split="validation")
    # Offline, blocked, gated or gone: libraries below raise many types for one situation.
    except Exception as error:
        raise UserError(
            f"{name} could not be loaded from the Hugging Face hub ({type(error).__name__}); pass "
            f'local data with --metadata \'{{"{benchmark.option}": "PATH"}}\' (a folder, jsonl, '
            f"parquet or the original release's JSON)."
        ) from error
    records = (Record(f"{name}, row {index}", row) for index, row in enumerate(rows, start=1))
    return records, f"{name}@{_revision(rows)}"


def _revision(rows: Dataset) -> str:
    """The commit the hub served, read from the names of the downloaded files."""
    found = re.search(r"@([0-9a-f]{40})/", " ".join(rows.info.download_checksums or {}))
    return found.group(1) if found else "unknown"


_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("passage_id", pa.string()),
        ("context", pa.string()),
        ("question", pa.string()),
        ("references", pa.list_(pa.list_(pa.string()))),
        ("answerable", pa.bool_()),
        ("target", pa.string()),
    ]
)


def _hashed(rows: Iterable[Document], digest: Any) -> Iterator[Document]:
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        yield row


def _chunks(rows: Iterable[Document], size: int = 5000) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _document(
    identity: Any, context: str, question: str, references: list[list[str]]
) -> Document | None:
    kept = _unique([[span for span in spans if span.strip()] for spans in references])
    if not kept:
        return None
    return {
        "id": str(identity or _short_hash(f"{context}\n{question}")),
        "passage_id": _short_hash(context),
        "context": context,
        "question": question,
        "references": kept,
        "answerable": any(spans != [CANNOTANSWER] for spans in kept),
        "target": ", ".join(kept[0]),
    }


def _unique(references: list[list[str]]) -> list[list[str]]:
    """Without empty and repeated answers, in order."""
    return [list(spans) for spans in dict.fromkeys(map(tuple, references)) if spans]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _field(record: Record, key: str, kind: type | tuple[type, ...], benchmark: Benchmark) -> Any:
    """`record[key]`, or a `UserError` that says what was found and what is needed."""
    value = record.value.get(key)
    if key in record.value and isinstance(value, kind):
        return value
    wrong = f"{key!r} is {type(value).__name__}" if key in record.value else f"no {key!r}"
    raise UserError(
        f"{record.where} has {wrong} (found: {', '.join(map(str, record.value)) or 'nothing'}), "
        f"but {benchmark.name} needs {benchmark.columns}, or the original release's JSON; "
        f"rename the columns or pass other files as {benchmark.option}."
    )


def _items(
    record: Record, key: str, benchmark: Benchmark, kind: type | tuple[type, ...] = dict
) -> list[Any]:
    """The list `record[key]`, checked to hold only `kind`."""
    values = _field(record, key, (list, tuple), benchmark)
    if all(isinstance(value, kind) for value in values):
        return list(values)
    broken = Record(record.where, {key: next(v for v in values if not isinstance(v, kind))})
    return _field(broken, key, kind, benchmark)


def _children(record: Record, key: str, benchmark: Benchmark) -> Iterator[Record]:
    for index, value in enumerate(_items(record, key, benchmark), start=1):
        yield Record(f"{record.where}, {key} {index}", value)


def _paragraphs(record: Record, benchmark: Benchmark) -> Iterator[Record]:
    """The paragraphs of a release in SQuAD's nesting: data -> paragraphs -> qas."""
    for article in _children(record, "data", benchmark):
        yield from _children(article, "paragraphs", benchmark)


def _unnest_squad(record: Record) -> Iterator[Record]:
    if "data" not in record.value:
        yield record
        return
    for paragraph in _paragraphs(record, SQUAD):
        context = _field(paragraph, "context", str, SQUAD)
        for question in _children(paragraph, "qas", SQUAD):
            yield Record(question.where, {**question.value, "context": context})


def _parse_squad(record: Record) -> Document | None:
    context = _field(record, "context", str, SQUAD)
    question = _field(record, "question", str, SQUAD)
    answers = _field(record, "answers", (dict, list), SQUAD)
    if isinstance(answers, dict):
        texts = _items(Record(record.where, answers), "text", SQUAD, str)
    else:
        texts = [
            _field(answer, "text", str, SQUAD) for answer in _children(record, "answers", SQUAD)
        ]
    return _document(record.value.get("id"), context, question, [[text] for text in texts])


def _unnest_quac(record: Record) -> Iterator[Record]:
    if "data" not in record.value:
        yield record
        return
    for paragraph in _paragraphs(record, QUAC):
        turns = list(_children(paragraph, "qas", QUAC))
        texts = [
            [_field(answer, "text", str, QUAC) for answer in _children(turn, "answers", QUAC)]
            for turn in turns[:1]
        ]
        row = {
            "dialogue_id": paragraph.value.get("id"),
            "context": _field(paragraph, "context", str, QUAC),
            "questions": [_field(turn, "question", str, QUAC) for turn in turns],
            "answers": {"texts": texts},
        }
        yield Record(paragraph.where, row)


def _parse_quac(record: Record) -> Document | None:
    context = _field(record, "context", str, QUAC).removesuffix(CANNOTANSWER).rstrip()
    questions = _items(record, "questions", QUAC, str)
    answers = Record(record.where, _field(record, "answers", dict, QUAC))
    texts = _items(answers, "texts", QUAC, (list, tuple))
    if not questions or not texts:
        return None
    first = _items(Record(record.where, {"texts": texts[0]}), "texts", QUAC, str)
    identity = record.value.get("dialogue_id")
    return _document(identity, context, questions[0], [[text] for text in first])


def _unnest_drop(record: Record) -> Iterator[Record]:
    passages = record.value.items()
    if not any(isinstance(value, dict) and "qa_pairs" in value for _, value in passages):
        yield record
        return
    for name in record.value:
        passage = Record(f"{record.where}, {name}", _field(record, name, dict, DROP))
        text = _field(passage, "passage", str, DROP)
        for pair in _children(passage, "qa_pairs", DROP):
            yield Record(pair.where, {**pair.value, "passage": text})


def _parse_drop(record: Record) -> Document | None:
    passage = _field(record, "passage", str, DROP)
    question = _field(record, "question", str, DROP)
    answers = [_field(record, "answer", dict, DROP), *_validated(record)]
    spans = [_drop_spans(Record(record.where, answer)) for answer in answers]
    return _document(record.value.get("query_id"), passage, question, spans)


def _validated(record: Record) -> list[dict[str, Any]]:
    """The other annotators' answers: a list, or (the hub's columns) a dictionary of lists."""
    if record.value.get("validated_answers") is None:
        return []
    validated = _field(record, "validated_answers", (list, dict), DROP)
    if isinstance(validated, list):
        return _items(record, "validated_answers", DROP)
    columns = Record(record.where, validated)
    kinds = (str, int, float, dict, list, tuple)
    wanted = [_items(columns, key, DROP, kinds) for key in ("number", "date", "spans")]
    if len({len(column) for column in wanted}) > 1:
        raise UserError(
            f"{record.where} has validated_answers of unequal lengths "
            f"{[len(column) for column in wanted]}, but number, date and spans need one entry for "
            f"each annotator; correct the row."
        )
    keys = ("number", "date", "spans")
    return [dict(zip(keys, answer, strict=True)) for answer in zip(*wanted, strict=True)]


def _drop_spans(answer: Record) -> list[str]:
    """An answer's spans: its number, or its text spans, or its date as "day month year"."""
    number = answer.value.get("number")
    if number not in (None, ""):
        return [str(number)]
    if answer.value.get("spans"):
        return _items(answer, "spans", DROP, str)
    date = Record(answer.where, _field(answer, "date", dict, DROP))
    parts = [date.value.get(part) for part in ("day", "month", "year")]
    return [" ".join(str(part).strip() for part in parts if part not in (None, ""))]


SQUAD = Benchmark(
    name="SQuAD",
    option="squad_files",
    columns="id, context, question, answers (with text), as rajpurkar/squad has them",
    unnest=_unnest_squad,
    parse=_parse_squad,
    hub=("rajpurkar/squad", "plain_text"),
)
QUAC = Benchmark(
    name="QuAC",
    option="quac_files",
    columns="dialogue_id, context, questions, answers (with texts), as allenai/quac has them",
    unnest=_unnest_quac,
    parse=_parse_quac,
    url=QUAC_URL,
)
DROP = Benchmark(
    name="DROP",
    option="drop_files",
    columns=(
        "query_id, passage, question, answer and validated_answers (both with number, date and "
        "spans), as EleutherAI/drop has them"
    ),
    unnest=_unnest_drop,
    parse=_parse_drop,
    hub=("EleutherAI/drop",),
)
