"""Rows and releases of SQuAD, QuAC and DROP -> documents of one shape.

A row in the columns of the hub's dataset and a record of the original release (SQuAD's nesting of
articles, paragraphs and questions; DROP's passages by name) give the same document. What is missing
or of the wrong type is named with its place in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import pyarrow as pa

from ctx_tasks.errors import UserError
from ctx_tasks.rows import Record

CANNOTANSWER = "CANNOTANSWER"
QUAC_URL = "https://s3.amazonaws.com/my89public/quac/val_v0.2.json"


class ReadingRow(TypedDict):
    """One question. `references`: alternative answers, each a list of spans that are all needed."""

    id: str
    passage_id: str
    context: str
    question: str
    references: list[list[str]]
    answerable: bool
    target: str


SCHEMA = pa.schema(
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


@dataclass(frozen=True)
class Benchmark:
    """How to read one benchmark.

    Attributes:
        name: as it is called; `option` is the --metadata key that names its files.
        columns: what a row must have, for the message when it does not.
        unnest: a record of the original release -> rows in the hub's columns; a row -> itself.
        parse: a row -> its document (here a `ReadingRow`), or None for a question that is left out.
        hub: arguments of `datasets.load_dataset`; empty where the default is `url`.
        schema: the columns of its documents.
        left_out: which questions `parse` gives None for, for the log.
    """

    name: str
    option: str
    columns: str
    unnest: Callable[[Record], Iterable[Record]]
    parse: Callable[[Record], Mapping[str, Any] | None]
    hub: tuple[str, ...] = ()
    url: str = ""
    schema: pa.Schema = SCHEMA
    left_out: str = "without an answer"


def _document(
    identity: Any, context: str, question: str, references: list[list[str]]
) -> ReadingRow | None:
    kept = _unique([[span for span in spans if span.strip()] for spans in references])
    if not kept:
        return None
    return {
        "id": str(identity or short_hash(f"{context}\n{question}")),
        "passage_id": short_hash(context),
        "context": context,
        "question": question,
        "references": kept,
        "answerable": any(spans != [CANNOTANSWER] for spans in kept),
        "target": ", ".join(kept[0]),
    }


def _unique(references: list[list[str]]) -> list[list[str]]:
    """Without empty and repeated answers, in order."""
    return [list(spans) for spans in dict.fromkeys(map(tuple, references)) if spans]


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def field(record: Record, key: str, kind: type | tuple[type, ...], benchmark: Benchmark) -> Any:
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


def items(
    record: Record, key: str, benchmark: Benchmark, kind: type | tuple[type, ...] = dict
) -> list[Any]:
    """The list `record[key]`, checked to hold only `kind`."""
    values = field(record, key, (list, tuple), benchmark)
    if all(isinstance(value, kind) for value in values):
        return list(values)
    broken = Record(record.where, {key: next(v for v in values if not isinstance(v, kind))})
    return field(broken, key, kind, benchmark)


def _children(record: Record, key: str, benchmark: Benchmark) -> Iterator[Record]:
    for index, value in enumerate(items(record, key, benchmark), start=1):
        yield Record(f"{record.where}, {key} {index}", value)


def _paragraphs(record: Record, benchmark: Benchmark) -> Iterator[tuple[Record, Record]]:
    """Article and paragraph of a release in SQuAD's nesting: data -> paragraphs -> qas."""
    for article in _children(record, "data", benchmark):
        for paragraph in _children(article, "paragraphs", benchmark):
            yield article, paragraph


def _unnest_squad(record: Record) -> Iterator[Record]:
    if "data" not in record.value:
        yield record
        return
    for _, paragraph in _paragraphs(record, SQUAD):
        context = field(paragraph, "context", str, SQUAD)
        for question in _children(paragraph, "qas", SQUAD):
            yield Record(question.where, {**question.value, "context": context})


