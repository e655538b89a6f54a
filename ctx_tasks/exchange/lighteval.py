"""What `lighteval` leaves, read: as a results file of the harness, and as lines of a sample file.

Source: lighteval 0.8 to 0.13, `logging/evaluation_tracker.py` and `logging/info_loggers.py`. It
writes `results/MODEL/results_DATE.json` and, with --save-details,
`details/MODEL/DATE/details_TASK_DATE.parquet`, a row a document: `doc`, `metric`,
`model_response`. Whether a chat template was applied is recorded where it was asked for; else it
follows from the tokenizer, which the file does not say. Averages over tasks are left out.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.exchange.logs import UNTOLD

# What stands for the model's class in the harness's files.
TOOL = "lighteval"
_DETAILS = "details_"
_UP = 5
_TEMPLATE = ("override_chat_template", "use_chat_template")


def is_results(content: Any) -> bool:
    """Whether a JSON file is one of its results files."""
    return isinstance(content, dict) and "config_general" in content


def is_details(path: Path) -> bool:
    """Whether a file holds documents."""
    return path.name.startswith(_DETAILS) and path.suffix == ".parquet"


def details_file(results: Path, task: str) -> Path | None:
    """Where the documents of a task lie; None where they were not saved."""
    date = _date(results)
    name = f"**/{glob.escape(date)}/{_DETAILS}{glob.escape(task)}_{glob.escape(date)}.parquet"
    # A model's name may hold slashes, so the folder of all results lies some folders up.
    found = (file for above in results.parents[:_UP] for file in (above / "details").glob(name))
    return next(found, None)


def as_results(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """A results file as the harness would have recorded it.

    Raises:
        UserError: what is needed is missing.
    """
    try:
        return {**_as_results(content), "date": _seconds(_date(path))}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lacking = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no results file of lighteval 0.8 or later ({lacking}): the leaderboard "
            "needs config_general.model_name and results by task and metric."
        ) from error


def texts(path: Path) -> Iterator[bytes]:
    """The documents as lines of a sample file."""
    # Brings pyarrow, which the harness's files do without.
    from ctx_tasks.rows import read_rows

    for number, row in enumerate(read_rows(path), 1):
        try:
            yield json.dumps(_sample(row, number), default=str).encode()
        except (KeyError, TypeError, AttributeError) as error:
            lacking = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path}, row {number} is no document of lighteval 0.8 or later ({lacking}): it "
                "needs doc and metric; run it again with --save-details, or remove the file to "
                "read the scores alone."
            ) from error


def _date(results: Path) -> str:
    return results.stem.removeprefix("results_")


def _seconds(date: str) -> float:
    """Seconds since 1970; 0 where a file was named otherwise."""
    try:
        return datetime.strptime(date, "%Y-%m-%dT%H-%M-%S.%f").timestamp()
    except ValueError:
        return 0.0


# ---- results -------------------------------------------------------------------------------------


def _as_results(content: Mapping[str, Any]) -> dict[str, Any]:
    general = content["config_general"]
    model = general.get("model_config") or {}
    tasks = content.get("config_tasks") or {}
    scores = {
        task: metrics
        for task, metrics in content["results"].items()
        if task != "all" and ":_average|" not in task
    }
    template = next((model[name] for name in _TEMPLATE if model.get(name) is not None), None)
    return {
        "results": {task: _scores(metrics) for task, metrics in scores.items()},
        "versions": content.get("versions") or {},
        "n-shot": {task: _shots(task, tasks.get(task) or {}) for task in scores},
        "n-samples": {task: _count(tasks.get(task) or {}) for task in scores},
        "configs": {task: _config(tasks.get(task) or {}, model) for task in scores},
        "config": {
            "model": TOOL,
            "model_args": {"pretrained": general["model_name"], "read from": TOOL},
            "model_dtype": model.get("dtype"),
            "limit": general.get("max_samples"),
            **({UNTOLD: True} if template is None else {}),
        },
        "model_name": general["model_name"],
        "chat_template_sha": None if template is False else "not recorded",
        "system_instruction_sha": model.get("system_prompt"),
    }


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Scores and errors under the harness's names, which have the filter behind a comma."""
    return {f"{name},none": value for name, value in metrics.items()}


def _shots(task: str, config: Mapping[str, Any]) -> int:
    told = str(config.get("num_fewshots", task.rpartition("|")[2]))
    return int(told) if told.isdecimal() else 0


def _count(config: Mapping[str, Any]) -> dict[str, int]:
    return {"effective": max(int(config.get("effective_num_docs") or 0), 0)}


def _config(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    given = model.get("generation_parameters") or {}
    splits = config.get("evaluation_splits") or [None]
    return {
        "dataset_path": config.get("hf_repo"),
        "dataset_name": config.get("hf_subset"),
        "test_split": splits[0],
        "generation_kwargs": {name: given[name] for name in given if given[name] is not None},
    }


# ---- documents -----------------------------------------------------------------------------------


def _sample(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    doc, response = row["doc"], row.get("model_response") or {}
    asked = {name: doc.get(name) for name in ("query", "choices", "gold_index")}
    digest = hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()
    answers = response.get("text") or []
    return {
        "doc_id": number - 1,
        "doc": {"question": doc["query"]},
        "target": ", ".join(_golds(doc)),
        "arguments": {"gen_args_0": {"arg_0": response.get("input") or doc["query"]}},
        "resps": [[answer] for answer in answers],
        "filtered_resps": answers[:1],
        "filter": "none",
        "doc_hash": digest,
        **row["metric"],
    }


def _golds(doc: Mapping[str, Any]) -> list[str]:
    places, choices = doc.get("gold_index"), doc.get("choices") or []
    listed = places if isinstance(places, list) else [places]
    return [str(choices[at]) for at in listed if isinstance(at, int) and 0 <= at < len(choices)]
