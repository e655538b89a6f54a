"""What `ctx-eval tune` will do with a checkpoint: candidates, halves, rounds; nothing has run.

Candidates are arms with the chat template: alphas x schedules x sets of heads, `[IND]` where the
tokenizer has it, and sentences. What they are held against is none of them. The answers of the
context tasks are begun unless told otherwise; tasks with a price are asked as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from lm_eval.tasks import TaskManager

from ctx_models import logs, model_names, nano
from ctx_models.arm import check_tokenizer, read_arm
from ctx_models.checkpoint import tokenizer_of
from ctx_models.indicator import INDICATOR
from ctx_models.registry import MODEL
from ctx_models.sweep.plan import Checkpoint, Plan
from ctx_models.sweep.run import task_manager, unknown
from ctx_models.tune.rating import refused
from ctx_tasks import harness
from ctx_tasks.arm import ARGUMENTS, CHAT, Arm, Schedule, safe
from ctx_tasks.columns import TURNS, begun
from ctx_tasks.document_keys import clusters
from ctx_tasks.errors import UserError
from ctx_tasks.judge.endpoint import Options
from ctx_tasks.sample_lines import Doc
from ctx_tasks.tune.choice import Price
from ctx_tasks.tune.halves import Halves, halved, require_enough
from ctx_tasks.tune.halving import Round, within

Documents = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Settings:
    """What the command was given for all checkpoints.

    Attributes:
        tasks: context tasks and groups.
        prices: what may be lost at most, by task or group.
        begun: whether the answers of the context tasks are begun.
        metadata, include_path, batch_size, device: as in a sweep.
        limit: so many documents of each task, or a share of them below 1; None for all.
        budget: answers that choosing may take for a checkpoint; None for two halvings.
        seed: of the halves.
        judge: of MT-Bench, where that has a price.
    """

    tasks: tuple[str, ...]
    output: Path
    prices: Mapping[str, float]
    begun: bool = True
    metadata: Mapping[str, Any] | None = None
    limit: float | None = None
    batch_size: int | str = 1
    device: str | None = None
    budget: int | None = None
    seed: int = 0
    judge: Options | None = None
    include_path: str | None = None


@dataclass(frozen=True)
class Tuning:
    """One checkpoint to be tuned.

    Attributes:
        plan: of the sweep whose cells are run; its tasks are no groups.
        tasks: the context tasks among them.
        halves: the documents of each task.
        clusters: of each document by the harness's hash of it, by task.
        budget: answers that choosing may take; None for two halvings.
        rounds: of the halving.
        judge: of MT-Bench, where that has a price.
    """

    checkpoint: Checkpoint
    candidates: tuple[Arm, ...]
    plan: Plan
    tasks: tuple[str, ...]
    prices: tuple[Price, ...]
    halves: Mapping[str, Halves]
    clusters: Mapping[str, Mapping[str, str]]
    budget: int | None
    rounds: Sequence[Round] = ()
    judge: Options | None = None

    def choosing(self, begin: float, end: float) -> Documents:
        """Documents between two shares of the choosing half, tasks without any left out."""
        found = {task: half.part(begin, end) for task, half in self.halves.items()}
        return {task: indices for task, indices in found.items() if indices}

    @property
    def reporting(self) -> Documents:
        """Documents of the other half."""
        found = {task: half.reporting for task, half in self.halves.items()}
        return {task: indices for task, indices in found.items() if indices}

    def count(self, begin: float, end: float) -> int:
        """How many documents `choosing` has."""
        return sum(map(len, self.choosing(begin, end).values()))


# ---- candidates ----------------------------------------------------------------------------------


def remedies(
    alphas: Sequence[float],
    schedules: Sequence[str],
    heads: Sequence[str],
    sentences: Sequence[str],
) -> tuple[Arm, ...]:
    """The candidates, `[IND]` with them.

    Raises:
        UserError: values out of range.
    """
    wrong = [one for one in schedules if one not in get_args(Schedule)]
    if wrong:
        raise UserError(f"schedule {wrong[0]!r}: choose {' or '.join(get_args(Schedule))}.")
    steered = [
        Arm.of({"alpha": alpha, "schedule": schedule, "heads": chosen})
        for alpha, schedule, chosen in product(alphas, schedules, (None, *heads))
    ]
    found = [*steered, Arm(indicator=INDICATOR), *(Arm(instruction=one) for one in sentences)]
    for arm in found:
        read_arm(arm)
    same = [arm for arm in found if arm.effective == CHAT]
    if same:
        raise UserError("alpha=1 is off, which is what candidates are held against; leave it out.")
    return tuple(dict.fromkeys(found))


def _taken(candidates: Iterable[Arm], checkpoint: Checkpoint) -> tuple[Arm, ...]:
    """The candidates that a checkpoint's tokenizer takes: only one with `[IND]` has that."""
    tokenizer = tokenizer_of(checkpoint.model_args)
    check_tokenizer(CHAT, tokenizer)
    found = []
    for arm in candidates:
        try:
            check_tokenizer(arm, tokenizer)
        except UserError:
            continue
        found.append(arm)
    if not found:
        raise UserError(
            f"{checkpoint.name} has no candidate: its tokenizer has no {INDICATOR}; give --alphas "
            "or an --instruction."
        )
    return tuple(found)


