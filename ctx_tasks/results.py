"""Result and sample files of lm-eval, ours and plain `lm_eval --log_samples`, as typed rows.

What other tools wrote (`exchange.foreign`) is read as the harness would have written it.

Of the harness's versions, files of 0.4.5, 0.4.9 and 0.4.13 are tested. A results file is JSON and
holds everything but the samples; `samples_<task>_<time>.jsonl` beside it has one line per document
and filter. Nothing in them is executed or trusted: a file that lacks what is needed is an error
that names it. Runs of one checkpoint and arm may lie in several files, one task or all in each; the
newest file counts.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks import answers
from ctx_tasks.arm import Arm, identity
from ctx_tasks.checkpoint_names import short_names
from ctx_tasks.columns import GROUPS, TASKS
from ctx_tasks.document_keys import Distinct, clusters, digest, distinct, of_part
from ctx_tasks.errors import UserError
from ctx_tasks.exchange import foreign
from ctx_tasks.sample_lines import Doc, as_object, doc_of, read_lines
from ctx_tasks.scores import (
    Choice,
    Chosen,
    Metric,
    choose,
    document_scores,
    of_members,
    over_lengths,
)
from ctx_tasks.settings import BEGUN, settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResult:
    """One task of one run.

    Attributes:
        n: documents evaluated.
        chosen: its metrics, its filter, and which of them stand for it.
        settings: what must agree before two results are compared, by a name for the reader.
        samples_file: None for a run without --log_samples.
        members: the tasks and groups of a group; empty for a task.
        parts: the tasks of a group, of groups in it too, with the group's metric; empty for a task,
            for our own groups, and where a task lacks that metric.
    """

    task: str
    n: int
    chosen: Chosen
    settings: dict[str, Any]
    samples_file: Path | None
    members: tuple[str, ...] = ()
    parts: tuple[TaskResult, ...] = ()

    @property
    def metrics(self) -> dict[str, Metric]:
        """Its metrics by name."""
        return self.chosen.metrics

    @property
    def filter(self) -> str:
        """The filter they are of."""
        return self.chosen.filter

    @property
    def primary(self) -> str:
        """The metric that stands for the task."""
        return self.chosen.primary

    @property
    def logged(self) -> bool:
        """Whether there are samples, of a group those of all its tasks."""
        return self.samples_file is not None or (
            bool(self.parts) and all(part.logged for part in self.parts)
        )


@dataclass(frozen=True)
class Run:
    """One results file; a file with a response-prefix task gives two, the prefix an arm of its own.

    Attributes:
        checkpoint: name for the reader: the sweep's, or the end of the model's path.
        identity: model arguments that decide which model it is; equal for equal checkpoints.
        date: seconds since 1970.
        config: the file's `config`.
        harness: version of lm-eval that wrote it; None where it did not say (before 0.4.3).
    """

    path: Path
    checkpoint: str
    identity: str
    arm: Arm
    date: float
    tasks: dict[str, TaskResult]
    config: dict[str, Any]
    harness: str | None = None

    @property
    def standing(self) -> dict[str, TaskResult]:
        """The results to be shown: groups stand for their members, but for our own groups."""
        groups = [result for name, result in self.tasks.items() if name not in GROUPS]
        hidden = {member for group in groups for member in group.members}
        return {
            name: result
            for name, result in self.tasks.items()
            if name not in hidden and name not in GROUPS
        }


@dataclass(frozen=True)
class Samples:
    """Scores per document, in the file's order.

    Attributes:
        doc_hashes: the harness's; of equal documents the second has "#2" appended, and so on.
        clusters: passage_id; else the needle's id where a needle test has several; else the hash.
        scores: float64 [n] by metric; NaN where a document has no score, and everywhere where the
            reported score is no mean over documents (perplexities, F1 of a corpus).
        prompts: digest of all documents and their prompts, in any order; None where the harness
            recorded no prompt (before 0.4.3) or something else than it did (a judge).
    """

    doc_hashes: list[str]
    clusters: list[str]
    scores: dict[str, np.ndarray]
    prompts: str | None = None


def read_runs(paths: Iterable[Path], choice: Choice | None = None) -> list[Run]:
    """All runs in files and folders, sorted by checkpoint and arm as first met.

    Args:
        paths: results files, or folders that are searched for them.
        choice: metrics and filters asked for.

    Raises:
        UserError: a path that does not exist, no results file in it, a malformed one, answers
            without scores alone, or a choice that no task has.
    """
    asked = choice or Choice()
    files = [file for path in paths for file in _result_files(Path(path))]
    runs = [run for file in files for run in _read(file, asked)]
    if files and not runs:
        raise UserError(
            f"{files[0]} holds answers without scores; rate those of MT-Bench with `ctx-eval "
            "judge`, or run the tasks without --predict_only."
        )
    if untold := foreign.told([(run.path, run.config) for run in runs]):
        logger.warning("%s", untold)
    asked.refuse_unused({n: task.chosen for run in runs for n, task in run.tasks.items()})
    return _named(_newest(runs))


def read_samples(result: TaskResult) -> Samples:
    """Document hashes, clusters and scores of a task, or of all tasks of a group.

    Raises:
        UserError: no sample file, or a malformed line.
    """
    if result.parts:
        return _pooled(result)
    own = [name for name, metric in result.metrics.items() if not metric.lengths]
    lines = [line for _, line in _lines(result, own)]
    if not lines:
        raise UserError(f"{result.samples_file} holds no samples of {result.task}; run it again.")
    columns = {
        name: document_scores(name, [getattr(line, f"metric_{i}") for line in lines])
        for i, name in enumerate(own)
    }
    scores = {
        name: _per_document(
            result, name, columns[name] if name in own else over_lengths(metric, columns)
        )
        for name, metric in result.metrics.items()
    }
    hashes = distinct(line.doc_hash for line in lines)
    shared = clusters([doc_of(line) for line in lines], hashes)
    return Samples(hashes, shared, scores, digest(hashes, [line.prompt_hash for line in lines]))


def samples_of(lines: Sequence[Mapping[str, Any]], metric: str) -> Samples:
    """`read_samples` of sample lines in memory, as `simple_evaluate` returns them, one metric."""
    hashes = distinct(line["doc_hash"] for line in lines)
    docs = [Doc(line["doc"].get("passage_id"), line["doc"].get("needle_id")) for line in lines]
    scores = document_scores(metric, [line[metric] for line in lines])
    return Samples(hashes, clusters(docs, hashes), {metric: scores})


def read_documents(result: TaskResult, wanted: Set[str] | None = None) -> Iterator[dict[str, Any]]:
    """Whole sample lines, one after the other, with hashes and primary scores of `read_samples`.

    Args:
        wanted: doc hashes of the lines to give, after the last of which no more is read; None for
            all.

    Raises:
        UserError: no sample file, or a malformed line.
    """
    given = 0
    for doc_hash, text in _keyed(result):
        if wanted is None or doc_hash in wanted:
            yield _document(result, as_object(text), doc_hash)
            given += 1
        if wanted is not None and given == len(wanted):
            return


# ---- results files ---------------------------------------------------------------------------


def _result_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give a folder of results or a results file.")
    found = foreign.found_below(path)
    if not found:
        raise UserError(
            f"{path} holds no results_*.json; run lm_eval with --output_path {path} first."
        )
    return found


def _read(path: Path, choice: Choice) -> list[Run]:
    content = foreign.opened(path)
    try:
        return _runs(path, content, choice)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no results file of lm-eval ({reason}); remove it or run it again."
        ) from error


def _runs(path: Path, content: dict[str, Any], choice: Choice) -> list[Run]:
    config = content["config"]
    arguments = _arguments(config.get("model_args"))
    tasks = {
        name: _task(path, content, name, choice)
        for name, found in content["results"].items()
        if found
    }
    if not tasks:
        raise ValueError("no task with a score")
    tasks = {name: task for name, task in tasks.items() if task.metrics}
    if not tasks:
        logger.warning("%s holds answers without scores (yet) and is left out.", path)
        return []
    arm = Arm.recorded(content)
    name = str(config.get("checkpoint") or content.get("model_name") or config.get("model"))
    checkpoint = json.dumps(identity(arguments), sort_keys=True, default=str)
    harness = content.get("lm_eval_version")
    run = Run(path, name, checkpoint, arm, _date(content), tasks, config, harness)
    begun = {name for name in tasks if _begun(name)}
    halves = [(False, tasks.keys() - begun), (True, begun)]
    return [
        replace(
            run, arm=replace(arm, prefix=prefix), tasks={n: tasks[n] for n in tasks if n in kept}
        )
        for prefix, kept in halves
        if kept
    ]


def _begun(task: str) -> bool:
    """Whether a task of ours begins the answer; the beginning of others' is part of the task."""
    return TASKS[task].begun if task in TASKS else GROUPS.get(task, ("", False))[1]


