"""Small SQuAD, QuAC and DROP rows in the hub's columns, and the same in the releases' nesting."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

Row = dict[str, Any]

LAMP = "The lamp was lit by Ada in 1999. A sailor saw it from the bay."
HARBOUR = "Three boats left the harbour on 4 May 1820: the Wren, the Gull and the Tern."


def squad_row(name: str, context: str, question: str, *texts: str) -> Row:
    answers = {"text": list(texts), "answer_start": [0] * len(texts)}
    return {"id": name, "title": "T", "context": context, "question": question, "answers": answers}


def quac_row(name: str, context: str, questions: list[str], texts: list[list[str]]) -> Row:
    return {
        "dialogue_id": name,
        "wikipedia_page_title": "T",
        "background": "Some background.",
        "section_title": "S",
        "context": f"{context} CANNOTANSWER",
        "questions": questions,
        "answers": {"texts": texts, "answer_starts": [[0] * len(turn) for turn in texts]},
    }


def drop_answer(number: str = "", spans: Iterable[str] = (), date: str = "") -> Row:
    day, month, year = date.split() if date else ("", "", "")
    return {
        "number": number,
        "date": {"day": day, "month": month, "year": year},
        "spans": list(spans),
    }


def drop_row(name: str, passage: str, question: str, answer: Row, *validated: Row) -> Row:
    columns = {key: [one[key] for one in validated] for key in ("number", "date", "spans")}
    return {
        "section_id": "s",
        "query_id": name,
        "passage": passage,
        "question": question,
        "answer": answer,
        "validated_answers": columns,
    }


SQUAD = [
    squad_row("s1", LAMP, "Who lit the lamp?", "Ada", "Ada", "by Ada"),
    squad_row("s2", LAMP, "When was it lit?", "1999", "in 1999"),
    squad_row("s3", HARBOUR, "How many boats left?", "Three"),
]
QUAC = [
    quac_row("q1", LAMP, ["Who lit it?", "When?"], [["by Ada", "Ada"], ["1999"]]),
    quac_row("q2", HARBOUR, ["Who sank?", "Which left?"], [["CANNOTANSWER"] * 2, ["the Wren"]]),
]
DROP = [
    drop_row("d1", HARBOUR, "How many?", drop_answer("3"), drop_answer(spans=["Three"])),
    drop_row("d2", HARBOUR, "When?", drop_answer(date="4 May 1820"), drop_answer("1820")),
    drop_row("d3", HARBOUR, "First two?", drop_answer(spans=["Wren", "Gull"])),
]
ROWS = {"squad": SQUAD, "quac": QUAC, "drop": DROP}


def write_lines(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_all(folder: Path) -> dict[str, str]:
    """One file a benchmark in `folder`, as `--metadata` takes them."""
    return {
        f"{name}_files": write_lines(folder / f"{name}.jsonl", rows) for name, rows in ROWS.items()
    }


def release(name: str, rows: list[Row]) -> Row:
    """`rows` as the original release nests them."""
    return {"squad": squad_release, "quac": quac_release, "drop": drop_release}[name](rows)


def squad_release(rows: list[Row]) -> Row:
    paragraphs = [
        {"context": context, "qas": [_squad_question(row) for row in group]}
        for context, group in groupby(rows, key=lambda row: row["context"])
    ]
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]}


def _squad_question(row: Row) -> Row:
    texts = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    answers = [{"text": text, "answer_start": start} for text, start in texts]
    return {"id": row["id"], "question": row["question"], "answers": answers}


def quac_release(rows: list[Row]) -> Row:
    return {"data": [_quac_article(row) for row in rows]}


def _quac_article(row: Row) -> Row:
    turns = enumerate(zip(row["questions"], row["answers"]["texts"], strict=True))
    questions = [
        {
            "id": f"{row['dialogue_id']}_q#{index}",
            "question": question,
            "answers": [{"text": text, "answer_start": 0} for text in texts],
        }
        for index, (question, texts) in turns
    ]
    paragraph = {"id": row["dialogue_id"], "context": row["context"], "qas": questions}
    return {
        "title": "T",
        "section_title": "S",
        "background": "Some background.",
        "paragraphs": [paragraph],
    }


def drop_release(rows: list[Row]) -> Row:
    passages: Row = {}
    for index, (passage, group) in enumerate(groupby(rows, key=lambda row: row["passage"])):
        pairs = [_drop_pair(row) for row in group]
        passages[f"history_{index}"] = {"passage": passage, "qa_pairs": pairs, "wiki_url": ""}
    return passages


def _drop_pair(row: Row) -> Row:
    validated = row["validated_answers"]
    keys = ("number", "date", "spans")
    answers = zip(*(validated[key] for key in keys), strict=True)
    return {
        "query_id": row["query_id"],
        "question": row["question"],
        "answer": row["answer"],
        "validated_answers": [dict(zip(keys, answer, strict=True)) for answer in answers],
    }
