"""`ctx-eval sweep`: every cell of a plan, one model load per checkpoint, resumable at any moment.

A finished cell is a folder with lm-eval's own files, a `cell.json` (fingerprint, command, hashes of
the files) and a `log.txt` (all that was said); it appears under its name at once, whole. With
`attention: true` it also has where answers looked, and a finished one without is run again. A cell
that failed has the log alone, which ends with the traceback. A cell whose fingerprint or files do
not fit is run again; what an unfinished one has answered is kept beside it (`ctx_models.kept`).
Arms of one checkpoint share tokenizer, tasks and metadata, hence documents.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from ctx_models import evaluation, logs, model_names, progress
from ctx_models.allocation.looks import looks, require_measurable
from ctx_models.arm import check_tokenizer, read_arm
from ctx_models.armed import ArmedLM
from ctx_models.checkpoint import tokenizer_of
from ctx_models.commands.entry import first_line
from ctx_models.kept import kept_in
from ctx_models.launched import end_when_alone, say_when_ended
from ctx_models.progress import Progress
from ctx_models.registry import ON_VLLM, OURS
from ctx_models.sweep.plan import Cell, Checkpoint, Plan, cells
from ctx_tasks import harness
from ctx_tasks.errors import UserError, near
from ctx_tasks.files import require_writable, sha256
from ctx_tasks.looks import write as write_looks
from ctx_tasks.result_files import attention_file, results_files, samples_file

_RECORD = "cell.json"
_LOOKS = "attention_"
_UNBEGUN = "none of the tasks begins an answer; add nih_recall"


def finished(cell: Cell) -> dict[str, Any] | None:
    """The record of a cell that is complete and was run with these very settings; else None.

    Where answers looked changes none of them: a cell may have it though it is not asked for.
    """
    try:
        record = json.loads((cell.folder / _RECORD).read_text(encoding="utf-8"))
        whole = all(sha256(cell.folder / n) == digest for n, digest in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    found: dict[str, Any] = record
    looked = any(name.startswith(_LOOKS) for name in record["files"])
    whole = whole and (looked or not cell.plan.attention)
    return found if whole and record.get("fingerprint") == cell.fingerprint else None


def check(plan: Plan) -> None:
    """Refuse what can be known to be wrong before anything runs, though the file can be read.

    Raises:
        UserError: a task that neither we nor the harness have, or an arm that the tasks or a
            checkpoint's tokenizer cannot take (no begun answer, an indicator that is not one
            token, a chat without template); all of them at once.
    """
    with logs.recorded():
        manager = task_manager(plan.checkpoints[0], plan)
    known = set(manager.all_tasks)
    wrong = [unknown(task, known) for task in plan.tasks if task not in known]
    # A misspelt task says nothing about what begins an answer.
    wrong = wrong or [f"{title(cell)}: {_UNBEGUN}" for cell in cells(plan) if not cell.tasks]
    for checkpoint in plan.checkpoints:
        wrong += _refused(checkpoint)
    if wrong:
        raise UserError(f"The sweep cannot be run: {'; '.join(wrong)}.")


def unknown(task: str, known: Set[str]) -> str:
    """What is said of a task that is not known."""
    return f"there is no task {task!r} ({near(task, known) or '`ctx-eval ls` lists ours'})"


def _refused(checkpoint: Checkpoint) -> list[str]:
    """The arms that a checkpoint's tokenizer cannot take, each in a sentence."""
    if checkpoint.model not in OURS:
        return []
    try:
        tokenizer = tokenizer_of(checkpoint.model_args)
    except UserError:
        # A checkpoint that does not load leaves the others alone; its cells say why.
        return []
    wrong = []
    for arm in checkpoint.arms:
        try:
            check_tokenizer(arm, tokenizer)
        except UserError as error:
            wrong.append(f"{checkpoint.name} in arm {arm.folder}: {str(error).rstrip('.')}")
    return wrong


def documents(cell: Cell) -> int:
    """How many documents a cell evaluates; loads the tasks' data, no model.

    Raises:
        UserError: data that cannot be loaded, as the run itself would raise it.
    """
    with logs.recorded():
        return evaluation.documents(
            task_manager(cell.checkpoint, cell.plan), cell.tasks, cell.plan.limit
        )


def run(plan: Plan) -> dict[str, str]:
    """Run what is not finished; a failing cell does not stop the others.

    Returns:
        One sentence of what went wrong, by cell (see `title`); empty if all is well.
    """
    require_writable(plan.output / _RECORD)
    say_when_ended("ctx-eval")
    planned = cells(plan)
    todo = [cell for cell in planned if finished(cell) is None]
    sizes = _sizes(todo)
    failed: dict[str, str] = {}
    with progress.shown(sum(sizes.get(cell.folder, 0) for cell in todo)) as bar:
        for checkpoint, group in groupby(todo, key=lambda cell: cell.checkpoint):
            for cell, error in _checkpoint(checkpoint, list(group), sizes, bar):
                if error is not None:
                    failed[title(cell)] = error
                    bar.say(f"{title(cell)}: {error}")
    return failed


