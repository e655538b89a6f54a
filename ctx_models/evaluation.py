"""One evaluation of a loaded model, written in the harness's own format, whole or not at all.

What `ctx-eval demo` and `ctx-eval sweep` share: several arms run on one loaded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from ctx_models import logs
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from ctx_tasks.files import whole_folder


def evaluate(
    model: Any,
    folder: Path,
    *,
    model_name: str,
    model_args: Mapping[str, Any],
    tasks: Sequence[str],
    manager: TaskManager,
    chat: bool,
    log: Path,
    config: Mapping[str, Any] | None = None,
    finish: Callable[[Path, Mapping[str, Any]], object] = lambda folder, results: None,
    **settings: Any,
) -> dict[str, Any] | None:
    """Evaluate and replace `folder` by the harness's results file and its sample files.

    Args:
        model: a loaded harness model.
        model_name, model_args: what the command line would be given.
        chat: with the chat template.
        log: a file that comes into the folder with the results (see `ctx_models.logs`).
        config: entries added to the results' `config`.
        finish: told where the files are, before they stand in `folder`, and the results with their
            samples; what it adds goes along.
        settings: further arguments of `simple_evaluate` (batch_size, device, limit, ...).

    Returns:
        The results with their `samples`; None on all processes but the first.

    Raises:
        UserError: the files cannot be written.
    """
    # Where it writes is known when there is something to write.
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model=model,
        model_args=dict(model_args),
        tasks=list(tasks),
        task_manager=manager,
        apply_chat_template=chat,
        evaluation_tracker=tracker,
        **settings,
    )
    if results is None:
        return None
    harness.name_model(tracker, results, model_name)
    results["config"].update(config or {})
    with whole_folder(folder) as staged:
        _save(tracker, dict(results), staged)
        finish(staged, results)
        logs.keep(log, staged)
    return dict(results)


def documents(manager: TaskManager, tasks: Sequence[str], limit: float | None = None) -> int:
    """How many documents tasks and groups of these names evaluate; loads their data.

    Raises:
        UserError: data that cannot be loaded, as the run itself would raise it.
    """
    counts = [len(task.eval_docs) for task in manager.load(list(tasks))["tasks"].values()]
    if limit is None:
        return sum(counts)
    # As in the harness: a share of the documents below 1, else a number.
    return sum(min(n, int(limit * n) if limit < 1 else int(limit)) for n in counts)


def _save(tracker: EvaluationTracker, results: dict[str, Any], folder: Path) -> None:
    tracker.output_path = str(folder / "results.json")
    samples = results["samples"]
    whole = {key: value for key, value in results.items() if key != "samples"}
    tracker.save_results_aggregated(results=whole, samples=samples)
    for task, rows in samples.items():
        # The tracker rewrites the samples it is given.
        tracker.save_results_samples(task_name=task, samples=[dict(one) for one in rows])
    # It logs an error where it cannot write, and goes on.
    if len(list(folder.glob("*.json*"))) != 1 + len(samples):
        raise UserError(f"The results could not be written to {folder}; is the disk full?")
