"""Answers of MT-Bench runs and their verdicts -> ratings, in result files of the harness's format.

A question's rating is the mean over its turns of the median over repeated verdicts; the task's is
the mean over questions, with the standard error of that mean. A question whose verdicts are not all
there has no rating: it is counted as `missing` and never scored. `judge_spread` is the judge's own
scatter: the root of the mean variance of repeated verdicts on one answer.

A judged run lies beside the one it came from, under the same date and a hash of the judge, so that
judging again replaces it and another judge does not. It holds the judged tasks only.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks.answers import NAMES, share
from ctx_tasks.columns import TURNS
from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text
from ctx_tasks.judge.endpoint import Options
from ctx_tasks.judge.verdicts import Ask, Outcome, ask
from ctx_tasks.mt_bench.data import OPTION, JudgeData, Question, judge_messages
from ctx_tasks.result_files import date_of, load, results_files, samples_file


@dataclass(frozen=True)
class Answers:
    """One task of one results file: its answers wait for ratings.

    Attributes:
        path: the results file; `content` is what it holds.
        samples: lines of the sample file.
    """

    path: Path
    task: str
    content: dict[str, Any]
    samples: list[dict[str, Any]]

    @property
    def files(self) -> Any:
        """The files the questions came from, as the run was given them; None for the hub."""
        return self.content["configs"][self.task].get("metadata", {}).get(OPTION)


@dataclass(frozen=True)
class Rated:
    """One question: its verdicts as [turns][repeats], None where one is missing.

    `beside` is what the run noted of prompt and answer (`ctx_tasks.answers`), where it did.
    """

    category: str
    verdicts: list[list[float | None]]
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def turns(self) -> list[float] | None:
        """The median verdict of each turn; None unless all verdicts are there."""
        rows = [[one for one in turn if one is not None] for turn in self.verdicts]
        whole = all(len(row) == len(turn) for row, turn in zip(rows, self.verdicts, strict=True))
        return [float(np.median(row)) for row in rows] if whole else None

    @property
    def rating(self) -> float | None:
        """The mean over turns."""
        turns = self.turns
        return None if turns is None else float(np.mean(turns))


def read_answers(paths: Iterable[Path]) -> list[Answers]:
    """The MT-Bench answers in results files, and the newest of each model and arm in folders.

    A judged file stands for the one it came from.

    Raises:
        UserError: a path that does not exist, no MT-Bench run in it, or a malformed file.
    """
    found = [one for path in paths for one in _in(path)]
    return list({(one.path, one.task): one for one in found}.values())


def asks(answers: Answers, data: JudgeData, settings: Options) -> list[list[list[Ask]]]:
    """What to ask about each sample, as [samples][turns][repeats]."""
    return [_asks(sample, answers.task, data, settings) for sample in answers.samples]


def rated(answers: Answers, asked: list[list[list[Ask]]], outcome: Outcome) -> list[Rated]:
    """The samples with the verdicts that came."""
    return [
        Rated(
            sample["doc"]["category"],
            [[outcome.ratings.get(one.key) for one in turn] for turn in turns],
            {name: sample[name] for name in NAMES if isinstance(sample.get(name), int | float)},
        )
        for sample, turns in zip(answers.samples, asked, strict=True)
    ]


def summary(rated: Sequence[Rated]) -> dict[str, float | str]:
    """The harness's metrics: `rating`, one a turn and a category, `missing`, `judge_spread`.

    And the shares that the run noted (`ctx_tasks.answers`).
    """
    done = [one for one in rated if one.rating is not None]
    found = {"rating": [one.rating for one in done]}
    several = max((len(one.verdicts) for one in rated), default=1) > 1
    for turn in range(len(rated[0].verdicts) if several else 0):
        found[f"rating_turn_{turn + 1}"] = [one.turns[turn] for one in done if one.turns]
    for category in dict.fromkeys(one.category for one in rated):
        found[_metric(category)] = [one.rating for one in done if one.category == category]
    metrics: dict[str, float | str] = {}
    for name, values in found.items():
        metrics |= _mean(name, np.array(values, dtype=float))
    metrics["missing,none"] = len(rated) - len(done)
    metrics["missing_stderr,none"] = "N/A"
    if rated and len(rated[0].verdicts[0]) > 1:
        metrics["judge_spread,none"] = judge_spread(done)
        metrics["judge_spread_stderr,none"] = "N/A"
    for name in NAMES:
        noted = [one.beside[name] for one in rated if name in one.beside]
        if noted:
            metrics |= {f"{name},none": share(noted), f"{name}_stderr,none": "N/A"}
    return metrics


def judge_spread(rated: Sequence[Rated]) -> float:
    """Standard deviation of repeated verdicts on one answer, in rating points; NaN without any."""
    rows = [turn for one in rated for turn in one.verdicts]
    variances = [np.var(np.array(row, dtype=float), ddof=1) for row in rows]
    return math.sqrt(float(np.mean(variances))) if variances else math.nan


def write(
    judged: Sequence[tuple[Answers, list[Rated]]], data: JudgeData, settings: Options
) -> Path:
    """Write the judged tasks of one results file and return the new one's path.

    Args:
        judged: each task with its questions, in the order of its samples.
    """
    path = judged[0][0].path
    record = {**settings.identity(), "repeats": settings.repeats, "prompts": data.sha256}
    date = f"{date_of(path)}-{_short_hash(record)}"
    for answers, rows in judged:
        lines = [_line(one, row) for one, row in zip(answers.samples, rows, strict=True)]
        write_text(path.with_name(f"samples_{answers.task}_{date}.jsonl"), "".join(lines))
    written = path.with_name(f"results_{date}.json")
    write_text(written, json.dumps(_content(judged, record), indent=2, ensure_ascii=False))
    return written


# ---- reading -----------------------------------------------------------------------------------


def _in(path: Path) -> list[Answers]:
    if path.is_dir():
        return _newest(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a folder of results or a results file.")
    found = _read(_source(path))
    if not found:
        raise UserError(
            f"{path} holds no answers of {' or '.join(TURNS)}; run one of them with --log_samples."
        )
    return found


def _newest(folder: Path) -> list[Answers]:
    shown = results_files(folder)
    found: dict[str, Answers] = {}
    for one in (one for file in dict.fromkeys(map(_source, shown)) for one in _read(file)):
        arm = [one.content["config"].get("model_args"), one.content.get("chat_template_sha")]
        key = json.dumps([one.task, *arm, one.content.get("system_instruction_sha")])
        older = found.get(key)
        if older is None or _when(older) <= _when(one):
            found[key] = one
    if not found:
        raise UserError(
            f"{folder} holds no answers of {' or '.join(TURNS)}; run one of them with "
            "--log_samples and this --output_path."
        )
    return list(found.values())


def _when(answers: Answers) -> float:
    return float(answers.content.get("date") or 0)


def _source(path: Path) -> Path:
    """The file a judged one came from; any other file itself."""
    judge = _load(path)["config"].get("judge") or {}
    source = path.with_name(str(judge.get("source") or path.name))
    return source if source.is_file() else path


def _load(path: Path) -> dict[str, Any]:
    content = load(path)
    try:
        if isinstance(content["config"], dict) and isinstance(content["configs"], dict):
            return dict(content)
    except (LookupError, TypeError):
        pass
    raise UserError(f"{path} is no results file of lm-eval; remove it or run it again.")


def _read(path: Path) -> list[Answers]:
    content = _load(path)
    tasks = [task for task in TURNS if task in content["configs"]]
    return [Answers(path, task, content, _samples(path, task)) for task in tasks]


def _samples(path: Path, task: str) -> list[dict[str, Any]]:
    file = samples_file(path, task)
    if not file.is_file():
        raise UserError(
            f"{file.name} is not beside {path}: the answers are in it; run {task} again with "
            "--log_samples."
        )
    lines = file.read_text(encoding="utf-8").split("\n")
    return [_sample(line, file, n, task) for n, line in enumerate(lines, start=1) if line]


def _sample(line: str, file: Path, number: int, task: str) -> dict[str, Any]:
    """One line, checked to hold a question and as many answers as the task has turns."""
    try:
        sample: dict[str, Any] = json.loads(line)
        doc, answers = sample["doc"], _answers(sample)
        texts = [doc["id"], doc["category"], *doc["turns"], *answers]
        if all(isinstance(text, str) for text in texts) and len(answers) == TURNS[task]:
            return sample
    except (ValueError, LookupError, TypeError):
        pass
    raise UserError(f"{file}, line {number} is no sample of {task}; run it again.")


def _answers(sample: Mapping[str, Any]) -> list[str]:
    [answer] = sample["filtered_resps"]
    return answer if isinstance(answer, list) else [answer]


def _asks(
    sample: Mapping[str, Any], task: str, data: JudgeData, settings: Options
) -> list[list[Ask]]:
    doc = sample["doc"]
    question: Question = {"id": doc["id"], "category": doc["category"], "turns": doc["turns"]}
    answers = [answer.strip() for answer in _answers(sample)]
    asked = []
    for turn in range(TURNS[task]):
        messages = judge_messages(data, question, answers, turn)
        repeats = range(settings.repeats)
        asked.append([ask(settings, messages, doc["id"], turn, repeat) for repeat in repeats])
    return asked


# ---- metrics and files -------------------------------------------------------------------------


def _metric(category: str) -> str:
    """The metric of a category; a comma would end the name in the harness's files."""
    return f"rating_{re.sub(r'[^0-9A-Za-z]+', '_', category)}"


