"""What a sweep runs: checkpoints x arms, read from YAML and checked before anything loads.

checkpoints:
  - {name: base, model_args: {pretrained: nano-base}, arms: [raw]}     # its own arms
  - {name: chat, model_args: {pretrained: nano-chat}}     # model: hf-ctx or vllm-ctx
arms: [raw, chat, chat+prefix, {alpha: 0.9}, {indicator: "[IND]", name: marked}]
begun: true          # each arm also with its answer begun, where the tasks have that (default)
tasks: [context_awareness]
metadata: {max_length: 4000}
include_path: null   # a folder of your own task files
limit: null
attention: false     # also where the answers to some documents looked, for the report
batch_size: 8
device: null
output: sweep
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ctx_models import model_names
from ctx_models.fingerprint import checkpoint_fingerprint, files_hash, short_hash
from ctx_models.registry import MODEL, OURS
from ctx_tasks.arm import ARGUMENTS, Arm, command, safe
from ctx_tasks.columns import begun
from ctx_tasks.errors import UserError, near

_KEYS = {
    *("checkpoints", "arms", "begun", "tasks"),
    *("metadata", "include_path", "limit", "attention", "batch_size", "device", "output"),
}
_CHECKPOINT_KEYS = {"name", "model", "model_args", "arms"}


@dataclass(frozen=True)
class Checkpoint:
    """A model to load: its name here, the harness's model type and arguments, and its arms."""

    name: str
    model: str
    model_args: dict[str, Any]
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Plan:
    """A sweep; attributes as in the file, whose arms are those of each checkpoint."""

    checkpoints: tuple[Checkpoint, ...]
    tasks: tuple[str, ...]
    metadata: dict[str, Any]
    limit: float | None
    attention: bool
    batch_size: int | str
    device: str | None
    output: Path
    include_path: str | None = None


@dataclass(frozen=True)
class Cell:
    """One checkpoint in one arm, and the folder its results go to.

    Attributes:
        documents: their indices by task, ascending, which must be all tasks; None for all of them.
    """

    checkpoint: Checkpoint
    arm: Arm
    plan: Plan
    documents: Mapping[str, tuple[int, ...]] | None = None

    @property
    def folder(self) -> Path:
        """Where lm-eval's results file and sample files lie."""
        return self.plan.output / safe(self.checkpoint.name) / self.arm.folder

    @property
    def tasks(self) -> list[str]:
        """Task names; of a prefix arm those that begin the answer."""
        if not self.arm.prefix:
            return list(self.plan.tasks)
        names = (begun(task) for task in self.plan.tasks)
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def model_args(self) -> dict[str, Any]:
        """What `--model_args` would take."""
        return {**self.checkpoint.model_args, **self.arm.model_args}

    @property
    def command(self) -> str:
        """The command line that gives this cell alone."""
        plan = self.plan
        return command(
            self.arm,
            self.checkpoint.model,
            self.checkpoint.model_args,
            self.tasks,
            self.folder,
            plan.metadata,
            batch_size=plan.batch_size,
            limit=plan.limit,
            device=plan.device,
            include_path=plan.include_path,
            samples=None if self.documents is None else json.dumps(self.documents),
        )

    @property
    def fingerprint(self) -> str:
        """Changes with whatever could change an answer: weights, arm, tasks, data, versions."""
        arguments = self.checkpoint.model_args
        heads = self.arm.heads
        content = {
            "checkpoint": checkpoint_fingerprint(
                model_names.resolve(arguments.get("pretrained")),
                arguments.get("revision"),
                arguments.get("peft") or arguments.get("lora_local_path"),
                arguments.get("delta"),
            ),
            "model": self.checkpoint.model,
            "model_args": self.model_args,
            "heads": hashlib.sha256(Path(heads).read_bytes()).hexdigest() if heads else None,
            "chat": self.arm.chat,
            "tasks": self.tasks,
            "metadata": self.plan.metadata,
            "limit": self.plan.limit,
            "versions": [importlib.metadata.version(n) for n in ("lm-eval", "lm-eval-ctx")],
        }
        if self.documents is not None:
            content["documents"] = dict(self.documents)
        if self.plan.include_path is not None:
            content["task_files"] = files_hash(self.plan.include_path)
        return short_hash(json.dumps(content, sort_keys=True, default=str))


