"""What must agree before two results are compared, and how a difference is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctx_tasks.columns import TASKS
from ctx_tasks.errors import UserError

# Whether a task that is not ours is answered without the model's own beginning.
BEGUN = "answer begun"
# What makes the arm: two arms are meant to differ in it, one checkpoint is not.
TEMPLATE = "chat template"
# What the weights were loaded as: bfloat16 moves a log-probability further than alpha 0.9 does.
DTYPE = "dtype"
# Answers are given, and the model says how likely they are.
_RATED = ("multiple_choice", "loglikelihood")
# Where data came from and how it was measured out differ between equal data.
_NO_DATA = {"source", "tokenizer", "window"}


def settings(content: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The settings of a task in a results file, by a name for the reader."""
    config, used = content["config"], content.get("configs", {}).get(task) or {}
    shots = content.get("n-shot", {}).get(task, 0)
    seen = (used.get("metadata") or {}).get("data_used") or {}
    return {
        "task version": content.get("versions", {}).get(task),
        TEMPLATE: content.get("chat_template_sha"),
        DTYPE: _dtype(config),
        "system prompt": content.get("system_instruction_sha"),
        "few-shot": [shots, config.get("fewshot_seed")] if shots else 0,
        "limit": config.get("limit"),
        "generation settings": {
            **(used.get("generation_kwargs") or {}),
            **(config.get("gen_kwargs") or {}),
            "repeats": used.get("repeats", 1),
        },
        # The beginning of our answers is the arm's, of others' the task's.
        "response prefix": None if task in TASKS else used.get("gen_prefix"),
        BEGUN: None if task in TASKS else _begun(used),
        # MT-Bench leaves the arm's indicator out unless told otherwise.
        "indicator kept": (used.get("metadata") or {}).get("mt_bench_indicator"),
        "data": _data(used, seen),
        "haystack": seen.get("sha256") if "lengths" in seen else None,
    }


def _dtype(config: Mapping[str, Any]) -> str | None:
    """What the harness read off the loaded model; None of a model behind an API."""
    return str(config.get("model_dtype") or "").removeprefix("torch.") or None


def _begun(used: Mapping[str, Any]) -> bool:
    return bool(used.get("gen_prefix")) or used.get("output_type") in _RATED


def _data(used: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """What our loaders recorded; of other tasks, the names of data set and split.

    RULER and BABILong are told their lengths by --metadata.
    """
    if seen:
        return {key: value for key, value in seen.items() if key not in _NO_DATA}
    names = ("dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split")
    lengths = (used.get("metadata") or {}).get("max_seq_lengths")
    named = {name: used[name] for name in names if used.get(name)}
    return {**named, "lengths": lengths} if lengths else named


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the settings in which two results differ."""
    return [name for name in first if unlike(name, first[name], second.get(name))]


def unlike(name: str, a: Any, b: Any) -> bool:
    """Whether two values of a setting differ; a dtype that nobody recorded may be the same."""
    return bool(a != b) and not (name == DTYPE and None in (a, b))


# How a run of ours was executed (`config.ctx`); none of it should move a score.
EXECUTED = ("batch_size", "processes", "engine")


def executed(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a run was executed, by a results file's `config`; empty where that is not known."""
    ours = config.get("ctx") or {}
    return {name: ours[name] for name in EXECUTED if name in ours}


def executed_apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """A sentence where two runs were executed differently; "" where not, or not known."""
    apart = [
        f"{name.replace('_', ' ')} {first[name]}, {second[name]}"
        for name in first
        if name in second and first[name] != second[name]
    ]
    if not apart:
        return ""
    return (
        f"They were executed differently ({'; '.join(apart)}): in 16-bit that alone changes some "
        "answers; run both alike, or in float32."
    )


def key(value: Any) -> str:
    """Equal for equal settings."""
    return json.dumps(value, sort_keys=True, default=str)


def refusal(
    where: str, name: str, first: tuple[Any, Path], second: tuple[Any, Path], instead: str
) -> UserError:
    """The error that says both values of a setting, each with its file, and what to do."""
    a, b = told(first[0], second[0])
    return UserError(
        f"{where}: {name} is {a} in {first[1]} but {b} in {second[1]}; run them alike, or "
        f"{instead} (--force)."
    )


def told(a: Any, b: Any) -> tuple[str, str]:
    """Two values as short text, of mappings only the entries that differ."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return _short(a), _short(b)
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return _short({key: a.get(key) for key in keys}), _short({key: b.get(key) for key in keys})


def _short(value: Any, most: int = 120) -> str:
    """A setting as short text."""
    text = key(value)
    return text if len(text) <= most else text[:most] + "…"
