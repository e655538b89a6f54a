"""`ctx-eval rescore`: scores from saved samples, without a model.

For a metric or a filter that has changed since. The harness evaluates the installed task on the
documents of the sample file, and a stand-in for the model gives the saved responses: filters,
scoring, aggregation and errors are the harness's own. The new files stand beside the old ones,
which stay; their `rescored` entry says what they were made from.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from ctx_tasks import harness
from ctx_tasks.answers import (
    CUT,
    UNFINISHED,
    UNSEGMENTED,
    Answer,
    LogLikelihood,
    Note,
    unanswered,
)
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable, write_text
from ctx_tasks.result_files import attention_file
from ctx_tasks.results import Run, TaskResult, read_documents

_SPLIT = "saved"


@dataclass(frozen=True)
class Rescored:
    """One task: its primary metric before and after, and the results file written."""

    task: str
    metric: str
    before: float
    after: float
    n: int
    path: Path


class Recorded(LM):
    """Gives each request the response that a sample file has for it, with what became of it."""

    def __init__(self, lines: dict[str, list[dict[str, Any]]]) -> None:
        super().__init__()
        self.lines = lines
        self.given: Counter[tuple[str, int, int]] = Counter()
        harness.watch_answers()

    def generate_until(self, requests: list[Instance], *_: Any, **__: Any) -> list[Any]:
        """The saved text of each request, repeats in their order."""
        return [self._response(request) for request in requests]

    def loglikelihood(self, requests: list[Instance], *_: Any, **__: Any) -> list[Any]:
        """The saved log-likelihood of each request and whether it is greedy."""
        responses = [self._response(request) for request in requests]
        return [one if isinstance(one, LogLikelihood) else tuple(one) for one in responses]

    def loglikelihood_rolling(self, requests: list[Instance], *_: Any, **__: Any) -> list[Any]:
        """The saved log-likelihood of each text."""
        return [self._response(request) for request in requests]

    def _response(self, request: Instance) -> Any:
        key = (str(request.task_name), int(request.doc_id or 0), request.idx)
        repeat = self.given[key]
        self.given[key] += 1
        try:
            line = self.lines[key[0]][key[1]]
            response = line["resps"][request.idx][repeat]
            return _noted(response, line, repeat) if CUT in line else response
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"The samples of {key[0]} have no response for document {key[1]}; run it again."
            ) from error


def _noted(response: Any, line: dict[str, Any], repeat: int) -> Answer | LogLikelihood:
    """A saved response of one of our models, and its share of what the line says of all."""
    cut = int(line[CUT])
    unsegmented = line[UNSEGMENTED] > 0 if UNSEGMENTED in line else None
    if isinstance(response, list):
        return LogLikelihood.of(response, Note(cut, unsegmented=unsegmented))
    if unanswered(line):
        return Answer.of(response, Note(cut, skipped=not unsegmented, unsegmented=unsegmented))
    unfinished = repeat < round(line[UNFINISHED] * len(line["resps"][0]))
    return Answer.of(response, Note(cut, unfinished, unsegmented=unsegmented))


def rescore(run: Run) -> list[Rescored]:
    """Score every task of `run` that has samples again; write new files beside its own.

    Raises:
        UserError: no samples, a task that is not installed, or samples that lack what it needs.
    """
    saved = {name: r for name, r in run.tasks.items() if r.samples_file is not None}
    if not saved:
        raise UserError(f"{run.path} has no samples; a run with --log_samples can be rescored.")
    require_writable(run.path)
    lines = {name: list(read_documents(result)) for name, result in saved.items()}
    manager = harness.task_manager(list(lines))
    found = simple_evaluate(
        model=Recorded(lines),
        tasks=[_task(manager, name, rows) for name, rows in lines.items()],
        task_manager=manager,
    )
    assert found is not None
    path = _write(run, saved, lines, found)
    return [_change(name, result, found, path) for name, result in saved.items()]


def _change(name: str, result: TaskResult, found: Any, path: Path) -> Rescored:
    metric, key = result.primary, f"{result.primary},{result.filter}"
    after = found["results"][name].get(key, float("nan"))
    return Rescored(name, metric, result.metrics[metric].value, after, result.n, path)


def _task(manager: TaskManager, name: str, rows: list[dict[str, Any]]) -> Any:
    """The installed task on the documents of the samples."""
    documents = [row["doc"] for row in rows]
    overrides = {
        "task": name,
        "custom_dataset": lambda **_: {_SPLIT: Dataset.from_list(documents)},
        "dataset_path": None,
        "test_split": _SPLIT,
        **dict.fromkeys(("validation_split", "training_split", "fewshot_split", "process_docs")),
        # The prompts are not looked at, and there are no documents to draw examples from.
        "num_fewshot": 0,
    }
    task = harness.build_task(manager, name, overrides)
    if task is None:
        raise UserError(f"The task {name} is not installed; rescore with the version that has it.")
    return task


def _write(
    run: Run, saved: dict[str, TaskResult], lines: dict[str, list[dict[str, Any]]], found: Any
) -> Path:
    now = datetime.now()
    stamp = now.isoformat().replace(":", "-")
    for name, rows in lines.items():
        scored = [s for s in found["samples"][name] if s["filter"] == saved[name].filter]
        text = "".join(
            json.dumps(_line(row, new), ensure_ascii=False) + "\n"
            for row, new in zip(rows, sorted(scored, key=lambda s: s["doc_id"]), strict=True)
        )
        again = run.path.with_name(f"samples_{name}_{stamp}.jsonl")
        write_text(again, text)
        _copy_looks(saved[name].samples_file, again, name)
    path = run.path.with_name(f"results_{stamp}.json")
    content = _content(run, saved, found, now.timestamp())
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str))
    return path


def _copy_looks(samples: Path | None, again: Path, task: str) -> None:
    """Where the answers looked, where a sweep measured it, stays with them."""
    assert samples is not None
    looks = attention_file(samples, task)
    if looks.is_file():
        write_text(attention_file(again, task), looks.read_text(encoding="utf-8"))


def _line(row: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A sample line with the new answer and scores in place of the old."""
    kept = {key: value for key, value in row.items() if key not in row.get("metrics", [])}
    kept["doc_hash"] = row["doc_hash"].partition("#")[0]
    scores = {metric: new[metric] for metric in new["metrics"]}
    answer = list(new["filtered_resps"])
    return {**kept, "filtered_resps": answer, "metrics": list(new["metrics"]), **scores}


def _content(run: Run, saved: dict[str, TaskResult], found: Any, date: float) -> dict[str, Any]:
    """The old results file with what has been computed anew."""
    content: dict[str, Any] = json.loads(run.path.read_text(encoding="utf-8"))
    before = {name: content.get("versions", {}).get(name) for name in saved}
    # A group is not rescored: the leaderboard computes ours.
    for part in ("results", "versions", "higher_is_better", "configs", "n-shot", "n-samples"):
        content[part] = {k: v for k, v in content.get(part, {}).items() if k in saved}
    for part in ("results", "versions", "higher_is_better"):
        content[part].update({name: found[part][name] for name in saved})
    content["groups"], content["group_subtasks"] = {}, {}
    content["rescored"] = {
        "from": run.path.name,
        "sha256": hashlib.sha256(run.path.read_bytes()).hexdigest(),
        "versions_before": before,
    }
    return {**content, "date": date}
