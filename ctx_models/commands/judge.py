"""`ctx-eval judge`: rate the MT-Bench answers of finished runs, and compare them, paired.

The same is done at the end of a `ctx-eval run` whose --metadata names a `judge_model`: the answers
are on the disk by then, so nothing that goes wrong with the judge costs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctx_tasks.columns import TURNS
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from ctx_tasks.judge.cost import Estimate
    from ctx_tasks.judge.endpoint import Options


def command(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results files, or folders of them: the newest of each arm."),
    ],
    model: Annotated[str, typer.Option(help="The judge, as its endpoint calls it.")],
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint; default OPENAI_BASE_URL, or OpenAI's own.")
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(help="Judge prompts and reference answers; default: the run's, or published."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Verdicts an answer; the median counts.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest reply of the judge.")] = 2048,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole reply.")] = 120.0,
    retries: Annotated[
        int, typer.Option(help="After rate limits, server errors, broken connections.")
    ] = 6,
    price_in: Annotated[float | None, typer.Option(help="Dollars per million tokens read.")] = None,
    price_out: Annotated[
        float | None, typer.Option(help="Dollars per million tokens written.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Dollars; refuse or stop beyond. Needs both prices.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after the estimate.")] = False,
    verdicts: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps every verdict; default verdicts.jsonl beside each results file."
        ),
    ] = None,
) -> None:
    """Rate MT-Bench answers from 1 to 10 with a judge model.

    The judge's key is in OPENAI_API_KEY.

    \b
    Example:
      ctx-eval judge results/ --model gpt-4 --price-in 30 --price-out 60
    """
    from ctx_tasks.judge.endpoint import Options

    settings = Options(
        model=model,
        base_url=base_url,
        repeats=repeats,
        max_tokens=max_tokens,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        price_in=price_in,
        price_out=price_out,
        max_cost=max_cost,
        yes=yes,
    )
    judge(results, settings, files, verdicts)


@contextmanager
def afterwards(args: argparse.Namespace, config: dict[str, Any]) -> Iterator[None]:
    """Around a `ctx-eval run`: says before the model loads what becomes of MT-Bench answers.

    With `judge_model` among the --metadata they are judged when the run is written; without it
    they wait for `ctx-eval judge`.

    Raises:
        UserError: answers that would be lost, or judge settings that cannot work.
    """
    tasks = args.tasks or config.get("tasks") or []
    named = tasks.split(",") if isinstance(tasks, str) else tasks
    if not TURNS.keys() & set(named):
        yield
        return
    output = args.output_path or config.get("output_path")
    logged = any(getattr(args, n, None) or config.get(n) for n in ("log_samples", "predict_only"))
    if not (output and logged):
        raise UserError(
            "The answers to MT-Bench are in the sample files, which the judge reads: add "
            "--log_samples --output_path FOLDER."
        )
    settings = settings_in(args.metadata or config.get("metadata") or {})
    if settings is None:
        typer.echo(
            "ctx-eval: no judge_model in --metadata: the answers to MT-Bench are only saved; rate "
            f"them with `ctx-eval judge {output} --model JUDGE`.",
            err=True,
        )
    before = _written(output)
    yield
    # The other processes of a distributed run have written nothing.
    if settings is not None and int(os.environ.get("RANK", "0")) == 0:
        new = sorted(_written(output) - before)
        if not new:
            raise UserError(f"The run has written no results file to {output}: nothing to judge.")
        judge(new, settings)


def settings_in(metadata: dict[str, Any]) -> Options | None:
    """The judge that --metadata names by `judge_*`, of a command that does not stop to ask.

    Raises:
        UserError: settings that cannot work.
    """
    from ctx_tasks.judge.endpoint import options, require_key

    given = {n.removeprefix("judge_"): v for n, v in metadata.items() if n.startswith("judge_")}
    if not given:
        return None
    settings = options(given)
    require_key(settings)
    if not settings.yes and settings.max_cost is None:
        raise UserError(
            "A run does not stop to ask: allow the judge with judge_yes=true, or with "
            "judge_max_cost (and judge_price_in, judge_price_out), in --metadata."
        )
    return settings


def _written(output: str) -> set[Path]:
    """Results files under an --output_path (a folder, or a name ending in .json)."""
    from ctx_tasks.result_files import results_files

    path = Path(output)
    return set(path.parent.glob(f"{path.stem}_*.json") if path.suffix else results_files(path))


def judge(
    paths: list[Path], settings: Options, files: Path | None = None, verdicts: Path | None = None
) -> None:
    """Rate the answers in `paths`, then show the ratings and what differs.

    Raises:
        UserError: nothing to judge, the judge refuses, or, when all is written, missing ratings.
    """
    from ctx_tasks import tables
    from ctx_tasks.judge import run as judge_run
    from ctx_tasks.judge import table as judge_table

    done = judge_run.judge(paths, settings, lambda cost: _agree(cost, settings), files, verdicts)
    console = tables.terminal()
    for table in judge_table.tables(done.written):
        tables.show(table, console)
    for said in judge_table.differences(done.written):
        tables.say(said, console)
    for path in done.written:
        tables.say(f"Wrote {path}", console)
    typer.echo(f"ctx-eval: the judge {done.meter.report()}.", err=True)
    if done.missing:
        why = f" ({done.problems})" if done.problems else ""
        raise UserError(
            f"{done.missing} of {done.questions} answers got no rating{why}: repeat the command, "
            "which asks for what is missing alone, or name a judge that ends with [[n]], n from 1 "
            "to 10."
        )


def _agree(cost: Estimate, settings: Options) -> None:
    """Say what it will cost, and go on only with a limit above it, --yes or the user's word."""
    typer.echo(f"ctx-eval: judging by {settings.model}: {cost.sentence()}.", err=True)
    if settings.max_cost is not None and cost.cost is not None:
        if cost.cost > settings.max_cost:
            raise UserError(
                f"Judging would cost about ${cost.cost:.2f}, more than max_cost "
                f"{settings.max_cost}; raise it, or take a cheaper judge. The answers are kept."
            )
        return
    if settings.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"Judging takes {cost.sentence()}; allow it with --yes, or with --max-cost and the two "
            "prices."
        )
    if not typer.confirm("Go on?", err=True):
        raise UserError("Nothing was asked of the judge; the answers are kept.")
