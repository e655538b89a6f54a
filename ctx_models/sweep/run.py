"""`ctx-eval sweep`: every cell of a plan, one model load per checkpoint, resumable at any moment.

A finished cell is a folder with lm-eval's own files, a `cell.json` (fingerprint, command, hashes of
the files) and a `log.txt` (all that was said); it appears under its name at once, whole. A cell
that failed has the log alone, which ends with the traceback. A cell whose fingerprint or files do
not fit is run again. Arms of one checkpoint share tokenizer, tasks and metadata, hence documents.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from ctx_models import logs, nano
from ctx_models.arm import read_arm
from ctx_models.commands.entry import first_line
from ctx_models.evaluation import evaluate
from ctx_models.lm import CtxLM
from ctx_models.registry import MODEL
from ctx_models.sweep.plan import Cell, Checkpoint, Plan, cells
from ctx_tasks import harness
from ctx_tasks.errors import UserError

_RECORD = "cell.json"


def finished(cell: Cell) -> dict[str, Any] | None:
    """The record of a cell that is complete and was run with these very settings; else None."""
    try:
        record = json.loads((cell.folder / _RECORD).read_text(encoding="utf-8"))
        whole = all(_hash(cell.folder / n) == digest for n, digest in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    found: dict[str, Any] = record
    return found if whole and record.get("fingerprint") == cell.fingerprint else None


def documents(cell: Cell) -> int:
    """How many documents a cell evaluates; loads the tasks' data, no model.

    Raises:
        UserError: data that cannot be loaded, as the run itself would raise it.
    """
    with logs.recorded(None, lambda _: None):
        loaded = _tasks(cell.checkpoint, cell.plan).load(list(cell.tasks))["tasks"]
    counts = [len(task.eval_docs) for task in loaded.values()]
    limit = cell.plan.limit
    if limit is None:
        return sum(counts)
    # As in the harness: a share of the documents below 1, else a number.
    return sum(min(n, int(limit * n) if limit < 1 else int(limit)) for n in counts)


def run(plan: Plan) -> dict[str, str]:
    """Run what is not finished; a failing cell does not stop the others.

    Returns:
        One sentence of what went wrong, by cell ("checkpoint, arm"); empty if all is well.
    """
    planned = cells(plan)
    todo = [cell for cell in planned if finished(cell) is None]
    failed: dict[str, str] = {}
    with logs.progress(len(planned), " cells") as (bar, say):
        bar.update(len(planned) - len(todo))
        for checkpoint, group in groupby(todo, key=lambda cell: cell.checkpoint):
            for cell, error in _checkpoint(checkpoint, list(group), bar, say):
                bar.update()
                if error is not None:
                    failed[title(cell)] = error
                    say(f"{title(cell)}: {error}")
    return failed


def title(cell: Cell) -> str:
    """ "checkpoint, arm"."""
    return f"{cell.checkpoint.name}, {cell.arm.name}"


def _checkpoint(
    checkpoint: Checkpoint, todo: Sequence[Cell], bar: tqdm[Any], say: logs.Say
) -> Iterator[tuple[Cell, str | None]]:
    """Each cell of one checkpoint, loaded once, and what went wrong with it."""
    bar.set_description(f"loading {checkpoint.name}")
    plan = todo[0].plan
    with TemporaryDirectory() as temporary:
        loading = Path(temporary) / logs.NAME
        try:
            with logs.recorded(loading, say):
                model = _load(checkpoint, plan)
                manager = _tasks(checkpoint, plan)
        except Exception as error:
            yield from ((cell, _lost(cell, error, loading)) for cell in todo)
            return
        said = loading.read_text(encoding="utf-8")
    for cell in todo:
        bar.set_description(title(cell))
        try:
            with logs.cell_log(cell.folder, say, said) as log:
                _run(model, cell, manager, log)
            yield cell, None
        except Exception as error:
            yield cell, _told(cell, error)
    del model
    gc.collect()
    torch.cuda.empty_cache()


def _lost(cell: Cell, error: Exception, loading: Path) -> str:
    """Keep what was said for a cell whose model did not load; the error in one line."""
    if logs.RANK == 0:
        cell.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(loading, cell.folder / logs.NAME)
    return _told(cell, error)


def _told(cell: Cell, error: Exception) -> str:
    return f"{first_line(error)} ({cell.folder / logs.NAME})"


def _load(checkpoint: Checkpoint, plan: Plan) -> Any:
    execution = {"batch_size": plan.batch_size, "device": plan.device}
    return get_model(checkpoint.model).create_from_arg_obj(
        dict(checkpoint.model_args), {k: v for k, v in execution.items() if v is not None}
    )


def _tasks(checkpoint: Checkpoint, plan: Plan) -> TaskManager:
    arguments = dict(checkpoint.model_args)
    if checkpoint.model == MODEL:
        arguments["pretrained"] = nano.resolve(arguments.get("pretrained"))
    return harness.task_manager(plan.tasks, {**arguments, **plan.metadata})


def _run(model: Any, cell: Cell, manager: TaskManager, log: Path) -> None:
    if isinstance(model, CtxLM):
        model.set_arm(read_arm(**cell.arm.settings))
    start = time.monotonic()
    staged = cell.folder.with_name(f".{cell.folder.name}.whole")
    results = evaluate(
        model,
        staged,
        model_name=cell.checkpoint.model,
        model_args=cell.model_args,
        tasks=cell.tasks,
        manager=manager,
        chat=cell.arm.chat,
        log=log,
        config={"checkpoint": cell.checkpoint.name},
        batch_size=cell.plan.batch_size,
        limit=cell.plan.limit,
    )
    if results is not None:
        _finish(cell, staged, time.monotonic() - start)


def _finish(cell: Cell, staged: Path, seconds: float) -> None:
    record = {
        "fingerprint": cell.fingerprint,
        "command": cell.command,
        "seconds": round(seconds, 1),
        "files": {path.name: _hash(path) for path in sorted(staged.glob("*.json*"))},
    }
    (staged / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if cell.folder.exists():
        _remove(cell.folder)
    os.replace(staged, cell.folder)


def _remove(folder: Path) -> None:
    """Only what a cell consists of: a user's own file there is not ours to delete."""
    for path in folder.iterdir():
        ours = path.name in (_RECORD, logs.NAME)
        if ours or path.name.startswith(("results_", "samples_")):
            path.unlink()
    try:
        folder.rmdir()
    except OSError as error:
        raise UserError(f"{folder} holds files of others; name another output folder.") from error


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
