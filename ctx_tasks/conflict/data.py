"""Questions whose passage contradicts what a model may know, from local files of three shapes.

- plain: `context`, `question`, `context_answer`, `memory_answer` (a text, or a list of names of one
  answer);
- ConFiQA (Bi et al. 2024, https://arxiv.org/abs/2412.15280): `cf_context`, `question`, `cf_answer`,
  `cf_alias`, `orig_answer`, `orig_alias`;
- FaithEval, counterfactual (Ming et al. 2024, https://arxiv.org/abs/2410.03727): `context`,
  `question`, `choices` (`label`, `text`), `answerKey`. The answer of the key is the passage's;
  which of the others a model has in memory is found by asking it.

Whether a model does know better is not read from the data but measured, see `scores.py`. A question
whose two answers hold each other ("York", "New York") cannot be scored and is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import pyarrow as pa

from ctx_tasks import reading
from ctx_tasks.errors import UserError
from ctx_tasks.metrics import contains_words
from ctx_tasks.reading_rows import Benchmark, field, items, short_hash
from ctx_tasks.rows import Record

if TYPE_CHECKING:
    from datasets import Dataset


class ConflictRow(TypedDict):
    """One question.

    `context_answers`: names of the passage's answer. `memory_answers`: the answers that a model may
    have in memory instead, each a list of its names.
    """

    id: str
    passage_id: str
    context: str
    question: str
    context_answers: list[str]
    memory_answers: list[list[str]]
    target: str


def conflict(
    *, conflict_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """The questions as the harness wants them: `{"validation": Dataset}` of `ConflictRow` columns.

    Args:
        conflict_files: a path, folder, URL or list of these.
        data_used: filled with `source`, `sha256` and `rows`, see `ctx_tasks.reading.squad`.

    Raises:
        UserError: no files, or a row of none of the three shapes.
    """
    if conflict_files is None:
        raise UserError(
            "The knowledge conflict tasks have no data of their own; name ConFiQA's or FaithEval's "
            "files, or your own with context, question, context_answer and memory_answer, with "
            '--metadata \'{"conflict_files": "PATH"}\'.'
        )
    return reading.load(CONFLICT, conflict_files, data_used)


def _parse(record: Record) -> ConflictRow | None:
    confiqa = "cf_context" in record.value
    context = field(record, "cf_context" if confiqa else "context", str, CONFLICT)
    question = field(record, "question", str, CONFLICT)
    if confiqa:
        stated, known = _names(record, "cf_answer", "cf_alias"), [_names(record, *_CONFIQA_MEMORY)]
    elif "answerKey" in record.value:
        stated, known = _choices(record)
    else:
        stated, known = _names(record, "context_answer"), [_names(record, "memory_answer")]
    known = [names for names in known if names and not _alike(stated, names)]
    if not stated or not known:
        return None
    return {
        "id": str(record.value.get("id") or short_hash(f"{context}\n{question}")),
        "passage_id": short_hash(context),
        "context": context,
        "question": question,
        "context_answers": stated,
        "memory_answers": known,
        "target": stated[0],
    }


_CONFIQA_MEMORY = ("orig_answer", "orig_alias")


def _names(record: Record, key: str, others: str | None = None) -> list[str]:
    """The names of one answer: `record[key]`, a text or a list, and the list `others` if there."""
    value = field(record, key, (str, list), CONFLICT)
    names = [value] if isinstance(value, str) else items(record, key, CONFLICT, str)
    if others and record.value.get(others):
        names += items(record, others, CONFLICT, str)
    return [name for name in dict.fromkeys(names) if name.strip()]


def _choices(record: Record) -> tuple[list[str], list[list[str]]]:
    """FaithEval's: the text of the key, and the other texts."""
    choices = Record(record.where, field(record, "choices", dict, CONFLICT))
    labels, texts = (items(choices, key, CONFLICT, str) for key in ("label", "text"))
    key = field(record, "answerKey", str, CONFLICT)
    if key not in labels or len(labels) != len(texts):
        raise UserError(
            f"{record.where} has the answerKey {key!r}, but its choices have the labels "
            f"{', '.join(labels)} and {len(texts)} texts; correct the row."
        )
    stated = texts[labels.index(key)]
    return [stated], [[text] for label, text in zip(labels, texts, strict=True) if label != key]


def _alike(ones: list[str], others: list[str]) -> bool:
    """Whether a name of one answer is in a name of the other, so that a text cannot tell them."""
    return any(contains_words(one, others) for one in ones) or any(
        contains_words(other, ones) for other in others
    )


CONFLICT = Benchmark(
    name="knowledge conflict",
    option="conflict_files",
    columns=(
        "context, question, context_answer and memory_answer, or ConFiQA's cf_context, question, "
        "cf_answer and orig_answer, or FaithEval's context, question, choices and answerKey"
    ),
    unnest=lambda record: [record],
    parse=_parse,
    schema=pa.schema(
        [
            ("id", pa.string()),
            ("passage_id", pa.string()),
            ("context", pa.string()),
            ("question", pa.string()),
            ("context_answers", pa.list_(pa.string())),
            ("memory_answers", pa.list_(pa.list_(pa.string()))),
            ("target", pa.string()),
        ]
    ),
    left_out="without two answers that can be told apart",
)
