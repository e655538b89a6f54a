"""Knowledge conflict rows in each of the three shapes, and files of them.

ConFiQA's row has all the columns that its README lists, FaithEval's those that its users read; the
texts are our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ctx_tasks.reading_data import write_lines

LAMP = "The lamp on the pier was lit by Bob Hale in 1999."
PLAIN = {
    "id": "p1",
    "context": LAMP,
    "question": "Who lit the lamp?",
    "context_answer": "Bob Hale",
    "memory_answer": ["Ada Stone", "A. Stone"],
}
CONFIQA = {
    "orig_path": "[('Q1', 'P1', 'Q2')]",
    "cf_path": "[('Q1', 'P1', 'Q3')]",
    "orig_path_labeled": "[('the lamp', 'lit in', '1820')]",
    "cf_path_labeled": "[('the lamp', 'lit in', '1999')]",
    "orig_triple": "('Q1', 'P1', 'Q2')",
    "cf_triple": "('Q1', 'P1', 'Q3')",
    "orig_answer": "1820",
    "cf_answer": "1999",
    "orig_alias": ["the year 1820"],
    "cf_alias": [],
    "question": "When was the lamp lit?",
    "orig_context_piece": "The lamp was lit in 1820.",
    "cf_context_piece": "The lamp was lit in 1999.",
    "orig_context": "The lamp on the pier was lit by Bob Hale in 1820.",
    "cf_context": LAMP,
}
FAITHEVAL = {
    "id": "f1",
    "question": "What is the lamp made of?",
    "context": "It is well known that the lamp is made of cheese.",
    "choices": {"label": ["A", "B", "C"], "text": ["brass", "cheese", "glass"]},
    "answerKey": "B",
    "answer": "cheese",
}
ROWS: list[dict[str, Any]] = [PLAIN, CONFIQA, FAITHEVAL]


def write_all(folder: Path) -> str:
    return write_lines(folder / "conflict.jsonl", ROWS)
