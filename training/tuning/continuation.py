"""Continuing a killed run: whose folder it is, and which checkpoint is whole.

`run.json` in the output folder says which recipe and data it belongs to. A run with other settings
is refused there, because it would go on from weights that another recipe made.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text
from training import files
from training.tuning.recipe import Recipe

logger = logging.getLogger(__name__)

RECORD = "run.json"

# `training.*` keys that may change between a killed run and its continuation: they decide what is
# logged, stored and how fast, not what is learned.
_FREE = {
    "dataloader_num_workers",
    "dataset_num_proc",
    "disable_tqdm",
    "logging_steps",
    "output_dir",
    "report_to",
    "run_name",
    "save_steps",
    "save_strategy",
    "save_total_limit",
}


def claim(output: Path, recipe: Recipe, *, resume: bool = True, processes: int = 1) -> None:
    """Takes the folder `output` for this recipe and its files, or finds that it has it already.

    `processes` is how many train together.

    A run that ended before its first checkpoint holds nothing, and its folder is free.

    Raises:
        UserError: the folder holds another run, or (with `resume` False) any run.
    """
    ours = {
        "recipe": recipe.settings(),
        "data_sha256": _hashes(recipe.data["path"]),
        "processes": processes,
    }
    if recipe.data.get("eval_path"):
        ours["eval_sha256"] = _hashes(recipe.data["eval_path"])
    record = output / RECORD
    begun = any(output.glob("checkpoint-*")) or files.meta_path(output).is_file()
    if not (begun and record.is_file()):
        write_text(record, json.dumps(ours, indent=2))
        return
    differing = _differing(json.loads(record.read_text(encoding="utf-8")), ours)
    if differing or not resume:
        reason = f"with another {', '.join(differing)}" if differing else "already"
        raise UserError(
            f"{output} holds a run {reason}; set training.output_dir to a new folder, or delete it."
        )


def _hashes(data: str) -> list[str]:
    return [entry["sha256"] for entry in files.describe(data)]


def _differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    left, right = _flat(theirs), _flat(ours)
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the keys of `training` side by side, without those that are free."""
    recipe = dict(record["recipe"])
    training = {f"training.{k}": v for k, v in recipe.pop("training").items() if k not in _FREE}
    return {
        **recipe,
        **training,
        "data content": record["data_sha256"],
        "evaluation data content": record.get("eval_sha256"),
        # They divide the data and multiply the batch.
        "number of processes": record.get("processes"),
    }


def last_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end, or None.

    The trainer writes `trainer_state.json` last, so a checkpoint without it was cut off.
    """
    matches = [(re.fullmatch(r"checkpoint-(\d+)", entry.name), entry) for entry in output.glob("*")]
    found = [(int(match[1]), folder) for match, folder in matches if match]
    for _, folder in sorted(found, reverse=True):
        if _is_whole(folder):
            return str(folder)
        logger.warning("%s is incomplete; an earlier checkpoint is used.", folder)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
