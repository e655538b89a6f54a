"""One document of an Every Eval Ever log: from a sample line of the harness, and back.

Source: `instance_level_eval.schema.json` 0.3.0 of github.com/evaleval/every_eval_ever. `input.raw`
is the document as its task loads it, as JSON, so that its hash is the same in every arm; the prompt
as the model saw it is `input.formatted`. The metadata has the names of that project's own converter
of lm-eval (`doc_hash`, `lm_eval_metrics`), so rows of either are read alike.

Known divergence: the schema wants a number as the score, so a document without one has no row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = "0.3.0"
# Marks rows whose metadata is ours.
WRITER = "lm-eval-ctx"


@dataclass(frozen=True)
class Log:
    """What the rows of a log refer to.

    Attributes:
        evaluation, model, result: ids of the log, of its model, and of the result that is the mean
            of the rows' scores.
        metric, best: that result's metric, and its largest value.
    """

    evaluation: str
    model: str
    result: str
    metric: str
    best: float


def instance(line: Mapping[str, Any], task: str, log: Log) -> dict[str, Any] | None:
    """The row of a sample line of `results.read_documents`; None where it has no score."""
    score = line[log.metric]
    if not isinstance(score, int | float) or not math.isfinite(score):
        return None
    raw, reference = as_text(line["doc"]), _references(line.get("target"))
    hashed = hashlib.sha256((raw + "".join(reference)).encode("utf-8", "replace")).hexdigest()
    return {
        "schema_version": SCHEMA,
        "evaluation_id": log.evaluation,
        "model_id": log.model,
        "evaluation_name": task,
        "evaluation_result_id": log.result,
        "sample_id": str(line.get("doc_id", line["doc_hash"])),
        "sample_hash": hashed,
        "input": {
            "raw": raw,
            "formatted": _prompt(line),
            "reference": reference,
            "choices": _choices(line),
        },
        **_said(line),
        "evaluation": {"score": float(score), "is_correct": score >= log.best},
        "metadata": _metadata(line),
    }


def is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of `instance`."""
    return (row.get("metadata") or {}).get("written_by") == WRITER


def sample(row: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, Any]:
    """The sample line of a row, anybody's.

    Args:
        metrics: the metric of each `evaluation_result_id`; under "" that of rows without one.

    Raises:
        KeyError, TypeError, AttributeError: it lacks what the schema wants.
    """
    metadata, given = row.get("metadata") or {}, row["input"]
    ours = is_ours(row)
    scores = {metrics.get(row.get("evaluation_result_id") or "", ""): row["evaluation"]["score"]}
    answers = _answers(row)
    return {
        "doc_id": int(row["sample_id"]) if row["sample_id"].isdecimal() else None,
        "doc": json.loads(given["raw"]) if ours else {"question": given["raw"]},
        "target": ", ".join(given["reference"]),
        "arguments": _arguments(given),
        "resps": [[answer] for answer in answers],
        "filtered_resps": [answers] if row.get("messages") else answers[:1],
        "filter": metadata["filter"] if ours else "none",
        "doc_hash": metadata.get("doc_hash") or row.get("sample_hash") or row["sample_id"],
        "prompt_hash": metadata.get("prompt_hash") or None,
        **scores,
        **json.loads(metadata.get("lm_eval_metrics") or "{}"),
    }


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- from a line ---------------------------------------------------------------------------------


def _references(target: Any) -> list[str]:
    return [as_text(one) for one in (target if isinstance(target, list) else [target])]


def _prompt(line: Mapping[str, Any]) -> str | None:
    first = (line.get("arguments") or {}).get("gen_args_0") or {}
    return as_text(first["arg_0"]) if "arg_0" in first else None


def _choices(line: Mapping[str, Any]) -> list[str] | None:
    """The answers that the model is asked to rate; None where it says its own."""
    arguments = line.get("arguments") or {}
    rated = [as_text(one["arg_1"]) for one in arguments.values() if "arg_1" in one]
    return rated if len(rated) > 1 else None


def _said(line: Mapping[str, Any]) -> dict[str, Any]:
    """Output and attribution; of a conversation all that was said."""
    turns, taken = line["doc"].get("turns"), (line.get("filtered_resps") or [""])[0]
    if isinstance(turns, list) and isinstance(taken, list) and len(turns) == len(taken) > 1:
        return _conversation(turns, taken)
    answers = [as_text(one) for responses in line.get("resps") or [] for one in _listed(responses)]
    return {
        "interaction_type": "single_turn",
        "output": {"raw": answers},
        "answer_attribution": [_attribution(0, "output.raw", taken, line["filter"])],
    }


def _conversation(turns: list[Any], answers: list[Any]) -> dict[str, Any]:
    said = [
        (role, as_text(text))
        for pair in zip(turns, answers, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    last = len(said) - 1
    where = f"messages[{last}].content"
    return {
        "interaction_type": "multi_turn",
        "output": None,
        "messages": [
            {"turn_idx": place, "role": role, "content": text}
            for place, (role, text) in enumerate(said)
        ],
        "answer_attribution": [_attribution(last, where, answers[-1], "none")],
    }


def _attribution(turn: int, source: str, taken: Any, how: str) -> dict[str, Any]:
    return {
        "turn_idx": turn,
        "source": source,
        "extracted_value": as_text(taken),
        "extraction_method": how,
        "is_terminal": True,
    }


def _metadata(line: Mapping[str, Any]) -> dict[str, str]:
    scores = {name: line.get(name) for name in line.get("metrics") or []}
    known = ("doc_hash", "prompt_hash", "target_hash", "filter")
    return {
        "written_by": WRITER,
        **{name: str(line[name]) for name in known if line.get(name)},
        "lm_eval_metrics": json.dumps(scores, default=str),
    }


def _listed(responses: Any) -> list[Any]:
    return responses if isinstance(responses, list) else [responses]


# ---- to a line -----------------------------------------------------------------------------------


def _answers(row: Mapping[str, Any]) -> list[str]:
    messages = row.get("messages") or []
    said = [one.get("content") or "" for one in messages if one["role"] == "assistant"]
    return said if messages else list((row.get("output") or {}).get("raw") or [])


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    prompt = given.get("formatted") or given["raw"]
    choices = given.get("choices") or [None]
    return {
        f"gen_args_{place}": {"arg_0": prompt, **({} if choice is None else {"arg_1": choice})}
        for place, choice in enumerate(choices)
    }