def _parse_squad(record: Record) -> ReadingRow | None:
    context = field(record, "context", str, SQUAD)
    question = field(record, "question", str, SQUAD)
    answers = field(record, "answers", (dict, list), SQUAD)
    if isinstance(answers, dict):
        texts = items(Record(record.where, answers), "text", SQUAD, str)
    else:
        texts = [
            field(answer, "text", str, SQUAD) for answer in _children(record, "answers", SQUAD)
        ]
    return _document(record.value.get("id"), context, question, [[text] for text in texts])


def _unnest_quac(record: Record) -> Iterator[Record]:
    if "data" not in record.value:
        yield record
        return
    for article, paragraph in _paragraphs(record, QUAC):
        turns = list(_children(paragraph, "qas", QUAC))
        texts = [
            [field(answer, "text", str, QUAC) for answer in _children(turn, "answers", QUAC)]
            for turn in turns[:1]
        ]
        row = {
            "dialogue_id": paragraph.value.get("id"),
            "wikipedia_page_title": article.value.get("title"),
            "background": article.value.get("background"),
            "context": field(paragraph, "context", str, QUAC),
            "questions": [field(turn, "question", str, QUAC) for turn in turns],
            "answers": {"texts": texts},
        }
        yield Record(paragraph.where, row)


def _parse_quac(record: Record) -> ReadingRow | None:
    context = field(record, "context", str, QUAC).removesuffix(CANNOTANSWER).rstrip()
    questions = items(record, "questions", QUAC, str)
    answers = Record(record.where, field(record, "answers", dict, QUAC))
    texts = items(answers, "texts", QUAC, (list, tuple))
    if not questions or not texts:
        return None
    first = items(Record(record.where, {"texts": texts[0]}), "texts", QUAC, str)
    identity = record.value.get("dialogue_id")
    return _document(identity, context, questions[0], [[text] for text in first])


def titled(benchmark: Benchmark) -> Benchmark:
    """QuAC with the page's title and background before the passage, as the released code has it.

    They become a part of `context`; `passage_id` stays the passage's.
    """
    wanted = replace(benchmark, columns=f"wikipedia_page_title, background, {benchmark.columns}")

    def parse(record: Record) -> Mapping[str, Any] | None:
        title = field(record, "wikipedia_page_title", str, wanted)
        background = field(record, "background", str, wanted)
        if not title.strip():
            raise UserError(
                f"{record.where} has an empty wikipedia_page_title, which quac_prompt "
                f"title_background puts before the passage; use QuAC's own file or leave the "
                f"setting out."
            )
        document = benchmark.parse(record)
        if document is None:
            return None
        return {**document, "context": f"Title: {title}\n{background} {document['context']}"}

    return replace(wanted, parse=parse)


def _unnest_drop(record: Record) -> Iterator[Record]:
    passages = record.value.items()
    if not any(isinstance(value, dict) and "qa_pairs" in value for _, value in passages):
        yield record
        return
    for name in record.value:
        passage = Record(f"{record.where}, {name}", field(record, name, dict, DROP))
        text = field(passage, "passage", str, DROP)
        for pair in _children(passage, "qa_pairs", DROP):
            yield Record(pair.where, {**pair.value, "passage": text})


def _parse_drop(record: Record) -> ReadingRow | None:
    passage = field(record, "passage", str, DROP)
    question = field(record, "question", str, DROP)
    answers = [field(record, "answer", dict, DROP), *_validated(record)]
    spans = [_drop_spans(Record(record.where, answer)) for answer in answers]
    return _document(record.value.get("query_id"), passage, question, spans)


def _validated(record: Record) -> list[dict[str, Any]]:
    """The other annotators' answers: a list, or (the hub's columns) a dictionary of lists."""
    if record.value.get("validated_answers") is None:
        return []
    validated = field(record, "validated_answers", (list, dict), DROP)
    if isinstance(validated, list):
        return items(record, "validated_answers", DROP)
    columns = Record(record.where, validated)
    kinds = (str, int, float, dict, list, tuple)
    wanted = [items(columns, key, DROP, kinds) for key in ("number", "date", "spans")]
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
        return items(answer, "spans", DROP, str)
    date = Record(answer.where, field(answer, "date", dict, DROP))
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
