"""Measuring several models for `ctx-eval attention`, so that a mistake or a kill costs little.

All arguments, tokenizers and documents are checked before the first model loads; arms of one
checkpoint share one load. What was measured is kept prompt by prompt, in a file named by a hash of
all that decides it: a killed run goes on where it was, and of a longer list of models only the new
ones are measured.
"""

from __future__ import annotations

import base64
import gc
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig

from ctx_models import model_names, nano
from ctx_models.allocation.shares import (
    Allocation,
    NeedleRow,
    Rank,
    Rows,
    allocation_of,
    needle_ranking,
    needle_shares,
    prompt_shares,
)
from ctx_models.arm import ArmSettings, check_tokenizer, read_arm
from ctx_models.checkpoint import source, tokenizer_of
from ctx_models.fingerprint import checkpoint_fingerprint, short_hash
from ctx_models.lm import CtxLM
from ctx_tasks import harness, nano_world
from ctx_tasks.arm import split
from ctx_tasks.errors import UserError
from ctx_tasks.journal import Journal, Line, read
from ctx_tasks.needle import task as needle

# The haystack and needles of the bundled models' world.
NANO = "nano"


@dataclass(frozen=True)
class Job:
    """One model to measure.

    Attributes:
        name: its model arguments as they were typed.
        checkpoint: the arguments that load it.
        arm: how it is steered and marked.
        rows: prompts of the needle test.
        data: what they were made from.
        template: the chat template.
    """

    name: str
    checkpoint: dict[str, Any]
    arm: ArmSettings
    rows: list[NeedleRow]
    data: dict[str, Any]
    template: str

    @cached_property
    def fingerprint(self) -> str:
        """Changes with whatever could change a share."""
        loads = self.checkpoint
        identity = (loads.get(key) for key in ("revision", "peft", "delta"))
        content = {
            "checkpoint": checkpoint_fingerprint(loads["pretrained"], *identity),
            "arguments": loads,
            "arm": [self.arm.steering.record(), self.arm.arm.marks],
            "rows": self.rows,
            "template": self.template,
            "versions": [importlib.metadata.version(n) for n in ("lm-eval-ctx", "transformers")],
        }
        return short_hash(json.dumps(content, sort_keys=True, default=str))


def plan(model_args: Sequence[str], grid: dict[str, Any], device: str | None = None) -> list[Job]:
    """Read and check the models, and make the prompts of each; loads tokenizers only.

    Args:
        model_args: as `--model_args` of `hf-ctx`, one string a model.
        grid: settings of `ctx_tasks.needle.task.nih`, where the haystack may also be `NANO`.

    Raises:
        UserError: whatever can be known to be wrong before a model loads.
    """
    made: dict[str, tuple[list[NeedleRow], dict[str, Any]]] = {}
    return [_job(arguments, grid, device, made) for arguments in model_args]


def require_layer(jobs: Sequence[Job], layer: int | None) -> None:
    """Refuse a layer that a model does not have, before any of them loads.

    Raises:
        UserError: it names the model and its layers.
    """
    for job in jobs if layer is not None else ():
        config = AutoConfig.from_pretrained(job.checkpoint["pretrained"], **source(job.checkpoint))
        count = config.get_text_config().num_hidden_layers
        if layer is not None and layer >= count:
            raise UserError(
                f"--layer {layer} is out of range: {job.name} has {count} layers; give 0 to "
                f"{count - 1}."
            )


def _job(
    arguments: str,
    grid: dict[str, Any],
    device: str | None,
    made: dict[str, tuple[list[NeedleRow], dict[str, Any]]],
) -> Job:
    given, arm = split(harness.read_arguments(arguments))
    settings = read_arm(arm)
    given["pretrained"] = model_names.resolve(given.get("pretrained"))
    if device:
        given["device"] = device
    tokenizer = tokenizer_of(given)
    try:
        check_tokenizer(arm, tokenizer)
    except UserError as error:
        raise UserError(f"{arguments}: {error}") from error
    key = json.dumps(given, sort_keys=True, default=str)
    if key not in made:
        made[key] = _prompts(
            pretrained=given["pretrained"], tokenizer=tokenizer, **source(given), **grid
        )
    name = arguments or f"pretrained={nano.DEFAULT}"
    return Job(name, given, settings, *made[key], str(tokenizer.chat_template))


def _prompts(**settings: Any) -> tuple[list[NeedleRow], dict[str, Any]]:
    used: dict[str, Any] = {}
    build = nano_world.nih if settings.get("haystack") == NANO else needle.nih
    [built] = build(**settings, data_used=used).values()
    return [dict(row) for row in built], used


def run(
    jobs: Sequence[Job], folder: Path, *, by_head: bool = False
) -> list[tuple[Allocation, list[Rank]]]:
    """Measure what `folder` does not hold yet, and return all: shares, and the ranking of heads.

    Args:
        folder: where prompts measured so far are kept.
        by_head: measure attention on the needle too; else every ranking is empty.

    Raises:
        UserError: a model that cannot be loaded or measured.
    """
    found: dict[int, tuple[Allocation, list[Rank]]] = {}
    for group in _by_checkpoint(jobs):
        model = _Model(jobs[group[0]].checkpoint)
        for number in group:
            job = jobs[number]
            shares = _measured(model, job, folder, "shares", prompt_shares)
            one = allocation_of(job.name, job.rows, job.data, shares)
            ranks: list[Rank] = []
            if by_head:
                needles = _measured(model, job, folder, "needle", needle_shares)
                ranks = needle_ranking(job.rows, needles)
            found[number] = one, ranks
        model.unload()
    return [found[number] for number in range(len(jobs))]


def _by_checkpoint(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Numbers of the jobs of each checkpoint, checkpoints in order of their first job."""
    groups: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        key = json.dumps(job.checkpoint, sort_keys=True, default=str)
        groups.setdefault(key, []).append(number)
    yield from groups.values()


class _Model:
    """A checkpoint that is loaded when it is first needed, if it is."""

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        self._checkpoint = checkpoint
        self._lm: CtxLM | None = None

    def arm(self, arm: ArmSettings) -> CtxLM:
        """The model in one arm."""
        if self._lm is None:
            self._lm = CtxLM(**self._checkpoint)
        self._lm.set_arm(arm)
        return self._lm

    def unload(self) -> None:
        """Give the memory back, before another checkpoint takes its own."""
        self._lm = None
        gc.collect()
        torch.cuda.empty_cache()


def _measured(
    model: _Model,
    job: Job,
    folder: Path,
    what: str,
    measure: Callable[[CtxLM, NeedleRow], np.ndarray],
) -> Rows:
    """`measure` of every row, those on disk read and the others appended as they come."""
    path = folder / f"{job.fingerprint}-{what}.jsonl"
    settings = {"fingerprint": job.fingerprint, "measured": what}
    with Journal(path, settings) as journal:
        found = [_array(line) for line in read(path, settings)]
        if len(found) < len(job.rows):
            lm = model.arm(job.arm)
            todo = tqdm(
                job.rows[len(found) :],
                desc=f"{job.name} {what}",
                unit=" prompts",
                initial=len(found),
                total=len(job.rows),
            )
            for row in todo:
                found.append(measure(lm, row))
                journal.add(_line(found[-1]))
    return found


def _line(array: np.ndarray) -> Line:
    """An array bit by bit."""
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": data}


def _array(line: Line) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(line["base64"]), dtype=line["dtype"])
    return data.reshape(line["shape"])