def _mean(name: str, values: np.ndarray) -> dict[str, float | str]:
    """Mean and standard error; NaN without a value, "N/A" with one, as the harness writes it."""
    mean = float(values.mean()) if len(values) else math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
    return {f"{name},none": mean, f"{name}_stderr,none": error}


_LOWER = ("missing", "judge_spread", *NAMES)
_BY_TASK = ("configs", "versions", "n-shot", "task_hashes")


def _content(
    judged: Sequence[tuple[Answers, list[Rated]]], record: dict[str, Any]
) -> dict[str, Any]:
    """The source's content with the judged tasks alone and their ratings."""
    content: dict[str, Any] = json.loads(json.dumps(judged[0][0].content))
    content["config"]["judge"] = {**record, "source": judged[0][0].path.name}
    content["date"] = time.time()
    tasks = [answers.task for answers, _ in judged]
    for name in _BY_TASK:
        content[name] = {task: content.get(name, {}).get(task) for task in tasks}
    content.pop("groups", None)
    content |= {"group_subtasks": {}, "results": {}, "higher_is_better": {}}
    for answers, rows in judged:
        metrics = summary(rows)
        done = len(rows) - int(metrics["missing,none"])
        names = [name.partition(",")[0] for name in metrics if "_stderr," not in name]
        content["results"][answers.task] = {
            "name": answers.task,
            "alias": answers.task,
            "sample_len": done,
            **metrics,
        }
        content["n-samples"][answers.task]["effective"] = done
        content["higher_is_better"][answers.task] = {name: name not in _LOWER for name in names}
        # What has to agree before ratings are compared; where it is served does not.
        compared = {name: value for name, value in record.items() if name != "base_url"}
        content["configs"][answers.task]["metadata"]["data_used"]["judge"] = compared
    return content


def _line(sample: Mapping[str, Any], row: Rated) -> str:
    """The sample with its rating; null where it is missing."""
    scores: dict[str, float | None] = {"rating": row.rating}
    if len(row.verdicts) > 1:
        for number in range(len(row.verdicts)):
            scores[f"rating_turn_{number + 1}"] = row.turns[number] if row.turns else None
    line = {**sample, **scores, "metrics": list(scores), "verdicts": row.verdicts}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _short_hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
