"""`ctx-eval demo`: the paper's comparison on the bundled models, or on a real one, offline.

A sweep (`ctx_models.sweep`) over the arms of a family: each is what one `ctx-eval run` command
gives, written down in `commands.txt`; a killed demo goes on when the same command is given again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctx_models.demo.families import Family, Setup
from ctx_models.sweep import run as sweep
from ctx_models.sweep.plan import Cell, cells
from ctx_tasks import columns
from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text
from ctx_tasks.plots import nih_heatmap

Samples = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Outcome:
    """What the harness reported for a setup: its results and, by task, its samples."""

    setup: Setup
    results: dict[str, Any]
    samples: Samples

    def task(self, plain: str) -> str | None:
        """What the setup was asked of a task, begun where its answers are; None where nothing."""
        wanted = columns.begun(plain) if self.setup.arm.prefix else plain
        return wanted if wanted in self.samples else None


def run(
    family: Family,
    output: Path,
    metadata: Mapping[str, Any],
    models: Mapping[str, str | Path] | None = None,
) -> list[Outcome]:
    """Evaluate every setup that is not finished, and read the results of all.

    Killed, it goes on where it was: no batch is answered twice.

    Args:
        family: what is compared.
        output: folder for `commands.txt` and, for each checkpoint, a folder with, for each setup, a
            folder in the harness's format and a PNG of its needle test.
        metadata: `family.quick`, `family.full`, or other settings of its tasks.
        models: other folders for some of the checkpoints, by name.

    Raises:
        UserError: the folder cannot be written, or an arm cannot be run.
    """
    given = models or {}
    missing = [str(folder) for folder in given.values() if not Path(folder).is_dir()]
    if missing:
        raise UserError(f"The demo's models are not all there: {', '.join(missing)}.")
    plan = family.plan(output, metadata, given)
    planned = cells(plan)
    write_text(output / "commands.txt", "".join(f"{cell.command}\n" for cell in planned))
    with _threads(family.threads):
        failed = sweep.run(plan)
    if failed:
        first = next(f"{name}: {error}" for name, error in failed.items())
        raise UserError(
            f"{len(failed)} of the demo's {len(planned)} arms failed, which the same command runs "
            f"again; the first: {first}"
        )
    found = [_outcome(setup, cell) for setup, cell in zip(family.setups, planned, strict=True)]
    for one in found:
        _heatmap(family, one, output)
    return found


def _outcome(setup: Setup, cell: Cell) -> Outcome:
    """What a finished cell's files hold."""
    [path] = cell.folder.glob("results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    samples: Samples = {}
    for task in results["configs"]:
        [file] = cell.folder.glob(f"samples_{task}_2*.jsonl")
        with file.open(encoding="utf-8") as lines:
            samples[task] = [json.loads(line) for line in lines]
    return Outcome(setup, results, samples)


def _heatmap(family: Family, one: Outcome, output: Path) -> None:
    needle = one.task(columns.NEEDLE.named(family.kind))
    assert needle is not None
    title = f"{one.setup.checkpoint}: {one.setup.arm.name}"
    nih_heatmap(one.samples[needle], output / f"{one.setup.folder}.png", title)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
