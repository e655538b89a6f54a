"""What a sweep runs: checkpoints x arms, read from YAML and checked before anything loads.

checkpoints:
  - {name: base, model_args: {pretrained: nano-base}}
  - {name: chat, model_args: {pretrained: nano-chat}}     # model: hf-ctx unless said
arms: [raw, chat, chat+prefix, {alpha: 0.9}, {indicator: "[IND]"}]
tasks: [context_awareness]
metadata: {max_length: 4000}
limit: null
batch_size: 8
device: null
output: sweep
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctx_models import nano
from ctx_models.fingerprint import checkpoint_fingerprint, short_hash
from ctx_tasks.errors import UserError

_KEYS = {"checkpoints", "arms", "tasks", "metadata", "limit", "batch_size", "device", "output"}
_NAMED = {"raw": {"chat": False}, "chat": {}, "chat+prefix": {"prefix": True}}
# The model arguments of hf-ctx that make an arm (`arm.read_arm`); all others load a checkpoint.
ARM_ARGUMENTS = (
    "alpha",
    "schedule",
    "steer_generated",
    "layers",
    "heads",
    "indicator",
    "indicator_turns",
)
_ARM_KEYS = {"name", "chat", "prefix", *ARM_ARGUMENTS}
# The task that begins the answer for the model, of those that have one.
_PREFIXED = {
    "nih_recall": "nih_recall_prefix",
    "context_awareness": "nih_recall_prefix",
    "nano_nih_recall": "nano_nih_recall_prefix",
    "nano_context_awareness": "nano_nih_recall_prefix",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model to load: its name here, the harness's model type and its arguments."""

    name: str
    model: str
    model_args: dict[str, Any]