def _arguments(given: Any) -> dict[str, Any]:
    """The model arguments, which older harnesses record as "name=value,name=value"."""
    if isinstance(given, str):
        return dict(part.partition("=")[::2] for part in given.split(",") if part)
    return dict(given or {})


def _date(content: Mapping[str, Any]) -> float:
    return float(content.get("date") or 0.0)


def _task(path: Path, content: dict[str, Any], name: str, choice: Choice) -> TaskResult:
    found = content["results"][name]
    members = tuple(content.get("group_subtasks", {}).get(name, ()))
    chosen = choose(name, found, content.get("higher_is_better", {}).get(name) or {}, choice)
    leaves = _leaves(content, name) if members and name not in GROUPS else []
    parts = _parts(path, content, chosen, leaves)
    count = content.get("n-samples", {}).get(name, {}).get("effective", found.get("sample_len", 0))
    agreeing = settings(content, name) | {
        "metric": chosen.primary,
        "filter": chosen.filter,
        "subtasks": {leaf: content.get("versions", {}).get(leaf) for leaf in leaves},
    }
    if parts:
        agreeing[BEGUN] = all(part.settings[BEGUN] for part in parts)
    return TaskResult(
        name,
        sum(part.n for part in parts) if parts else int(count),
        chosen,
        agreeing,
        foreign.samples_of(path, content, name),
        members,
        parts,
    )


