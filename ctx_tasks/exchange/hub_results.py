"""Results as the hub reads them from a model's repository: YAML below `.eval_results/`.

Source: huggingface.co/docs/hub/eval-results and `eval_results.yaml` of huggingface/hub-docs
(`huggingface_hub` reads and writes it). A file holds one score of one benchmark, a data set of the
hub with a task in it; the setup stands in `notes`. As several scores of a benchmark are told apart
by file and notes, each arm has a file of its own. Values are in the metric's own scale: whether a
benchmark wants 0.41 or 41 is the benchmark's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from ctx_tasks.arm import safe
from ctx_tasks.errors import UserError
from ctx_tasks.exchange.cells import Cell, version
from ctx_tasks.exchange.every_eval_ever import new_folder
from ctx_tasks.exchange.instances import WRITER
from ctx_tasks.rows import is_hub_name
from ctx_tasks.tables import sizes


@dataclass(frozen=True)
class Benchmark:
    """A leaderboard of the hub: a data set, and the id of a task in its `eval.yaml`."""

    dataset: str
    task: str


def benchmarks(given: Mapping[str, str]) -> dict[str, Benchmark]:
    """Benchmarks by task, from OWNER/NAME:TASK_ID.

    Raises:
        UserError: another value.
    """
    found = {}
    for task, text in given.items():
        named = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*):(\S+)", text)
        if named is None:
            raise UserError(
                f"--benchmark {task}={text} names no benchmark; write TASK=OWNER/DATASET:TASK_ID, "
                "the id as the data set's eval.yaml has it."
            )
        found[task] = Benchmark(*named.groups())
    return found


def write(
    cells: Sequence[Cell], folder: Path, named: Mapping[str, Benchmark], source: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write OWNER/NAME/.eval_results/TASK-ARM.yaml for every cell of a benchmark.

    Args:
        named: benchmarks by task; else it is the data set that the task was loaded from.
        source: link to what shows how the scores came about.

    Returns:
        The files, and the tasks left out because they are of no data set of the hub.

    Raises:
        UserError: a benchmark of a task that there is not, no file to write, or a folder that is
            not empty or cannot be written.
    """
    tasks = list(dict.fromkeys(cell.result.task for cell in cells))
    for task in named.keys() - {*tasks}:
        raise UserError(
            f"--benchmark {task}: there is no task {task}; the results have {', '.join(tasks)}."
        )
    known = [(cell, found) for cell in cells if (found := _benchmark(cell, named)) is not None]
    left = [task for task in tasks if task not in {cell.result.task for cell, _ in known}]
    if not known:
        raise UserError(
            f"The hub shows scores of its benchmarks alone, and {', '.join(left)} come from no "
            "data set of it; name one with --benchmark TASK=OWNER/DATASET:TASK_ID."
        )
    with new_folder(folder) as partial:
        written = [_write(cell, benchmark, partial, source) for cell, benchmark in known]
    return [folder / path.relative_to(partial) for path in written], left


def _benchmark(cell: Cell, named: Mapping[str, Benchmark]) -> Benchmark | None:
    task, path = cell.result.task, str(cell.result.settings["data"].get("dataset_path") or "")
    return named.get(task) or (Benchmark(path, task) if is_hub_name(path) else None)


def _write(cell: Cell, benchmark: Benchmark, root: Path, source: str | None) -> Path:
    arm = cell.run.arm.folder
    path = root / cell.model / ".eval_results" / f"{safe(cell.result.task)}-{arm}.yaml"
    if path.exists():
        raise UserError(
            f"Two checkpoints are {cell.model} run as {cell.run.arm.name}; name each with "
            f"--model-id, such as --model-id {cell.run.checkpoint}=OWNER/NAME."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [_entry(cell, benchmark, source)]
    path.write_text(
        yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100),
        encoding="utf-8",
        errors="replace",
    )
    return path


def _entry(cell: Cell, benchmark: Benchmark, source: str | None) -> dict[str, Any]:
    date = datetime.fromtimestamp(cell.run.date, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "dataset": {"id": benchmark.dataset, "task_id": benchmark.task},
        "value": cell.result.metrics[cell.result.primary].value,
        **({"date": date} if cell.run.date else {}),
        **({"source": {"url": source, "name": WRITER}} if source else {}),
        "notes": _notes(cell),
    }


def _notes(cell: Cell) -> str:
    """How it was run, and how far the score holds."""
    result = cell.result
    found = cell.estimate(result.primary)
    error = result.metrics[result.primary].error
    spread = [] if error is None else [f"standard error {error:.4f} (lm_eval's), n = {result.n}"]
    if found is not None:
        size = sizes([(found.n, found.clusters)])
        interval = f"95 % [{found.low:.4f}, {found.high:.4f}]"
        spread = [f"standard error {found.error:.4f} over clusters, {interval}, {size}"]
    by = f"lm-eval {cell.run.harness}, {WRITER} {version(WRITER)}"
    told = f"{result.primary} of {result.task}, {cell.run.arm.name}"
    return "; ".join([told, *spread, by])
