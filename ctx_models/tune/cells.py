"""One checkpoint whose arms are measured one after the other, loaded when it is first needed.

A measurement is a cell of a sweep with documents of its own: a folder that is there whole or not
at all, and is not run again while its fingerprint fits. So a killed command goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from lm_eval.tasks import TaskManager

from ctx_models import logs
from ctx_models.arm import read_arm
from ctx_models.lm import CtxLM
from ctx_models.progress import Progress
from ctx_models.sweep.plan import Cell
from ctx_models.sweep.run import finished, load, run_cell, task_manager, title
from ctx_models.tune.plan import Documents, Tuning
from ctx_models.tune.rating import Rater
from ctx_tasks.arm import Arm
from ctx_tasks.columns import TURNS
from ctx_tasks.errors import UserError
from ctx_tasks.results import TaskResult, read_runs, read_samples
from ctx_tasks.tune.choice import Measured

# What choosing measured; behind a dot, so that the leaderboard shows the reporting half alone.
_CHOOSING = ".choosing"


class Bench:
    """A checkpoint on which arms are measured.

    Args:
        bar: of all documents.
        rater: of the answers to MT-Bench, if they have a price.
    """

    def __init__(self, tuning: Tuning, bar: Progress, rater: Rater | None) -> None:
        self._tuning = tuning
        self._bar = bar
        self._rater = rater
        self._said = ""

    def choosing(self, arm: Arm, begin: float, end: float) -> dict[str, Measured]:
        """Scores on the documents between two shares of the choosing half, by task.

        Raises:
            UserError: a task without a score per document.
        """
        folder = self._tuning.plan.output / _CHOOSING / f"{begin:g}-{end:g}"
        return self._measure(arm, self._tuning.choosing(begin, end), folder)

    def reporting(self, arm: Arm) -> dict[str, Measured]:
        """Scores on the other half, whose files are the results of the command; as `choosing`."""
        return self._measure(arm, self._tuning.reporting, self._tuning.plan.output)

    def folder(self, arm: Arm) -> Path:
        """Where the results of the other half are."""
        return self._cell(arm, self._tuning.reporting, self._tuning.plan.output).folder

    @cached_property
    def model(self) -> CtxLM:
        """The model; loading it checks that it takes every candidate.

        Raises:
            UserError: it cannot be loaded, or cannot be steered.
        """
        tuning = self._tuning
        self._bar.title(f"loading {tuning.checkpoint.name}")
        with TemporaryDirectory() as temporary:
            log = Path(temporary) / logs.NAME
            with logs.recorded(log, self._bar.say):
                model = load(tuning.checkpoint, tuning.plan)
                _require_arms(model, tuning)
            self._said = log.read_text(encoding="utf-8")
        self._bar.title("")
        assert isinstance(model, CtxLM)
        return model

    @cached_property
    def _manager(self) -> TaskManager:
        return task_manager(self._tuning.checkpoint, self._tuning.plan)

    def _cell(self, arm: Arm, documents: Documents, output: Path) -> Cell:
        tasks = tuple(documents)
        plan = replace(self._tuning.plan, output=output, tasks=tasks)
        return Cell(self._tuning.checkpoint, arm, plan, documents)

    def _measure(self, arm: Arm, documents: Documents, output: Path) -> dict[str, Measured]:
        if not documents:
            # Few clusters: none between two shares of them.
            return {}
        cell = self._cell(arm, documents, output)
        self._answer(cell, sum(map(len, documents.values())))
        if TURNS.keys() & documents.keys():
            self._rate(cell)
        return read(cell.folder, self._tuning.clusters)

    def _answer(self, cell: Cell, documents: int) -> None:
        """Run a cell, unless it is finished."""
        if finished(cell) is not None:
            self._bar.skip(documents)
            return
        model = self.model
        with (
            self._bar.evaluation(title(cell), documents),
            logs.cell_log(cell.folder, self._bar.say, self._said) as log,
        ):
            run_cell(model, cell, self._manager, log)

    def _rate(self, cell: Cell) -> None:
        """Have the judge rate a cell's answers to MT-Bench."""
        assert self._rater is not None
        self._bar.title(f"judging {title(cell)}")
        with logs.recorded(say=self._bar.say):
            self._rater.rate(cell.folder)
        self._bar.title("")


def _require_arms(model: CtxLM, tuning: Tuning) -> None:
    for arm in tuning.candidates:
        try:
            model.set_arm(read_arm(arm))
        except UserError as error:
            without = " Without steering: --alphas none." if arm.alpha != 1 else ""
            raise UserError(
                f"{tuning.checkpoint.name} cannot be run as {arm.name}: {error}{without}"
            ) from error


def read(folder: Path, clusters: Mapping[str, Mapping[str, str]]) -> dict[str, Measured]:
    """Scores of a cell by task, with the clusters that all documents of the task have.

    Raises:
        UserError: a task without a score per document.
    """
    results = [one for run in read_runs([folder]) for one in run.tasks.items()]
    return {name: _measured(result, clusters[name]) for name, result in results}


def _measured(result: TaskResult, clusters: Mapping[str, str]) -> Measured:
    samples = read_samples(result)
    if np.isnan(samples.scores[result.primary]).all():
        raise UserError(
            f"{result.task} has no {result.primary} per document, so that neither a gain nor a "
            "loss can be told on half of them; tune on other tasks."
        )
    # Which documents belong together is a matter of all of them, not of those in one cell.
    names = [clusters[doc_hash.partition("#")[0]] for doc_hash in samples.doc_hashes]
    higher = result.metrics[result.primary].higher_is_better
    return Measured(replace(samples, clusters=names), result.primary, higher)
