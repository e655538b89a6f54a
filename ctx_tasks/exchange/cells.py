"""The cells of a leaderboard that are exported: one checkpoint, arm and task, and its errors."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ctx_tasks.answers import NAMES
from ctx_tasks.arm import safe
from ctx_tasks.errors import UserError
from ctx_tasks.results import Run, Samples, TaskResult, read_samples
from ctx_tasks.rows import is_hub_name
from ctx_tasks.statistics import Estimate, estimate_samples

# The owner of models that are no repository of the hub.
LOCAL = "local"


@dataclass(frozen=True)
class Cell:
    """One task of one run.

    Attributes:
        model: its name on the hub, OWNER/NAME, as asked or as it was loaded; else local/NAME.
    """

    run: Run
    result: TaskResult
    model: str

    @cached_property
    def samples(self) -> Samples | None:
        """Its documents' scores; None where they were not logged."""
        return read_samples(self.result) if self.result.logged else None

    def estimate(self, metric: str) -> Estimate | None:
        """A metric's error over clusters; None where it has no score per document."""
        scores = None if self.samples is None else self.samples.scores.get(metric)
        # Of what became of the requests a result has the share, a document the count.
        if self.samples is None or scores is None or metric in NAMES or np.isnan(scores).all():
            return None
        return estimate_samples(self.samples, metric)


def cells(runs: Iterable[Run], names: Mapping[str, str]) -> Iterator[Cell]:
    """All cells whose primary metric has a value.

    Args:
        names: checkpoints' names on the hub, as asked.

    Raises:
        UserError: a name of a checkpoint that there is not, or that is not OWNER/NAME.
    """
    runs = list(runs)
    _refuse_unused(names, {run.checkpoint for run in runs})
    for run in runs:
        for result in run.standing.values():
            if math.isfinite(result.metrics[result.primary].value):
                yield Cell(run, result, names.get(run.checkpoint) or _model(run))


def by_name(given: Iterable[str], option: str, example: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary.

    Raises:
        UserError: one without a name or a value.
    """
    pairs = {text: text.rpartition("=") for text in given}
    for text, (name, _, value) in pairs.items():
        if not (name and value):
            raise UserError(f"{option} {text!r} must be NAME=VALUE, such as {option} {example}.")
    return {name: value for name, _, value in pairs.values()}


def version(package: str) -> str:
    """Of an installed package."""
    return importlib.metadata.version(package)


def _refuse_unused(names: Mapping[str, str], checkpoints: set[str]) -> None:
    for checkpoint, name in names.items():
        if checkpoint not in checkpoints:
            raise UserError(
                f"--model-id {checkpoint}={name}: there is no checkpoint {checkpoint}; the results "
                f"have {', '.join(sorted(checkpoints))}."
            )
        if name.count("/") != 1 or not all(map(_is_part, name.split("/"))):
            raise UserError(
                f"--model-id {checkpoint}={name}: {name} is no name of a model on the hub; write "
                "OWNER/NAME in letters, digits, dots and dashes."
            )


def _is_part(name: str) -> bool:
    return safe(name) == name != ""


def _model(run: Run) -> str:
    """The repository that holds the weights, or the checkpoint's name as a folder's."""
    loaded = json.loads(run.identity)
    source: Any = next((loaded[key] for key in _SOURCES if loaded.get(key)), run.checkpoint)
    return str(source) if is_hub_name(str(source)) else f"{LOCAL}/{safe(run.checkpoint) or 'model'}"


# What names the weights, an adapter before what it adapts.
_SOURCES = ("peft", "delta", "pretrained", "model")
