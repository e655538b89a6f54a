"""Result and sample files of lm-eval 0.4.13, ours and plain `lm_eval --log_samples`, as typed rows.

A results file is JSON and holds everything but the samples; `samples_<task>_<time>.jsonl` beside it
has one line per document. Nothing in them is executed or trusted: a file that lacks what is needed
is an error that names it. Runs of one checkpoint and arm may lie in several files, one task or all
in each; the newest file counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ctx_tasks import answers
from ctx_tasks.arm import Arm, identity
from ctx_tasks.errors import UserError
from ctx_tasks.settings import settings

logger = logging.getLogger(__name__)

# The metric that stands for a task, in order of preference; otherwise its first.
PRIMARY = ("score", "rating", "recall", "contains", "acc")


@dataclass(frozen=True)
class Metric:
    """A score as the harness reported it; `error` is its standard error, None without one."""

    value: float
    error: float | None
    higher_is_better: bool


@dataclass(frozen=True)
class TaskResult:
    """One task of one run.

    Attributes:
        n: documents evaluated.
        metrics: by name, of filter "none", or of the task's first filter.
        filter: that filter.
        settings: what must agree before two results are compared, by a name for the reader.
        samples_file: None for a run without --log_samples.
        members: the tasks of a group; empty for a task.
    """

    task: str
    n: int
    metrics: dict[str, Metric]
    filter: str
    settings: dict[str, Any]
    samples_file: Path | None
    members: tuple[str, ...] = ()

    @property
    def primary(self) -> str:
        """The metric that stands for the task."""
        return next((name for name in PRIMARY if name in self.metrics), next(iter(self.metrics)))


@dataclass(frozen=True)
class Run:
    """One results file; a file with a response-prefix task gives two, the prefix an arm of its own.

    Attributes:
        checkpoint: name for the reader: the sweep's, or the end of the model's path.
        identity: model arguments that decide which model it is; equal for equal checkpoints.
        date: seconds since 1970.
        config: the file's `config`.
    """

    path: Path
    checkpoint: str
    identity: str
    arm: Arm
    date: float
    tasks: dict[str, TaskResult]
    config: dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """Scores per document, in the file's order.

    Attributes:
        doc_hashes: the harness's; of equal documents the second has "#2" appended, and so on.
        clusters: passage_id; else the needle's id where a needle test has several; else the hash.
        scores: float64 [n] by metric; NaN where a document has no score.
        prompts: digest of all documents and their prompts, in any order; None where the harness
            recorded no prompt (before 0.4.3) or something else than it did (a judge).
    """

    doc_hashes: list[str]
    clusters: list[str]
    scores: dict[str, np.ndarray]
    prompts: str | None = None


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """All runs in files and folders, sorted by checkpoint and arm as first met.

    Args:
        paths: results files, or folders that are searched for `results_*.json`.

    Raises:
        UserError: a path that does not exist, no results file in it, a malformed one, or answers
            without scores alone.
    """
    files = [file for path in paths for file in _result_files(Path(path))]
    runs = [run for file in files for run in _read(file)]
    if files and not runs:
        raise UserError(
            f"{files[0]} holds answers without scores; rate those of MT-Bench with `ctx-eval "
            "judge`, or run the tasks without --predict_only."
        )
    return _named(_newest(runs))


def read_samples(result: TaskResult) -> Samples:
    """Document hashes, clusters and scores of a task.

    Raises:
        UserError: no sample file, or a malformed line.
    """
    names = list(result.metrics)
    line_type = _line_type(tuple(names))
    decoder = msgspec.json.Decoder(line_type)
    lines = [
        line
        for line in _lines(result, lambda text: _decode(decoder, text, line_type))
        if line.filter_name == result.filter
    ]
    if not lines:
        raise UserError(f"{result.samples_file} holds no samples of {result.task}; run it again.")
    scores = {
        name: np.array([_number(getattr(line, f"metric_{i}")) for line in lines])
        for i, name in enumerate(names)
    }
    hashes = _distinct(line.doc_hash for line in lines)
    clusters = _clusters([_identity(line.doc) for line in lines], hashes)
    return Samples(hashes, clusters, scores, _digest(hashes, [line.prompt_hash for line in lines]))


def samples_of(lines: Sequence[Mapping[str, Any]], metric: str) -> Samples:
    """`read_samples` of sample lines in memory, as `simple_evaluate` returns them, one metric."""
    hashes = _distinct(line["doc_hash"] for line in lines)
    docs = [_Doc(line["doc"].get("passage_id"), line["doc"].get("needle_id")) for line in lines]
    scores = np.array([_number(line[metric]) for line in lines])
    return Samples(hashes, _clusters(docs, hashes), {metric: scores})


def read_documents(result: TaskResult, wanted: Set[str] | None = None) -> Iterator[dict[str, Any]]:
    """Whole sample lines, one after the other, with doc hashes as in `read_samples`.

    Args:
        wanted: doc hashes of the lines to give, after the last of which no more is read; None for
            all.

    Raises:
        UserError: no sample file, or a malformed line.
    """
    seen: Counter[str] = Counter()
    given = 0
    line_type = _line_type(())
    decoder = msgspec.json.Decoder(line_type)
    for text, line in _lines(result, lambda text: (text, _decode(decoder, text, line_type))):
        if line.filter_name != result.filter:
            continue
        seen[line.doc_hash] += 1
        doc_hash = _numbered(line.doc_hash, seen[line.doc_hash])
        if wanted is None or doc_hash in wanted:
            yield {**_object(text), "doc_hash": doc_hash}
            given += 1
        if wanted is not None and given == len(wanted):
            return


# ---- results files ---------------------------------------------------------------------------


def _result_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give a folder of results or a results file.")
    found = sorted(path.rglob("results_*.json"))
    # A folder with a dot in front holds what is still being written.
    found = [file for file in found if not _hidden(file.relative_to(path))]
    if not found:
        raise UserError(
            f"{path} holds no results_*.json; run lm_eval with --output_path {path} first."
        )
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read(path: Path) -> list[Run]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _runs(path, content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no results file of lm-eval ({reason}); remove it or run it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _runs(path: Path, content: dict[str, Any]) -> list[Run]:
    config = content["config"]
    arguments = _arguments(config.get("model_args"))
    tasks = {
        name: _task(path, content, name) for name, found in content["results"].items() if found
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
    run = Run(path, name, checkpoint, arm, _date(content), tasks, config)
    begun = {name for name in tasks if _has_prefix(content, name)}
    halves = [(False, tasks.keys() - begun), (True, begun)]
    return [
        replace(
            run, arm=replace(arm, prefix=prefix), tasks={n: tasks[n] for n in tasks if n in kept}
        )
        for prefix, kept in halves
        if kept
    ]


def _has_prefix(content: Mapping[str, Any], task: str) -> bool:
    return bool(content.get("configs", {}).get(task, {}).get("gen_prefix"))


def _arguments(given: Any) -> dict[str, Any]:
    """The model arguments, which older harnesses record as "name=value,name=value"."""
    if isinstance(given, str):
        return dict(part.partition("=")[::2] for part in given.split(",") if part)
    return dict(given or {})


def _date(content: Mapping[str, Any]) -> float:
    return float(content.get("date") or 0.0)


def _task(path: Path, content: dict[str, Any], name: str) -> TaskResult:
    found = content["results"][name]
    members = tuple(content.get("group_subtasks", {}).get(name, ()))
    filters = [key.partition(",")[2] for key in found if "," in key]
    chosen = "none" if "none" in filters else next(iter(filters), "none")
    better = content.get("higher_is_better", {}).get(name) or {}
    metrics = {
        metric: Metric(float(value), _error(found, metric, chosen), better.get(metric) is not False)
        for key, value in found.items()
        for metric, _, used in [key.partition(",")]
        # --predict_only: "bypass" stands where a score would be.
        if used == chosen and metric != "bypass" and not metric.endswith("_stderr")
        if _is_number(value)
    }
    if metrics.keys() <= set(answers.NAMES):
        metrics = {}
    count = content.get("n-samples", {}).get(name, {}).get("effective", found.get("sample_len", 0))
    samples = path.with_name(path.name.replace("results_", f"samples_{name}_", 1) + "l")
    return TaskResult(
        name,
        int(count),
        metrics,
        chosen,
        settings(content, name),
        samples if samples.is_file() and samples != path else None,
        members,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _error(found: Mapping[str, Any], metric: str, used: str) -> float | None:
    error = found.get(f"{metric}_stderr,{used}")
    return float(error) if _is_number(error) and math.isfinite(float(error)) else None  # type: ignore[arg-type]


def _newest(runs: Sequence[Run]) -> list[Run]:
    """Each task of a checkpoint and arm from its newest file only."""
    taken: dict[tuple[str, str, Arm, str], Path] = {}
    kept = []
    for run in sorted(runs, key=lambda run: run.date, reverse=True):
        tasks = {}
        for name, task in run.tasks.items():
            newest = taken.setdefault((run.checkpoint, run.identity, run.arm, name), run.path)
            if newest == run.path:
                tasks[name] = task
            else:
                logger.warning("%s of %s is left out: %s is newer.", name, run.path, newest)
        kept += [replace(run, tasks=tasks)] if tasks else []
    order = {id(run): place for place, run in enumerate(kept)}
    return sorted(kept, key=lambda run: (run.checkpoint, -order[id(run)]))


def _named(runs: list[Run]) -> list[Run]:
    """Paths shortened to their last part where that tells checkpoints apart.

    Checkpoints of one path (another dtype, an adapter) are told apart by the arguments that differ.
    """
    identities = {(run.checkpoint, run.identity) for run in runs}
    short = {found: _short(found, identities) for found in identities}
    return [replace(run, checkpoint=short[run.checkpoint, run.identity]) for run in runs]


def _short(found: tuple[str, str], others: set[tuple[str, str]]) -> str:
    name, identity = found
    ends = Counter(Path(other).name for other, _ in {(o, "") for o, _ in others})
    end = Path(name).name
    shown = end if Path(name).is_absolute() and ends[end] == 1 else name
    twins = [json.loads(other) for n, other in others if n == name]
    if len(twins) == 1:
        return shown
    own = json.loads(identity)
    differing = {k: v for k, v in own.items() if any(twin.get(k) != v for twin in twins)}
    return f"{shown} ({', '.join(f'{k}={v}' for k, v in sorted(differing.items())) or 'plain'})"


# ---- sample files ----------------------------------------------------------------------------


class _Doc(msgspec.Struct):
    passage_id: str | int | None = None
    needle_id: str | int | None = None


@lru_cache
def _line_type(metrics: tuple[str, ...]) -> type[msgspec.Struct]:
    """A line with only the fields that are needed; the decoder skips all others unread."""
    fields: list[Any] = [
        ("doc_hash", str),
        ("doc", msgspec.Raw, msgspec.Raw(b"{}")),
        ("filter_name", str, "none"),
        ("prompt_hash", str | None, None),
        *((f"metric_{i}", Any, None) for i in range(len(metrics))),
    ]
    renamed = {f"metric_{i}": name for i, name in enumerate(metrics)}
    return msgspec.defstruct("Line", fields, rename={**renamed, "filter_name": "filter"})


def _decode(decoder: Any, text: bytes, line_type: type[msgspec.Struct]) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        # Python writes NaN and Infinity, which are no JSON; rare enough to be read slowly.
        plain = _object(text)
        doc = msgspec.Raw(json.dumps(plain.get("doc")).encode())
        return msgspec.convert({**plain, "doc": doc}, line_type)


def _object(text: bytes) -> dict[str, Any]:
    """A line as a dict, NaN and infinities as None."""
    found = json.loads(text, parse_constant=lambda _: None)
    if not isinstance(found, dict) or "doc_hash" not in found:
        raise ValueError("no object with a doc_hash")
    return found


def _lines(result: TaskResult, decode: Any) -> Iterator[Any]:
    path = result.samples_file
    if path is None:
        raise UserError(f"{result.task} has no sample file; run it again with --log_samples.")
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                yield decode(text)
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number} is no sample of lm-eval ({error}); run it again."
                ) from error


def _identity(doc: msgspec.Raw) -> _Doc:
    """Passage and needle of a document; neither, where a task's documents are shaped otherwise."""
    try:
        return _DOC.decode(doc)
    except msgspec.ValidationError:
        return _Doc()


_DOC = msgspec.json.Decoder(_Doc)


def _clusters(docs: Sequence[_Doc], hashes: Sequence[str]) -> list[str]:
    several = len({doc.needle_id for doc in docs}) > 1
    found = []
    for doc, doc_hash in zip(docs, hashes, strict=True):
        needle = doc.needle_id if several else None
        shared = needle if doc.passage_id is None else doc.passage_id
        found.append(doc_hash if shared is None else str(shared))
    return found


def _distinct(hashes: Iterable[str]) -> list[str]:
    seen: Counter[str] = Counter()
    found = []
    for doc_hash in hashes:
        seen[doc_hash] += 1
        found.append(_numbered(doc_hash, seen[doc_hash]))
    return found


def _digest(hashes: Sequence[str], prompts: Sequence[str | None]) -> str | None:
    if None in prompts:
        return None
    pairs = sorted(zip(hashes, prompts, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


def _numbered(doc_hash: str, occurrence: int) -> str:
    return doc_hash if occurrence == 1 else f"{doc_hash}#{occurrence}"


def _number(value: Any) -> float:
    number = float(value) if isinstance(value, (int, float)) else math.nan
    return number if math.isfinite(number) else math.nan
