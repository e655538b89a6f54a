"""Where our task files are, and a line about each."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TaskFile:
    """One task or group: its name, the first comment line of its YAML, and the file."""

    name: str
    summary: str
    path: Path


def task_folder() -> Path:
    """The folder of our YAML files: beside this package in a checkout, else inside lm_eval."""
    checkout = Path(__file__).parent.parent / "task_configs"
    if checkout.is_dir():
        return checkout
    harness = importlib.util.find_spec("lm_eval")
    assert harness is not None
    assert harness.origin is not None
    return Path(harness.origin).parent / "tasks" / "context_awareness"


def tasks() -> list[TaskFile]:
    """All our tasks and groups, by name."""
    return sorted((_read(path) for path in task_folder().rglob("*.yaml")), key=lambda t: t.name)


def _read(path: Path) -> TaskFile:
    """Name and summary without running the YAML's `!function` tags."""
    text = path.read_text(encoding="utf-8")
    name = re.search(r"^(?:task|group):\s*(\S+)", text, re.MULTILINE)
    summary = re.search(r"^#\s*(.+)", text)
    assert name is not None, f"{path} names neither a task nor a group"
    return TaskFile(name[1], summary[1] if summary else "", path)
