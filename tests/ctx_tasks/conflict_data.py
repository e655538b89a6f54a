"""Knowledge conflict rows in each of the three shapes, and a scripted file of them."""

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
    "question": "When was the lamp lit?",
    "orig_context": "The lamp was lit in 1820.",
    "orig_answer": "1820",
    "orig_alias": ["the year 1820"],
    "cf_context": LAMP,
    "cf_answer": "1999",
    "cf_alias": [],
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
