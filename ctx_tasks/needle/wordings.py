"""How the needle is asked for: the paper's prompt, four of our own, or a file's.

The later version of the paper asks every question in four wordings and reports mean and standard
deviation over them, for small models. We know that there are four, not how they read; `FOUR` was
written for this project, so the spread is comparable in kind, not wording by wording.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctx_tasks.errors import UserError

PROMPT = (
    "You are a helpful AI assistant that answers a question using only the provided document: \n"
    "{context}\n\nQuestion: {question}"
)
_FIELD = re.compile(r"\{(context|question)\}")


@dataclass(frozen=True)
class Wording:
    """A prompt with `{context}` and `{question}`, each once."""

    id: str
    prompt: str


PAPER = [Wording("paper", PROMPT)]
FOUR = [
    Wording("document-first", "{context}\n\nGoing by the document above: {question}"),
    Wording(
        "question-first",
        "Here is a question: {question}\nFind its answer in this document and write it down.\n\n"
        "{context}",
    ),
    Wording(
        "sections",
        "Read the text and answer the question about it.\n\n### Text\n{context}\n\n"
        "### Question\n{question}",
    ),
    Wording(
        "reader",
        "A friend gave me this to read:\n\n{context}\n\nNow I would like to know: {question} "
        "Please tell me what the text says.",
    ),
]


def load_wordings(option: Any) -> list[Wording]:
    """Read the wordings of the prompt.

    Args:
        option: "paper" (the paper's one), "four" (ours), or the path of a YAML file: a list of
            mappings with `prompt` and, if wanted, `id` (default: the number in the list, from 1).

    Raises:
        UserError: a file that cannot be read, or with every fault of it.
    """
    if option in ("paper", "four"):
        return {"paper": PAPER, "four": FOUR}[option]
    if not isinstance(option, str | Path) or not Path(option).expanduser().is_file():
        raise UserError(
            f"prompts must be paper, four or the path of a YAML file, but got {option!r}."
        )
    try:
        rows = yaml.safe_load(Path(option).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"prompts {option} cannot be read as YAML ({reason}).") from error
    return _checked(rows, str(option))


def prompt(doc: Mapping[str, Any]) -> str:
    """The prompt of a row: its own wording, if it has one, or the paper's."""
    # In one pass: braces in a document stay what they are.
    return _FIELD.sub(lambda found: str(doc[found[1]]), doc.get("prompt") or PROMPT)


def prompt_spread(scored: Iterable[tuple[str, float]]) -> float:
    """Standard deviation (n - 1) between the wordings' mean recalls; pairs of wording and recall.

    0.0 for a single wording.
    """
    recalls: dict[str, list[float]] = {}
    for wording, recall in scored:
        recalls.setdefault(wording, []).append(recall)
    means = [statistics.fmean(values) for values in recalls.values()]
    return statistics.stdev(means) if len(means) > 1 else 0.0


def _checked(rows: Any, name: str) -> list[Wording]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"prompts {name} must hold a list of mappings with prompt and, if wanted, id, as "
            f"task_configs/nih/README.md shows; correct the file."
        )
    faults = [
        f"prompt {number} needs {{context}} and {{question}} once each"
        for number, row in enumerate(rows, 1)
        if sorted(_FIELD.findall(str(row.get("prompt", "")))) != ["context", "question"]
    ]
    if faults:
        raise UserError(f"prompts {name}: {'; '.join(faults)}; correct the file.")
    wordings = [Wording(str(row.get("id", n)), row["prompt"]) for n, row in enumerate(rows, 1)]
    if len({one.id for one in wordings}) < len(wordings):
        raise UserError(f"prompts {name} uses an id twice; give every prompt an id of its own.")
    return wordings
