"""Questions, reference answers and judge prompts written for the tests, in published formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctx_tasks.mt_bench.data import identity

CATEGORIES = ["writing", "math", "coding", "stem"]
WITH_REFERENCE = ["math", "coding"]
_TEMPLATES = {
    "single-v1": "Rate it.\nQ: {question}\nA: {answer}",
    "single-math-v1": "Rate it.\nQ: {question}\nR: {ref_answer_1}\nA: {answer}",
    "single-v1-multi-turn": "Q: {question_1}\nA: {answer_1}\nQ: {question_2}\nA: {answer_2}",
    "single-math-v1-multi-turn": (
        "Q: {question_1}\nR: {ref_answer_1}\nQ: {question_2}\nR: {ref_answer_2}\n"
        "A: {answer_1}\nA: {answer_2}"
    ),
}


def questions(count: int = 8) -> list[dict[str, Any]]:
    """Rows of question.jsonl; the categories take turns."""
    return [
        {
            "question_id": 900 + number,
            "category": CATEGORIES[number % len(CATEGORIES)],
            "turns": [f"How high is tower {number}?", f"And who built tower {number}?"],
        }
        for number in range(count)
    ]


def hub_rows(count: int = 8) -> list[dict[str, Any]]:
    """The same questions in the hub's columns."""
    return [
        {
            "prompt": row["turns"],
            "reference": [],
            "category": row["category"],
            "prompt_id": int(identity(row["turns"])),
        }
        for row in questions(count)
    ]


def references(count: int = 8) -> list[dict[str, Any]]:
    """Rows of reference_answer_gpt-4.jsonl."""
    return [
        {
            "question_id": row["question_id"],
            "model_id": "gpt-4",
            "choices": [{"index": 0, "turns": ["Forty metres.", "The {guild}."]}],
        }
        for row in questions(count)
        if row["category"] in WITH_REFERENCE
    ]


def prompts() -> list[dict[str, Any]]:
    """Rows of judge_prompts.jsonl, one of them of a kind that is not used."""
    single = [
        {
            "name": name,
            "type": "single",
            "system_prompt": "You are a judge.",
            "prompt_template": template,
            "output_format": "[[rating]]",
        }
        for name, template in _TEMPLATES.items()
    ]
    pair = {"name": "pair-v2", "system_prompt": "", "prompt_template": "{answer_a} or {answer_b}?"}
    return [*single, pair]


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """The rows as JSON lines in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_all(folder: Path, count: int = 8) -> Path:
    """A folder with the three files."""
    write_lines(folder / "question.jsonl", questions(count))
    write_lines(folder / "judge_prompts.jsonl", prompts())
    write_lines(folder / "reference_answer_gpt-4.jsonl", references(count))
    return folder


def write_answers(
    folder: Path,
    count: int = 8,
    *,
    task: str = "mt_bench",
    data: Path | None = None,
    model_args: dict[str, Any] | None = None,
    answer: str = "My answer",
    date: str = "2026-01-01T00-00-00.000001",
) -> Path:
    """What a run leaves whose answers are not rated yet; returns the results file."""
    samples = [_sample(row, task, f"{answer} {n}.") for n, row in enumerate(questions(count))]
    model_args = {"pretrained": "org/model"} if model_args is None else model_args
    content = {
        "results": {task: {"name": task, "alias": task, "sample_len": 0}},
        "group_subtasks": {},
        "configs": {
            task: {
                "task": task,
                "generation_kwargs": {"until": [], "max_gen_toks": 1024, "do_sample": False},
                "metadata": {
                    "version": 1.0,
                    "data_used": {"source": "somewhere", "sha256": "0" * 64, "rows": count},
                    "mt_bench_files": None if data is None else str(data),
                },
            }
        },
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: {"rating": True}},
        "n-samples": {task: {"original": count, "effective": 0}},
        "config": {"model": "hf-ctx", "model_args": model_args},
        "date": 1_700_000_000.0,
        "model_name": model_args.get("pretrained"),
        "chat_template_sha": "0",
        "system_instruction_sha": None,
    }
    write_lines(folder / f"samples_{task}_{date}.jsonl", samples)
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _sample(row: dict[str, Any], task: str, answer: str) -> dict[str, Any]:
    doc = {
        "id": identity(row["turns"]),
        "category": row["category"],
        "turns": row["turns"],
    }
    said: Any = [answer, f"{answer} Again."] if task == "mt_bench_2turn" else answer
    return {
        "doc_id": row["question_id"] - 900,
        "doc": doc,
        "target": "",
        "arguments": {},
        "resps": [[answer]],
        "filtered_resps": [said],
        "filter": "none",
        "metrics": [],
        "doc_hash": hashlib.sha256(json.dumps(doc).encode()).hexdigest(),
    }
