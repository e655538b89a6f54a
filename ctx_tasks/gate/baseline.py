"""What a gate compares: scores per document, with all that must agree before they are compared.

Taken from result and sample files, or from a baseline file, which keeps of a document 16 digits of
its hash, its cluster, its score and 8 digits of its answer's hash: 10,000 documents are half a
megabyte. A baseline is plain JSON; nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks.answers import NAMES
from ctx_tasks.arm import Arm
from ctx_tasks.coverage import scored
from ctx_tasks.errors import UserError
from ctx_tasks.result_files import load
from ctx_tasks.results import Samples, TaskResult, read_documents, read_runs
from ctx_tasks.scores import Choice, document_scores
from ctx_tasks.settings import executed
from ctx_tasks.statistics import cluster_numbers

FORMAT = "lm-eval-ctx baseline 2"
PACKAGE = "lm-eval-ctx"
_VERSIONS = (PACKAGE, "lm-eval", "transformers", "torch")


@dataclass(frozen=True)
class Measured:
    """One task of one run.

    Attributes:
        scores: float64 [n]; NaN where a document has none.
        hashes, answers: of documents and of what the model said, shortened.
        clusters: numbers [n].
        missing: answers without a verdict, for tasks that a judge rates.
        expected: documents that were evaluated, by the results file.
        prompts: digest of all prompts; None where the harness recorded none.
        shares: of documents that the run noted (`ctx_tasks.answers`), by the name of what it did.
    """

    metric: str
    higher_is_better: bool
    settings: dict[str, Any]
    hashes: list[str]
    clusters: list[int]
    scores: np.ndarray
    answers: list[str]
    missing: int
    expected: int
    prompts: str | None
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """All tasks of one checkpoint and arm.

    Attributes:
        notes: what is not among the tasks, and why.
        executed: as in `ctx_tasks.settings`.
        harness: version of lm-eval that it was run with, where that is known.
        package: version of ours that saved it, of a baseline file.
    """

    checkpoint: str
    arm: Arm
    tasks: dict[str, Measured]
    source: str
    notes: list[str] = dataclasses.field(default_factory=list)
    executed: dict[str, Any] = dataclasses.field(default_factory=dict)
    harness: str | None = None
    package: str | None = None


def read(path: Path, choice: Choice | None = None) -> list[Measurement]:
    """Measurements of a baseline file, a results file or a folder of results.

    Tasks without a score per document are left out, with a note.

    Raises:
        UserError: neither, malformed, or results of which no task has such scores.
    """
    if path.is_file() and _is_baseline(path):
        return _read_baseline(path)
    merged: dict[tuple[str, str, Arm], Measurement] = {}
    for run in read_runs([path], choice):
        key = (run.checkpoint, run.identity, run.arm)
        new = Measurement(
            *(run.checkpoint, run.arm, {}, str(run.path), [], executed(run.config)), run.harness
        )
        found = merged.setdefault(key, new)
        samples, reasons = scored(run)
        for name, of in samples.items():
            found.tasks[name] = _task(run.tasks[name], of)
            found.notes.extend(filter(None, [run.tasks[name].chosen.said]))
        found.notes.extend(reasons)
    for one in merged.values():
        if not one.tasks:
            raise UserError(f"{one.source} has nothing to judge: {' '.join(one.notes)}")
    return list(merged.values())


def text(measurements: Sequence[Measurement]) -> str:
    """A baseline file's text."""
    content = {
        "format": FORMAT,
        "versions": {name: version(name) for name in _VERSIONS},
        "runs": [
            {
                "checkpoint": one.checkpoint,
                "arm": one.arm.record(),
                "executed": one.executed,
                "lm-eval": one.harness,
                "tasks": {name: _packed(task) for name, task in one.tasks.items()},
            }
            for one in measurements
        ],
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def _task(result: TaskResult, samples: Samples) -> Measured:
    metric = result.primary
    missing = result.metrics.get("missing")
    return Measured(
        metric,
        result.metrics[metric].higher_is_better,
        result.settings,
        [_short(doc_hash) for doc_hash in samples.doc_hashes],
        [int(number) for number in cluster_numbers(samples.clusters)],
        samples.scores[metric],
        [_answer(line) for line in read_documents(result)],
        0 if missing is None else int(missing.value),
        result.n,
        samples.prompts,
        {name: result.metrics[name].value for name in NAMES if name in result.metrics},
    )


def _short(doc_hash: str) -> str:
    digits, _, occurrence = doc_hash.partition("#")
    return digits[:16] + ("#" + occurrence if occurrence else "")


def _answer(line: dict[str, Any]) -> str:
    said = json.dumps(line.get("filtered_resps"), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def _packed(task: Measured) -> dict[str, Any]:
    scores = [None if math.isnan(score) else float(score) for score in task.scores]
    return {**dataclasses.asdict(task), "scores": scores}


def version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_baseline(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return '"format"' in file.read(20)


def _read_baseline(path: Path) -> list[Measurement]:
    again = f"make it again: ctx-eval gate --save {path} RESULTS"
    content = load(path, again)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, this version reads {FORMAT!r}")
        return [
            Measurement(
                run["checkpoint"],
                Arm.of(run["arm"]),
                {name: _unpacked(task) for name, task in run["tasks"].items()},
                str(path),
                executed=run.get("executed", {}),
                harness=run.get("lm-eval"),
                package=content["versions"][PACKAGE],
            )
            for run in content["runs"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no baseline ({error}); {again}.") from error


def _unpacked(task: dict[str, Any]) -> Measured:
    scores = document_scores(task["metric"], task["scores"])
    found = Measured(**{**task, "scores": scores})
    lengths = {len(found.hashes), len(found.clusters), len(found.scores), len(found.answers)}
    if len(lengths) != 1:
        raise ValueError("its documents are cut off")
    if len(set(found.hashes)) < len(found.hashes):
        raise ValueError("a document stands in it twice")
    # Each cluster number from 0 to the largest, as `cluster_numbers` gives them.
    whole = all(type(number) is int for number in found.clusters)
    if not whole or set(found.clusters) != set(range(len(set(found.clusters)))):
        raise ValueError("its clusters are not numbered from 0")
    return found