def _sizes(todo: Sequence[Cell]) -> dict[Path, int]:
    """How many documents cells have, by folder; cells of the same tasks have the same."""
    counts: dict[tuple[str, ...], int] = {}
    for cell in todo:
        tasks = tuple(cell.tasks)
        # What cannot be loaded fails as a cell, with its log.
        with suppress(Exception):
            counts[tasks] = counts.get(tasks) or documents(cell)
    return {cell.folder: counts.get(tuple(cell.tasks), 0) for cell in todo}


def title(cell: Cell) -> str:
    """ "checkpoint: arm"."""
    return f"{cell.checkpoint.name}: {cell.arm.label or cell.arm.name}"


def _checkpoint(
    checkpoint: Checkpoint, todo: Sequence[Cell], sizes: Mapping[Path, int], bar: Progress
) -> Iterator[tuple[Cell, str | None]]:
    """Each cell of one checkpoint, loaded once, and what went wrong with it."""
    bar.title(f"loading {checkpoint.name}")
    plan = todo[0].plan
    with TemporaryDirectory() as temporary:
        loading = Path(temporary) / logs.NAME
        try:
            with logs.recorded(loading, bar.say):
                model = load(checkpoint, plan)
                manager = task_manager(checkpoint, plan)
        except Exception as error:
            yield from ((cell, _lost(cell, error, loading)) for cell in todo)
            return
        said = loading.read_text(encoding="utf-8")
    bar.title("")
    for cell in todo:
        told = None
        try:
            with (
                bar.evaluation(title(cell), sizes[cell.folder]),
                logs.cell_log(cell.folder, bar.say, said) as log,
                end_when_alone("ctx-eval"),
            ):
                run_cell(model, cell, manager, log)
        except Exception as error:
            told = _told(cell, error)
        # The error is gone, and with it what its frames held: the next cell may need the memory.
        _free()
        yield cell, told
    del model
    _free()


def _free() -> None:
    """Give memory back that nothing holds."""
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


def load(checkpoint: Checkpoint, plan: Plan) -> Any:
    """The harness model of a checkpoint, in no arm."""
    execution = {"batch_size": plan.batch_size, "device": plan.device}
    arguments = dict(checkpoint.model_args)
    if checkpoint.model == ON_VLLM:
        # One engine for all arms: it cannot be widened when it runs.
        steered = any(read_arm(arm).steering.active for arm in checkpoint.arms)
        arguments.setdefault("steerable", steered)
    return get_model(checkpoint.model).create_from_arg_obj(
        arguments, {k: v for k, v in execution.items() if v is not None}
    )


def task_manager(checkpoint: Checkpoint, plan: Plan) -> TaskManager:
    """The tasks of a plan as a checkpoint is asked them."""
    arguments = dict(checkpoint.model_args)
    if checkpoint.model in OURS:
        arguments["pretrained"] = model_names.resolve(arguments.get("pretrained"))
    include = [] if plan.include_path is None else [plan.include_path]
    return harness.task_manager(plan.tasks, {**arguments, **plan.metadata}, include)


def run_cell(model: Any, cell: Cell, manager: TaskManager, log: Path) -> None:
    """Evaluate one cell of a loaded model and write its folder."""
    if isinstance(model, ArmedLM):
        model.set_arm(read_arm(cell.arm))
        if cell.plan.attention:
            require_measurable(model)
            model.keeps_messages = True
    start = time.monotonic()
    answers = cell.folder.with_name(f".{cell.folder.name}.answers")
    with kept_in(answers, {"cell": cell.fingerprint}):
        evaluation.evaluate(
            model,
            cell.folder,
            model_name=cell.checkpoint.model,
            model_args=cell.model_args,
            tasks=cell.tasks,
            manager=manager,
            chat=cell.arm.chat,
            log=log,
            config={"checkpoint": cell.checkpoint.name},
            finish=lambda folder, results: _finish(cell, folder, model, results, start),
            batch_size=cell.plan.batch_size,
            limit=cell.plan.limit,
            samples=None
            if cell.documents is None
            else {task: list(indices) for task, indices in cell.documents.items()},
        )


def _finish(cell: Cell, staged: Path, model: Any, results: Mapping[str, Any], start: float) -> None:
    """Add looks and record; what it replaces may hold nothing but what a cell consists of."""
    if any(not _is_ours(path.name) for path in cell.folder.glob("*")):
        raise UserError(f"{cell.folder} holds files of others; name another output folder.")
    if cell.plan.attention:
        _write_looks(model, staged, results)
    record = {
        "fingerprint": cell.fingerprint,
        "command": cell.command,
        "seconds": round(time.monotonic() - start, 1),
        "files": {path.name: sha256(path) for path in sorted(staged.iterdir())},
    }
    (staged / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write_looks(lm: Any, staged: Path, results: Mapping[str, Any]) -> None:
    """Where the answers to each task looked, beside its samples."""
    [written] = results_files(staged)
    for task, samples in results["samples"].items():
        begun = results["configs"][task].get("gen_prefix")
        path = attention_file(samples_file(written, task), task)
        write_looks(path, looks(lm, samples, begun))


def _is_ours(name: str) -> bool:
    return name in (_RECORD, logs.NAME) or name.startswith(("results_", "samples_", _LOOKS))
