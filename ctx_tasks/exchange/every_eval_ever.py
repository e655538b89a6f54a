"""Results as Every Eval Ever logs: one JSON file a cell, its documents as JSON lines beside it.

Source: `eval.schema.json` 0.3.0 of github.com/evaleval/every_eval_ever (with documentation and a
checker in the package `every-eval-ever`). Files lie as that project's datastore wants them,
`data/lm-eval-ctx/OWNER/MODEL/UUID.json`; the UUID is derived from checkpoint, arm, task and time of
the run, so a second export of a run has the names of the first.

The schema has no place for an arm. It stands in words and fields under
`generation_config.additional_details`, with the template's hash, `config.ctx` and the settings;
what the harness recorded of the task is kept in `source_metadata.additional_details`, from which
`exchange.logs` reads the log back as the run that it was. Errors are `statistics`' own, over
clusters of documents.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctx_tasks.columns import TASKS
from ctx_tasks.errors import UserError
from ctx_tasks.exchange.cells import Cell, version
from ctx_tasks.exchange.instances import SCHEMA, WRITER, Log, as_text, instance
from ctx_tasks.exchange.record import RECORD, record
from ctx_tasks.files import whole_folder
from ctx_tasks.result_files import load
from ctx_tasks.results import read_documents
from ctx_tasks.rows import is_hub_name
from ctx_tasks.scores import BESIDE, PRIMARY, Metric
from ctx_tasks.settings import TEMPLATE
from ctx_tasks.statistics import CONFIDENCE, SCALES, Estimate

Relationship = Literal["first_party", "third_party", "collaborative", "other"]
_METHOD = "CR2 over clusters of documents that share a passage or a needle"
# Metrics that go from 0 to 1: of our tasks, and of every task.
_OURS = {*PRIMARY, *BESIDE} - {*SCALES}
_SHARES = {"acc", "acc_norm"}


@dataclass(frozen=True)
class Publisher:
    """Who ran the evaluation.

    Attributes:
        relationship: to who made the model.
    """

    organization: str = "unknown"
    relationship: Relationship = "other"


def write(cells: Sequence[Cell], folder: Path, publisher: Publisher) -> list[Path]:
    """Write a log and its samples for every cell; the folder appears when all are written.

    Returns:
        The logs.

    Raises:
        UserError: the folder holds something, or cannot be written.
    """
    now = int(time.time())
    with new_folder(folder) as partial:
        written = [_write(cell, partial, publisher, now) for cell in cells]
    return [folder / path.relative_to(partial) for path in written]


def new_folder(folder: Path) -> AbstractContextManager[Path]:
    """`files.whole_folder` of a folder that is not there yet, or empty."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder with --output, or empty it.")
    return whole_folder(folder)


def _write(cell: Cell, root: Path, publisher: Publisher, now: int) -> Path:
    path = root / "data" / WRITER / cell.model / f"{_uuid(cell)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    log = _log(cell, publisher, now)
    if cell.samples is not None:
        log |= _samples(cell, log["evaluation_id"], path, root)
    path.write_text(_strict(log, indent=2) + "\n", encoding="utf-8", errors="replace")
    return path


def _uuid(cell: Cell) -> uuid.UUID:
    run = cell.run
    key = json.dumps([run.identity, run.arm.record(), cell.result.task, run.date])
    return uuid.UUID(bytes=hashlib.sha256(key.encode()).digest()[:16], version=4)


# ---- the log -------------------------------------------------------------------------------------


def _log(cell: Cell, publisher: Publisher, now: int) -> dict[str, Any]:
    content = load(cell.run.path)
    name = f"{cell.result.task} ({cell.run.arm.name})"
    evaluation = f"{name}/{cell.model}/{now}"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation,
        **({"evaluation_timestamp": str(int(cell.run.date))} if cell.run.date else {}),
        "retrieved_timestamp": str(now),
        "source_metadata": {
            "source_name": WRITER,
            "source_type": "evaluation_run",
            "source_organization_name": publisher.organization,
            "evaluator_relationship": publisher.relationship,
            "additional_details": {RECORD: as_text(record(content, cell.result.task))},
        },
        "eval_library": {
            "name": "lm_eval",
            "version": cell.run.harness or "unknown",
            "additional_details": {"extension": WRITER, "extension_version": version(WRITER)},
        },
        "model_info": _model(cell),
        "evaluation_results": list(_results(cell, evaluation)),
    }


def _model(cell: Cell) -> dict[str, Any]:
    config = cell.run.config
    said = ("model_num_parameters", "model_dtype", "model_revision", "model_sha")
    details = {name.removeprefix("model_"): str(config[name]) for name in said if config.get(name)}
    engine, _, of = str((config.get("ctx") or {}).get("engine") or "").partition(" ")
    return {
        "name": cell.run.checkpoint,
        "id": cell.model,
        "developer": cell.model.partition("/")[0],
        **({"inference_engine": {"name": engine, "version": of}} if engine else {}),
        "additional_details": {
            # A model that is loaded by its weights runs here; of others nobody said where.
            "deployment_type": "self_deployed" if "pretrained" in cell.run.identity else "unknown",
            "model_availability": "unknown",
            "model_args": as_text(config.get("model_args")),
            **details,
        },
    }


