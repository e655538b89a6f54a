"""Small result and sample files in lm-eval 0.4.13's format, for tests of what reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = 1795508444.6


def sample(score: float | None, number: int, metric: str = "score", **doc: Any) -> dict[str, Any]:
    """One line of a sample file; `number` makes the document."""
    document = {"question": f"question {number}", **doc}
    digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    return {
        "doc_id": number,
        "doc": document,
        "target": "yes",
        "arguments": {"gen_args_0": {"arg_0": f"prompt {number}", "arg_1": {}}},
        "resps": [[f"answer {number}"]],
        "filtered_resps": [f"answer {number}"],
        "filter": "none",
        "metrics": [metric],
        "doc_hash": digest,
        metric: score,
    }


def hits(count: int, n: int = 400) -> list[float]:
    """Scores of `n` documents, of which the first `count` are hits."""
    return [1.0] * count + [0.0] * (n - count)


def lines(scores: Iterable[float | None], **doc: Any) -> list[dict[str, Any]]:
    """A sample line for each score, each on a document of its own."""
    return [sample(score, number, **doc) for number, score in enumerate(scores)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_run(
    folder: Path,
    tasks: Mapping[str, Sequence[dict[str, Any]]],
    *,
    metric: str = "score",
    model: str = "org/model",
    chat: bool = False,
    stamp: str = "2026-11-24T08-20-50.877533",
    log_samples: bool = True,
    higher_is_better: bool = True,
    config: Mapping[str, Any] | None = None,
    task_config: Mapping[str, Any] | None = None,
    **content: Any,
) -> Path:
    """Write a results file and its sample files below `folder`; returns the results file."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {
        task: [line[metric] for line in lines if line[metric] is not None]
        for task, lines in tasks.items()
    }
    results = {
        "results": {
            task: {
                "alias": task,
                f"{metric},none": sum(values) / max(len(values), 1),
                f"{metric}_stderr,none": 0.01,
            }
            for task, values in scores.items()
        },
        "configs": {task: {"generation_kwargs": {}, **(task_config or {})} for task in tasks},
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {key: {metric: higher_is_better} for key in tasks},
        "n-samples": {task: {"effective": len(lines)} for task, lines in tasks.items()},
        "config": {"model": "hf", "model_args": {"pretrained": model}, **(config or {})},
        "date": DATE,
        "model_name": model,
        "chat_template_sha": "abc" if chat else None,
        **content,
    }
    path = folder / f"results_{stamp}.json"
    path.write_text(json.dumps(results))
    for task, lines in tasks.items() if log_samples else ():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"samples_{task}_{stamp}.jsonl").write_text(text)
    return path
