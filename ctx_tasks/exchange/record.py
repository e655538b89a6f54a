"""What of a results file of the harness a log of one task keeps, to be read back as that run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Its name in the log.
RECORD = "lm_eval_results"
_WHOLE = (
    *("config", "date", "model_name", "lm_eval_version"),
    *("chat_template_sha", "system_instruction_sha"),
)
_BY_TASK = ("results", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks")
# Of a task's configuration what `settings` reads; the rest is source text, and paths of a machine.
_SETTINGS = (
    *("generation_kwargs", "repeats", "gen_prefix", "output_type"),
    *("dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split"),
)
_METADATA = ("data_used", "mt_bench_indicator", "max_seq_lengths")


def record(content: Mapping[str, Any], task: str) -> dict[str, Any]:
    """A results file of one task, or of a group and all in it."""
    names = _below(content.get("group_subtasks") or {}, task)
    kept = {key: content[key] for key in _WHOLE if key in content}
    by_task = {key: _of(content.get(key) or {}, names) for key in _BY_TASK}
    configs = _of(content.get("configs") or {}, names)
    return {**kept, **by_task, "configs": {name: _config(one) for name, one in configs.items()}}


def _below(members: Mapping[str, Any], task: str) -> list[str]:
    found, waiting = [], [task]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += members.get(name) or []
    return found


def _of(by_task: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: by_task[name] for name in by_task if name in names}


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    metadata = config.get("metadata") or {}
    return {
        **{name: config[name] for name in _SETTINGS if name in config},
        "metadata": {name: metadata[name] for name in _METADATA if name in metadata},
    }
