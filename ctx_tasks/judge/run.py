"""From finished MT-Bench runs to judged ones: read, ask what is not known yet, write.

Beside each results file lies `verdicts.jsonl` with what the judge said about the answers in that
folder, so no way of naming the results pays for a verdict twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ctx_tasks.answers import unanswered
from ctx_tasks.judge.cost import Estimate, Meter, Price, estimate
from ctx_tasks.judge.endpoint import Endpoint, Options
from ctx_tasks.judge.ratings import Answers, Rated, asks, rated, read_answers, write
from ctx_tasks.judge.replies import VerdictFile
from ctx_tasks.judge.verdicts import Ask, Outcome, rate, reasons
from ctx_tasks.mt_bench.data import judge_data


@dataclass(frozen=True)
class Judged:
    """What became of the answers.

    Attributes:
        written: the judged results files, in the order of the runs.
        questions, missing: how many there are, and how many have no rating.
        problems: why verdicts are missing, each kind of reason with its number.
        meter: what it cost.
    """

    written: list[Path]
    questions: int
    missing: int
    problems: str
    meter: Meter


def judge(
    paths: Iterable[Path],
    settings: Options,
    agree: Callable[[Estimate], None],
    files: Path | None = None,
    verdicts: Path | None = None,
    meter: Meter | None = None,
) -> Judged:
    """Rate the answers in `paths` and write a judged results file beside each run's own.

    Args:
        agree: told the estimate before the first request; raises to stop.
        files: judge prompts and reference answers; None for those of each run, or as published.
        verdicts: the file that keeps all verdicts; None for one in each folder of results.
        meter: of several calls that cost together; None for one of this call.

    Raises:
        UserError: nothing to judge, unreadable data, or a judge that refuses; verdicts are kept.
    """
    answers = read_answers(paths)
    sources = {str(one.files): files or one.files for one in answers}
    data = {name: judge_data(source) for name, source in sources.items()}
    asked = [asks(one, data[str(one.files)], settings) for one in answers]
    wanted: dict[Path, list[Ask]] = {}
    for one, table in zip(answers, asked, strict=True):
        answered = [
            turns
            for sample, turns in zip(one.samples, table, strict=True)
            if not unanswered(sample)
        ]
        flat = [ask for turns in answered for repeats in turns for ask in repeats]
        wanted.setdefault(verdicts or one.path.parent / "verdicts.jsonl", []).extend(flat)
    meter = meter or Meter(price(settings), settings.max_cost)
    outcome = _outcome(wanted, settings, meter, agree)
    tables = [rated(one, table, outcome) for one, table in zip(answers, asked, strict=True)]
    runs: dict[Path, list[tuple[Answers, list[Rated]]]] = {}
    for one, rows in zip(answers, tables, strict=True):
        runs.setdefault(one.path, []).append((one, rows))
    written = [write(parts, data[str(parts[0][0].files)], settings) for parts in runs.values()]
    missing = [row for rows in tables for row in rows if row.rating is None]
    problems = reasons(outcome.problems.values())
    return Judged(written, sum(map(len, tables)), len(missing), problems, meter)


def price(settings: Options) -> Price | None:
    """The judge's prices; None unless both are given."""
    if settings.price_in is None or settings.price_out is None:
        return None
    return Price(settings.price_in, settings.price_out)


def _outcome(
    wanted: dict[Path, list[Ask]],
    settings: Options,
    meter: Meter,
    agree: Callable[[Estimate], None],
) -> Outcome:
    whole = Outcome({}, {})
    with ExitStack() as stack:
        endpoint = stack.enter_context(Endpoint(settings))
        kept = {path: stack.enter_context(VerdictFile(path)) for path in wanted}
        todo = [prompt for path, part in wanted.items() for prompt in _new(part, kept[path])]
        if todo:
            agree(estimate(todo, price(settings)))
        for path, part in wanted.items():
            outcome = rate(part, endpoint, kept[path], meter)
            whole.ratings.update(outcome.ratings)
            whole.problems.update(outcome.problems)
    return whole


def _new(asked: Sequence[Ask], file: VerdictFile) -> list[str]:
    """The prompts that will be sent."""
    new = {ask.key: ask for ask in asked if ask.key not in file.ratings}
    return ["".join(message["content"] for message in ask.messages) for ask in new.values()]