def read(path: Path, output: Path | None = None) -> Plan:
    """Read a sweep file; `output` replaces its own.

    Raises:
        UserError: not readable, or any number of mistakes, all named at once.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The sweep file {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"The sweep file {path} must hold checkpoints, arms and tasks.")
    wrong: list[str] = []
    plan = _plan(content, output, wrong)
    wrong += _checked(plan)
    if wrong:
        raise UserError(f"The sweep file {path} cannot be run: {'; '.join(wrong)}.")
    return plan


def cells(plan: Plan) -> list[Cell]:
    """All cells, checkpoint by checkpoint."""
    return [Cell(one, arm, plan) for one in plan.checkpoints for arm in one.arms]


def _plan(content: dict[str, Any], output: Path | None, wrong: list[str]) -> Plan:
    wrong += _unknown(content, _KEYS)
    tasks = content.get("tasks") or []
    metadata = content.get("metadata") or {}
    if not isinstance(tasks, list) or not tasks:
        wrong.append("tasks must be a list such as [context_awareness]")
        tasks = []
    if not isinstance(metadata, dict):
        wrong.append("metadata must be a mapping")
        metadata = {}
    attention = content.get("attention", False)
    if not isinstance(attention, bool):
        wrong.append(f"attention must be true or false, not {attention!r}")
    named = content.get("checkpoints") or []
    own = isinstance(named, list) and all(isinstance(one, dict) and "arms" in one for one in named)
    # Nobody's, where each checkpoint names its own.
    arms = () if own and named and "arms" not in content else _arms(content, "", wrong)
    checkpoints = [_checkpoint(one, arms, wrong) for one in _listed(content, "checkpoints", wrong)]
    if content.get("begun", True) and any(begun(str(task)) for task in tasks):
        checkpoints = [replace(one, arms=_with_begun(one.arms)) for one in checkpoints]
    return Plan(
        tuple(checkpoints),
        tuple(str(task) for task in tasks),
        metadata,
        content.get("limit"),
        attention is True,
        content.get("batch_size", 1),
        content.get("device"),
        output or Path(str(content.get("output", "sweep"))),
        _task_files(content, wrong),
    )


def _task_files(content: dict[str, Any], wrong: list[str]) -> str | None:
    found = content.get("include_path")
    try:
        return None if found is None else task_files(str(found))
    except UserError as error:
        wrong.append(str(error).rstrip("."))
        return None


def task_files(folder: str) -> str:
    """A folder of the user's own task files.

    Raises:
        UserError: it does not exist, or is none.
    """
    if not Path(folder).is_dir():
        raise UserError(f"include_path {folder} is no folder; name that of your task files.")
    return folder


def _unknown(content: dict[str, Any], known: set[str]) -> list[str]:
    """What is said of the keys that nobody reads."""
    listed = f"known: {', '.join(sorted(known))}"
    strange = [key for key in content if key not in known]
    return [f"unknown key {key!r} ({near(key, known) or listed})" for key in strange]


def _arms(content: dict[str, Any], whose: str, wrong: list[str]) -> tuple[Arm, ...]:
    """The arms of a file, or of a checkpoint that has its own."""
    arms = []
    for given in _listed(content, "arms", wrong):
        try:
            arms.append(Arm.written(given))
        except UserError as error:
            wrong.append(f"{whose}{error}")
    return tuple(arms)


def _listed(content: dict[str, Any], key: str, wrong: list[str]) -> list[Any]:
    found = content.get(key)
    if not isinstance(found, list) or not found:
        wrong.append(f"{key} must be a list with at least one entry")
        return []
    return found


def _with_begun(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """Each arm, and behind it the same with its answer begun unless that stands there too."""
    there = {arm.effective for arm in arms}
    found = []
    for arm in arms:
        found += [arm] if arm.prefix or arm.begun.effective in there else [arm, arm.begun]
    return tuple(found)


def _checkpoint(given: Any, arms: tuple[Arm, ...], wrong: list[str]) -> Checkpoint:
    if not isinstance(given, dict) or "name" not in given:
        wrong.append(f"checkpoint {given!r} must be a mapping with name and model_args")
        return Checkpoint("?", MODEL, {}, ())
    whose = f"checkpoint {given['name']}: "
    wrong += [whose + said for said in _unknown(given, _CHECKPOINT_KEYS)]
    arguments = given.get("model_args") or {}
    if not isinstance(arguments, dict):
        wrong.append(f"{whose}model_args must be a mapping")
        arguments = {}
    ours = [key for key in ARGUMENTS if key in arguments]
    wrong += [f"{whose}{key} belongs to an arm" for key in ours]
    try:
        model_names.resolve(arguments.get("pretrained"))
    except UserError as error:
        wrong.append(f"{whose}{str(error).rstrip('.')}")
    own = _arms(given, whose, wrong) if "arms" in given else arms
    return Checkpoint(str(given["name"]), str(given.get("model", MODEL)), arguments, own)


def _checked(plan: Plan) -> list[str]:
    """What is wrong with values that have the right shape."""
    wrong = _twice("checkpoints", [safe(one.name) for one in plan.checkpoints])
    for one in plan.checkpoints:
        wrong += _twice("arms", [arm.folder for arm in one.arms])
        wrong += _same(one.arms)
        wrong += [found for arm in one.arms for found in _checked_arm(arm, one)]
        if plan.attention and one.model != "hf-ctx":
            wrong.append(f"attention can be measured of model hf-ctx only, not of {one.name}")
    # An arm of the whole file is wrong once, not once a checkpoint.
    return list(dict.fromkeys(wrong))


def _twice(what: str, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"{what} {', '.join(twice)} stand there twice"] if twice else []


def _same(arms: tuple[Arm, ...]) -> list[str]:
    """Arms of several names that are one: what they do is the same."""
    names: dict[Arm, list[str]] = {}
    for arm in arms:
        names.setdefault(arm.effective, []).append(arm.folder)
    several = (dict.fromkeys(found) for found in names.values())
    return [f"arms {' and '.join(found)} are the same" for found in several if len(found) > 1]


def _checked_arm(arm: Arm, checkpoint: Checkpoint) -> list[str]:
    from ctx_models.arm import read_arm  # pulls torch, which a sweep file with mistakes needs not

    wrong = []
    try:
        # What a model of ours would raise for these arguments, before any model loads.
        read_arm(arm)
    except UserError as error:
        wrong.append(f"arm {arm.folder}: {str(error).rstrip('.')}")
    if arm.model_args and checkpoint.model not in OURS:
        wrong.append(
            f"arm {arm.folder}: only models {' and '.join(sorted(OURS))} know "
            f"{', '.join(arm.model_args)}, not that of {checkpoint.name}"
        )
    return wrong