def _results(cell: Cell, evaluation: str) -> Iterator[dict[str, Any]]:
    """Every metric that has a value, the one that stands for the task first."""
    result = cell.result
    for name in sorted(result.metrics, key=lambda name: name != result.primary):
        metric = result.metrics[name]
        if math.isfinite(metric.value):
            yield {
                "evaluation_result_id": f"{evaluation}#{name}",
                "evaluation_name": result.task,
                "source_data": _source(cell),
                "metric_config": _metric(name, metric, result.task),
                "score_details": _score(cell, name, metric),
                "generation_config": _generation(cell),
            }


def _source(cell: Cell) -> dict[str, Any]:
    """The data set; of ours what the loader recorded, a hash above all."""
    data = cell.result.settings["data"]
    details = {name: as_text(value) for name, value in data.items()}
    repository = str(data.get("dataset_path") or "")
    if not is_hub_name(repository):
        return {
            "dataset_name": cell.result.task,
            "source_type": "other",
            "additional_details": details,
        }
    split = data.get("test_split") or data.get("validation_split")
    return {
        "dataset_name": str(data.get("dataset_name") or repository),
        "source_type": "hf_dataset",
        "hf_repo": repository,
        **({"hf_split": str(split)} if split else {}),
        "samples_number": cell.result.n,
        "additional_details": details,
    }


def scale(metric: str, task: str, value: float) -> tuple[float, float] | None:
    """The least and the largest value that a metric can have, where that is known."""
    if metric in SCALES:
        return SCALES[metric]
    known = metric in _SHARES or (metric in _OURS and task in TASKS)
    return (0.0, 1.0) if known and 0 <= value <= 1 else None


def _metric(name: str, metric: Metric, task: str) -> dict[str, Any]:
    bounds = scale(name, task, metric.value)
    known: dict[str, Any] = {"additional_details": {"bounds_status": "unknown"}}
    if bounds is not None:
        known = {"score_type": "continuous", "min_score": bounds[0], "max_score": bounds[1]}
    return {
        "evaluation_description": f"{name} of {task}",
        "metric_id": name,
        "metric_name": name,
        "lower_is_better": not metric.higher_is_better,
        **known,
    }


def _score(cell: Cell, name: str, metric: Metric) -> dict[str, Any]:
    details = {"filter": cell.result.filter, "primary": str(name == cell.result.primary).lower()}
    found = cell.estimate(name)
    if found is not None:
        return {
            "score": metric.value,
            "details": {
                **details,
                "clusters": str(found.clusters),
                "degrees_of_freedom": f"{found.freedom:.4g}",
            },
            "uncertainty": _uncertainty(found),
        }
    # The harness's error, which takes documents as independent.
    error = {} if metric.error is None else {"standard_error": _error(metric.error, "lm_eval")}
    return {
        "score": metric.value,
        "details": details,
        "uncertainty": {**error, "num_samples": cell.result.n},
    }


def _uncertainty(found: Estimate) -> dict[str, Any]:
    if math.isnan(found.error):
        return {"num_samples": found.n}
    return {
        "standard_error": _error(found.error, _METHOD),
        "confidence_interval": {
            "lower": found.low,
            "upper": found.high,
            "confidence_level": CONFIDENCE,
            "method": found.method,
        },
        "num_samples": found.n,
    }


def _error(value: float, method: str) -> dict[str, Any]:
    return {"value": value, "method": method}


def _generation(cell: Cell) -> dict[str, Any]:
    settings, arm = cell.result.settings, cell.run.arm
    given = settings["generation settings"]
    numbers = {name: given[name] for name in ("temperature", "top_p", "top_k") if name in given}
    most = given.get("max_gen_toks")
    return {
        "generation_args": {**numbers, **({"max_tokens": most} if most else {})},
        "additional_details": {
            "arm": arm.name,
            "arm_fields": as_text(arm.record()),
            "chat_template_sha": as_text(settings[TEMPLATE] or ""),
            "config.ctx": as_text(cell.run.config.get("ctx") or {}),
            "settings": as_text(settings),
        },
    }


# ---- its samples ---------------------------------------------------------------------------------


def _samples(cell: Cell, evaluation: str, path: Path, root: Path) -> dict[str, Any]:
    """Write the documents beside the log; what it says of them, nothing where none has a score."""
    metric = cell.result.primary
    bounds = scale(metric, cell.result.task, cell.result.metrics[metric].value) or (0.0, 1.0)
    log = Log(evaluation, cell.model, f"{evaluation}#{metric}", metric, bounds[1])
    file, digest, count = path.with_name(f"{path.stem}_samples.jsonl"), hashlib.sha256(), 0
    with file.open("wb") as out:
        for row in _rows(cell, log):
            text = (_strict(row) + "\n").encode("utf-8", "replace")
            digest.update(text)
            out.write(text)
            count += 1
    if not count:
        file.unlink()
        return {}
    return {
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": file.relative_to(root).as_posix(),
            "hash_algorithm": "sha256",
            "checksum": digest.hexdigest(),
            "total_rows": count,
        }
    }


def _rows(cell: Cell, log: Log) -> Iterator[Mapping[str, Any]]:
    """The documents of a task, or of all tasks of a group."""
    for part in cell.result.parts or (cell.result,):
        for line in read_documents(part):
            row = instance(line, part.task, log)
            if row is not None:
                yield row


def _strict(value: Any, indent: int | None = None) -> str:
    """JSON as others read it: no NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