def _leaves(content: Mapping[str, Any], group: str) -> list[str]:
    """The tasks of a group and of the groups in it, each once."""
    subtasks = content["group_subtasks"]
    found: dict[str, None] = {}
    waiting, known = list(subtasks[group]), {group}
    while waiting:
        name = waiting.pop(0)
        if not subtasks.get(name):
            found[name] = None
        elif name not in known:
            known.add(name)
            waiting = [*subtasks[name], *waiting]
    return list(found)


def _parts(
    path: Path, content: dict[str, Any], chosen: Chosen, leaves: Sequence[str]
) -> tuple[TaskResult, ...]:
    """The tasks of a group with its metric and filter; none where one lacks them."""
    key = f"{chosen.primary},{chosen.filter}"
    if not all(key in content["results"].get(leaf, {}) for leaf in leaves):
        return ()
    asked = of_members(chosen, leaves)
    return tuple(_task(path, content, leaf, asked) for leaf in leaves)


def _newest(runs: Sequence[Run]) -> list[Run]:
    """Each task of a checkpoint and arm from its newest file only."""
    taken: dict[tuple[str, str, Arm, str], Path] = {}
    kept, older = [], []
    for run in sorted(runs, key=lambda run: run.date, reverse=True):
        tasks = {}
        for name, task in run.tasks.items():
            newest = taken.setdefault((run.checkpoint, run.identity, run.arm, name), run.path)
            if newest == run.path:
                tasks[name] = task
            else:
                older.append((name, run.path, newest))
        kept += [replace(run, tasks=tasks)] if tasks else []
    if older:
        _tell_older(older)
    order = {id(run): place for place, run in enumerate(kept)}
    return sorted(kept, key=lambda run: (run.checkpoint, -order[id(run)]))


def _tell_older(older: Sequence[tuple[str, Path, Path]]) -> None:
    """One line, however many results a newer file (of a rescored folder, say) replaces."""
    name, path, newest = older[0]
    more = f", and {len(older) - 1} more such" if len(older) > 1 else ""
    logger.warning("%s of %s is left out: %s is newer%s.", name, path, newest, more)


def _named(runs: list[Run]) -> list[Run]:
    names = short_names({(run.checkpoint, run.identity) for run in runs})
    return [replace(run, checkpoint=names[run.checkpoint, run.identity]) for run in runs]


# ---- samples ---------------------------------------------------------------------------------


def _lines(result: TaskResult, metrics: Sequence[str] = ()) -> Iterator[tuple[bytes, Any]]:
    """The lines of the result's filter."""
    if result.samples_file is None:
        raise UserError(f"{result.task} has no sample file; run it again with --log_samples.")
    for text, line in read_lines(result.samples_file, result.task, result.chosen.filters, metrics):
        if line.filter_name == result.filter:
            yield text, line


def _keyed(result: TaskResult) -> Iterator[tuple[str, bytes]]:
    """The hash of `read_samples` and the text of each line."""
    if not result.parts:
        seen = Distinct()
        yield from ((seen.key(line.doc_hash), text) for text, line in _lines(result))
    for part in result.parts:
        yield from ((of_part(part.task, doc_hash), text) for doc_hash, text in _keyed(part))


def _pooled(result: TaskResult) -> Samples:
    """The samples of a group: those of its tasks, kept apart."""
    name = result.primary
    read = [(part.task, read_samples(part)) for part in result.parts]
    hashes = [of_part(task, doc_hash) for task, one in read for doc_hash in one.doc_hashes]
    shared = [of_part(task, cluster) for task, one in read for cluster in one.clusters]
    scores = np.concatenate([one.scores[name] for _, one in read])
    prompts = digest([task for task, _ in read], [one.prompts for _, one in read])
    return Samples(hashes, shared, {name: _per_document(result, name, scores)}, prompts)


def _per_document(result: TaskResult, name: str, scores: np.ndarray) -> np.ndarray:
    """The scores, NaN where their mean is not what was reported; a file cut off is let be.

    Counts of a document (tokens cut) are reported as the share of documents that have any.
    """
    if name in answers.NAMES:
        return scores
    reported, known = result.metrics[name].value, scores[~np.isnan(scores)]
    if not len(known) or math.isnan(reported) or len(scores) < result.n:
        return scores
    same = math.isclose(known.mean(), reported, rel_tol=1e-6, abs_tol=1e-9)
    return scores if same else np.full(len(scores), math.nan)


def _document(result: TaskResult, line: dict[str, Any], doc_hash: str) -> dict[str, Any]:
    name = result.primary
    of = result.metrics[name].lengths or (name,)
    values = [
        value for part in of if not math.isnan(value := document_scores(part, [line.get(part)])[0])
    ]
    return {**line, "doc_hash": doc_hash, name: float(values[0]) if values else line.get(name)}