@dataclass(frozen=True)
class SweepArm:
    """One way to run it; `settings` are hf-ctx's arguments."""

    name: str
    chat: bool
    prefix: bool
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A sweep; attributes as in the file."""

    checkpoints: tuple[Checkpoint, ...]
    arms: tuple[SweepArm, ...]
    tasks: tuple[str, ...]
    metadata: dict[str, Any]
    limit: float | None
    batch_size: int | str
    device: str | None
    output: Path


@dataclass(frozen=True)
class Cell:
    """One checkpoint in one arm, and the folder its results go to."""

    checkpoint: Checkpoint
    arm: SweepArm
    plan: Plan

    @property
    def folder(self) -> Path:
        """Where lm-eval's results file and sample files lie."""
        return self.plan.output / safe(self.checkpoint.name) / safe(self.arm.name)

    @property
    def tasks(self) -> list[str]:
        """Task names; of a prefix arm those that begin the answer."""
        if not self.arm.prefix:
            return list(self.plan.tasks)
        return list(dict.fromkeys(_PREFIXED[t] for t in self.plan.tasks if t in _PREFIXED))

    @property
    def model_args(self) -> dict[str, Any]:
        """What `--model_args` would take."""
        return {**self.checkpoint.model_args, **self.arm.settings}

    @property
    def command(self) -> str:
        """The command line that gives this cell alone."""
        plan = self.plan
        arguments = ",".join(f"{key}={value}" for key, value in self.model_args.items())
        words = ["ctx-eval", "run", "--model", self.checkpoint.model, "--model_args", arguments]
        words += ["--tasks", ",".join(self.tasks), "--batch_size", str(plan.batch_size)]
        words += ["--apply_chat_template"] if self.arm.chat else []
        words += ["--metadata", json.dumps(plan.metadata)] if plan.metadata else []
        words += ["--limit", str(plan.limit)] if plan.limit is not None else []
        words += ["--device", plan.device] if plan.device else []
        return shlex.join([*words, "--log_samples", "--output_path", str(self.folder)])

    @property
    def fingerprint(self) -> str:
        """Changes with whatever could change an answer: weights, arm, tasks, data, versions."""
        arguments = self.checkpoint.model_args
        heads = self.arm.settings.get("heads")
        content = {
            "checkpoint": checkpoint_fingerprint(
                nano.resolve(arguments.get("pretrained")),
                *(arguments.get(key) for key in ("revision", "peft", "delta")),
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
    return [Cell(one, arm, plan) for one in plan.checkpoints for arm in plan.arms]


def safe(name: str) -> str:
    """A name as a folder's: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.\[\]-]+", "-", name.replace("α", "alpha")).strip("-.")


def _plan(content: dict[str, Any], output: Path | None, wrong: list[str]) -> Plan:
    wrong += [
        f"unknown key {k!r} (known: {', '.join(sorted(_KEYS))})" for k in content.keys() - _KEYS
    ]
    tasks = content.get("tasks") or []
    metadata = content.get("metadata") or {}
    if not isinstance(tasks, list) or not tasks:
        wrong.append("tasks must be a list such as [context_awareness]")
        tasks = []
    if not isinstance(metadata, dict):
        wrong.append("metadata must be a mapping")
        metadata = {}
    return Plan(
        tuple(_checkpoint(one, wrong) for one in _listed(content, "checkpoints", wrong)),
        tuple(_arm(one, wrong) for one in _listed(content, "arms", wrong)),
        tuple(str(task) for task in tasks),
        metadata,
        content.get("limit"),
        content.get("batch_size", 1),
        content.get("device"),
        output or Path(str(content.get("output", "sweep"))),
    )


def _listed(content: dict[str, Any], key: str, wrong: list[str]) -> list[Any]:
    found = content.get(key)
    if not isinstance(found, list) or not found:
        wrong.append(f"{key} must be a list with at least one entry")
        return []
    return found


def _checkpoint(given: Any, wrong: list[str]) -> Checkpoint:
    if not isinstance(given, dict) or "name" not in given:
        wrong.append(f"checkpoint {given!r} must be a mapping with name and model_args")
        return Checkpoint("?", "hf-ctx", {})
    unknown = given.keys() - {"name", "model", "model_args"}
    wrong += [f"checkpoint {given['name']}: unknown key {key!r}" for key in unknown]
    arguments = given.get("model_args") or {}
    if not isinstance(arguments, dict):
        wrong.append(f"checkpoint {given['name']}: model_args must be a mapping")
        arguments = {}
    ours = [key for key in ARM_ARGUMENTS if key in arguments]
    wrong += [f"checkpoint {given['name']}: {key} belongs to an arm" for key in ours]
    return Checkpoint(str(given["name"]), str(given.get("model", "hf-ctx")), arguments)


def _arm(given: Any, wrong: list[str]) -> SweepArm:
    if isinstance(given, str) and given in _NAMED:
        settings = dict(_NAMED[given])
        name = given
    elif isinstance(given, dict):
        settings = {key: value for key, value in given.items() if key != "name"}
        name = str(given.get("name") or _arm_name(settings))
    else:
        wrong.append(
            f"arm {given!r} must be {', '.join(_NAMED)} or a mapping such as {{alpha: 0.9}}"
        )
        return SweepArm(str(given), True, False, {})
    wrong += [
        f"arm {name}: unknown key {key!r} (known: {', '.join(sorted(_ARM_KEYS))})"
        for key in settings.keys() - _ARM_KEYS
    ]
    ours = {key: settings[key] for key in ARM_ARGUMENTS if key in settings}
    return SweepArm(name, bool(settings.get("chat", True)), bool(settings.get("prefix")), ours)


def _arm_name(settings: dict[str, Any]) -> str:
    words = ["chat" if settings.get("chat", True) else "raw"]
    words += ["prefix"] if settings.get("prefix") else []
    words += [f"{key}-{settings[key]}" for key in ARM_ARGUMENTS if key in settings]
    return "-".join(words)


def _checked(plan: Plan) -> list[str]:
    """What is wrong with values that have the right shape."""
    wrong = []
    for what, names in (
        ("checkpoints", [safe(one.name) for one in plan.checkpoints]),
        ("arms", [safe(arm.name) for arm in plan.arms]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        wrong += [f"{what} {', '.join(twice)} stand there twice"] if twice else []
    for arm in plan.arms:
        wrong += _checked_arm(arm, plan)
    return wrong


def _checked_arm(arm: SweepArm, plan: Plan) -> list[str]:
    from ctx_models.arm import read_arm  # pulls torch, which a sweep file with mistakes needs not

    wrong = []
    try:
        # What hf-ctx would raise for these arguments, before any model loads.
        read_arm(**arm.settings)
    except UserError as error:
        wrong.append(f"arm {arm.name}: {str(error).rstrip('.')}")
    if arm.prefix and not any(task in _PREFIXED for task in plan.tasks):
        wrong.append(f"arm {arm.name}: none of the tasks begins an answer; add nih_recall")
    others = [one.name for one in plan.checkpoints if one.model != "hf-ctx"]
    if arm.settings and others:
        wrong.append(
            f"arm {arm.name}: only model hf-ctx knows {', '.join(arm.settings)}, not that of "
            f"{', '.join(others)}"
        )
    return wrong