def checkpoints(model_args: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints behind `--model_args`, each with a name of its own.

    Raises:
        UserError: an argument that belongs to a candidate, or a bundled name misspelt.
    """
    found: list[Checkpoint] = []
    for one in model_args:
        arguments = harness.read_arguments(one)
        ours = [name for name in ARGUMENTS if name in arguments]
        if ours:
            raise UserError(f"--model_args {one}: {ours[0]} is what is tuned; leave it out.")
        model_names.resolve(arguments.get("pretrained"))
        path = arguments.get("peft") or arguments.get("pretrained") or nano.DEFAULT
        name = safe(Path(str(path)).name) or "checkpoint"
        taken = sum(other.name.split("#")[0] == name for other in found)
        found.append(Checkpoint(f"{name}#{taken + 1}" if taken else name, MODEL, arguments, ()))
    return found


# ---- documents -----------------------------------------------------------------------------------


def read(checkpoint: Checkpoint, candidates: Sequence[Arm], settings: Settings) -> Tuning:
    """The tuning of one checkpoint; loads its tokenizer and the tasks' data, no model.

    Raises:
        UserError: whatever can be known to be wrong before the model loads.
    """
    taken = _taken(candidates, checkpoint)
    with logs.recorded():
        tasks, prices, loaded = _tasks(checkpoint, settings)
    hashes = {name: _hashes(task, settings.limit) for name, task in loaded.items()}
    named = {name: _clusters(loaded[name], found) for name, found in hashes.items()}
    halves = halved(named, settings.seed)
    for task in tasks:
        require_enough(task, [halves[task]])
    for price in prices:
        require_enough(price.name, [halves[task] for task in price.tasks])
    tuning = Tuning(
        checkpoint,
        taken,
        _plan((checkpoint,), tuple(loaded), settings),
        tasks,
        prices,
        halves,
        {task: dict(zip(hashes[task], named[task], strict=True)) for task in loaded},
        settings.budget,
        judge=settings.judge if TURNS.keys() & loaded.keys() else None,
    )
    [rounds] = within(settings.budget, [len(taken)], tuning.count)
    return replace(tuning, rounds=rounds)


def loaded_task(tuning: Tuning, name: str) -> Any:
    """A task with its documents."""
    with logs.recorded():
        return task_manager(tuning.checkpoint, tuning.plan).load([name])["tasks"][name]


def _plan(checkpoints: tuple[Checkpoint, ...], tasks: tuple[str, ...], settings: Settings) -> Plan:
    return Plan(
        checkpoints,
        tasks,
        dict(settings.metadata or {}),
        limit=None,
        attention=False,
        batch_size=settings.batch_size,
        device=settings.device,
        output=settings.output,
        include_path=settings.include_path,
    )


def _tasks(
    checkpoint: Checkpoint, settings: Settings
) -> tuple[tuple[str, ...], tuple[Price, ...], dict[str, Any]]:
    """Context tasks, prices, and all tasks loaded by name; groups are their tasks."""
    context = [begun(task) or task if settings.begun else task for task in settings.tasks]
    asked = (*context, *settings.prices)
    manager = task_manager(checkpoint, _plan((checkpoint,), asked, settings))
    _refuse_tasks(manager, context, settings)
    loaded = manager.load(context)["tasks"]
    tasks = tuple(loaded)
    prices = []
    for name, at_most in settings.prices.items():
        found = manager.load([name])["tasks"]
        prices.append(Price(name, at_most, tuple(found)))
        loaded = {**found, **loaded}
    ordered = {name: loaded[name] for name in (*tasks, *loaded)}
    return tasks, tuple(prices), ordered


def _refuse_tasks(manager: TaskManager, context: Iterable[str], settings: Settings) -> None:
    known = set(manager.all_tasks)
    asked = [*((task, False) for task in context), *((task, True) for task in settings.prices)]
    wrong = [
        unknown(task, known)
        if task not in known
        else refused(task, a_price=a_price, judge=settings.judge)
        for task, a_price in asked
    ]
    said = [one for one in wrong if one is not None]
    if said:
        raise UserError(f"There is nothing to tune on: {'; '.join(said)}.")


def _hashes(task: Any, limit: float | None) -> list[str]:
    """The harness's hash of each document, of as many as there may be."""
    return [harness.document_hash(doc) for doc in _documents(task, limit)]


def _documents(task: Any, limit: float | None) -> Iterator[Mapping[str, Any]]:
    docs = task.eval_docs
    # As in the harness: a share of the documents below 1, else a number.
    most = len(docs) if limit is None else int(limit * len(docs) if limit < 1 else limit)
    return (docs[index] for index in range(min(most, len(docs))))


def _clusters(task: Any, hashes: Sequence[str]) -> list[str]:
    docs = list(_documents(task, len(hashes)))
    places = [Doc(doc.get("passage_id"), doc.get("needle_id")) for doc in docs]
    return clusters(places, hashes)
