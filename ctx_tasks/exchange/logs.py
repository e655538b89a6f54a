"""Every Eval Ever logs read: as a results file of the harness, and as lines of a sample file.

A log of ours is read back as the run that it was (`exchange.record`). Of another's there is the
model, the evaluations' names, and of each metric the score, its error, and the documents' scores
where they lie beside it. It does not say how the model was run: `UNTOLD` in its `config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.exchange.instances import is_ours, sample
from ctx_tasks.exchange.record import RECORD

UNTOLD = "arm not told"
_NAME = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json")
_SAMPLES = "_samples.jsonl"
_ID = "evaluation_result_id"
# The schema has scores from 0.2 on where they are now.
_READ = ("0.2.", "0.3.")


def is_name(name: str) -> bool:
    """Whether a file's name is a log's."""
    return _NAME.fullmatch(name.lower()) is not None


def is_log(content: Any) -> bool:
    """Whether a JSON file is one."""
    return isinstance(content, dict) and "evaluation_results" in content


def samples_file(log: Path) -> Path:
    """Where a log's documents lie."""
    return log.with_name(log.stem + _SAMPLES)


def is_samples(path: Path) -> bool:
    """Whether a file holds a log's documents."""
    return path.name.endswith(_SAMPLES)


def as_results(path: Path, log: Mapping[str, Any]) -> dict[str, Any]:
    """A log as the harness would have recorded it.

    Raises:
        UserError: another version of the schema, or what is needed is missing.
    """
    version = str(log.get("schema_version"))
    if not version.startswith(_READ):
        raise UserError(
            f"{path} is an Every Eval Ever log of schema {version}; 0.2 and 0.3 are read: bring it "
            "up to date with the package every-eval-ever."
        )
    try:
        details = (log.get("source_metadata") or {}).get("additional_details") or {}
        return dict(json.loads(details[RECORD])) if RECORD in details else _of_others(log)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lacking = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no Every Eval Ever log that can be read ({lacking}): the leaderboard needs "
            "model_info.id, and of every result evaluation_name and score_details.score."
        ) from error


def texts(path: Path, task: str) -> Iterator[bytes]:
    """The documents of one evaluation as lines of a sample file.

    Others write a row for each metric of a document, in any order; those are put together.
    """
    metrics = _metrics(path, task)
    others: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            try:
                row = json.loads(text)
                if row["evaluation_name"] != task:
                    continue
                line = sample(row, metrics)
                if is_ours(row):
                    yield json.dumps(line).encode()
                else:
                    _join(others, row["sample_id"], line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                lacking = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"{path}, line {number} is no document of an Every Eval Ever log ({lacking}); "
                    "remove the file to read the log's scores alone."
                ) from error
    yield from (json.dumps(line).encode() for line in others.values())


def _join(lines: dict[str, dict[str, Any]], key: str, line: dict[str, Any]) -> None:
    """Add the metrics that a document's line brings; one that brings none is another document."""
    before = lines.get(key, {})
    new = {name: line[name] for name in line if name not in before}
    if before and new:
        before.update(new)
    else:
        lines[f"{key}#{len(lines)}" if before else key] = line


def _metrics(samples: Path, task: str) -> dict[str, str]:
    """The metric of each result of the log beside a file of documents; under "" a task's first."""
    log = samples.with_name(samples.name.removesuffix(_SAMPLES) + ".json")
    results = json.loads(log.read_text(encoding="utf-8"))["evaluation_results"]
    named = {one["evaluation_result_id"]: _metric(one) for one in results if _ID in one}
    of_task = [one for one in results if one["evaluation_name"] == task] or results
    return {**named, "": _metric(of_task[0])}


def _metric(result: Mapping[str, Any]) -> str:
    """A metric's name; in that project's own lm-eval logs it stands in the description."""
    config = result.get("metric_config") or {}
    named = config.get("metric_id") or config.get("metric_name")
    described = str(config.get("evaluation_description") or "").partition(" (filter: ")[0]
    return str(named or (described if described.isidentifier() else "") or "score")


def _of_others(log: Mapping[str, Any]) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, bool]] = {}
    counts: dict[str, dict[str, int]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for one in log["evaluation_results"]:
        task, metric, score = one["evaluation_name"], _metric(one), one["score_details"]
        spread = score.get("uncertainty") or {}
        error = (spread.get("standard_error") or {}).get("value")
        found = results.setdefault(task, {})
        found |= {f"{metric},none": score["score"], f"{metric}_stderr,none": error}
        lower = (one.get("metric_config") or {}).get("lower_is_better", False)
        better.setdefault(task, {})[metric] = not lower
        counts.setdefault(task, {"effective": spread.get("num_samples") or 0})
        configs.setdefault(task, _config(one))
    library = log.get("eval_library") or {}
    return {
        "results": results,
        "higher_is_better": better,
        "n-samples": counts,
        "configs": configs,
        "config": {
            "model": library.get("name"),
            "model_args": {"pretrained": log["model_info"]["id"], "read from": "Every Eval Ever"},
            UNTOLD: True,
        },
        "model_name": log["model_info"]["id"],
        "chat_template_sha": "not recorded",
        "date": _seconds(log.get("evaluation_timestamp") or log.get("retrieved_timestamp")),
    }


def _config(result: Mapping[str, Any]) -> dict[str, Any]:
    """Data set and generation settings, which must agree before two results are compared."""
    source, generation = result.get("source_data") or {}, result.get("generation_config") or {}
    return {
        "dataset_path": source.get("hf_repo") or source.get("dataset_name"),
        "test_split": source.get("hf_split"),
        "generation_kwargs": generation.get("generation_args") or {},
    }


def _seconds(timestamp: Any) -> float:
    """Seconds since 1970; 0 of a time in other words."""
    try:
        return float(timestamp)
    except (TypeError, ValueError):
        return 0.0
