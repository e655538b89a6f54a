"""`ctx-eval tune`: which remedy, honestly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctx_models.commands.output import put
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from ctx_models.tune.plan import Tuning
    from ctx_tasks.arm import Arm
    from ctx_tasks.tune.outcome import Outcome

ALPHAS, SCHEDULES = "0.9,0.7,0.5,0.3", "constant,compound"
SENTENCE = "Answer from the passage only."
_OFF = "none"


def command(
    model_args: Annotated[
        list[str] | None,
        typer.Option("--model_args", help="As for hf-ctx; repeat it for another checkpoint."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Context tasks and groups, whose mean gain chooses.")
    ] = "context_awareness",
    at_most: Annotated[
        list[str] | None,
        typer.Option(
            "--at-most",
            help="TASK=LOSS, what may be lost, such as mmlu=0.01; may be repeated. Of mt_bench in "
            "points of the rating; the judge is named in --metadata as for ctx-eval run.",
        ),
    ] = None,
    alphas: Annotated[
        str | None, typer.Option(help=f"By default {ALPHAS}; none for no steering.")
    ] = None,
    schedules: Annotated[str | None, typer.Option(help=f"By default {SCHEDULES}.")] = None,
    head_set: Annotated[
        list[str] | None,
        typer.Option("--head-set", help="A JSON file of heads, beside all; may be repeated."),
    ] = None,
    instruction: Annotated[
        list[str] | None, typer.Option(help="A sentence; may be repeated; none for no sentence.")
    ] = None,
    unbegun: Annotated[
        bool, typer.Option("--unbegun", help="Context tasks as they are, answers not begun.")
    ] = False,
    metadata: Annotated[str, typer.Option(help="JSON, as for ctx-eval run.")] = "{}",
    include_path: Annotated[
        str | None, typer.Option("--include_path", help="Folder of your own task files.")
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="Documents of each task, or a share of them below 1.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Answers that choosing may take at most.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the halves.")] = 0,
    batch_size: Annotated[str, typer.Option(help="A number or auto.")] = "1",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Rank layers, then heads, by steering each alone.")
    ] = False,
    layers: Annotated[
        int, typer.Option(min=1, help="With --heads: so many best layers' heads are tried.")
    ] = 4,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="With --heads: heads in a set; by default one in 16, at least 2."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, run nothing.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("tune"),
) -> None:
    """Choose a remedy on half the documents, judge it on the rest.

    Candidates: alphas x schedules x sets of heads, [IND] where the tokenizer has it, a sentence.
    None of them wins where nothing is shown to help. Killed, the same command goes on.

    \b
    Examples:
      ctx-eval tune --model_args pretrained=M --at-most mmlu=0.01 --limit 400
      ctx-eval tune --tasks nano_context_awareness --at-most nano_by_heart=0.05
      ctx-eval tune --heads --alphas 0.5 --dry-run   # what ranking the heads would take
      ctx-eval leaderboard tune/                     # none and the choice on the reporting half
    """
    from ctx_models.commands import judge
    from ctx_models.sweep.plan import task_files
    from ctx_models.tune import plan
    from ctx_models.tune import run as tune
    from ctx_tasks.tune.outcome import as_json

    told = _mapping(metadata)
    settings = plan.Settings(
        tuple(_words(tasks)),
        output,
        _prices(at_most or []),
        not unbegun,
        # Another judge, or a higher limit, makes no other answers.
        {name: value for name, value in told.items() if not name.startswith("judge_")},
        limit,
        batch_size if batch_size.startswith("auto") else int(_number("--batch-size", batch_size)),
        device,
        budget,
        seed,
        judge.settings_in(told),
        None if include_path is None else task_files(include_path),
    )
    one_by_one = plan.checkpoints(model_args or [""])
    if heads:
        arm = _one_arm(alphas, schedules)
        _by_effect(
            [plan.read(one, [arm], settings) for one in one_by_one], (layers, count), dry_run
        )
        return
    sentences = [one for one in instruction or [SENTENCE] if one != _OFF]
    strengths = _numbers("--alphas", "" if alphas == _OFF else alphas or ALPHAS)
    kinds = _words(schedules or SCHEDULES)
    candidates = plan.remedies(strengths, kinds, head_set or [], sentences)
    tunings = [plan.read(one, candidates, settings) for one in one_by_one]
    for tuning in tunings:
        typer.echo(_cost(tuning))
    if dry_run:
        return
    outcomes = tune.run(tunings)
    put(as_json(outcomes), output / "tune.json")
    _show(outcomes, output)


def _by_effect(tunings: list[Tuning], sizes: tuple[int, int | None], dry_run: bool) -> None:
    """Rank the heads of each checkpoint, and show what they are worth."""
    from ctx_models.tune import heads
    from ctx_tasks import tables
    from ctx_tasks.tune.ranking import as_json, sets_table, units_table

    [tuning, *others] = tunings
    if others:
        raise UserError("--heads ranks the heads of one model: give one --model_args.")
    found = heads.search(tuning, tuning.candidates[0], *sizes)
    runs, answers = heads.cost(tuning, found)
    typer.echo(f"{tuning.checkpoint.name}: {found.runs}, {runs} runs, at most {answers} answers.")
    if dry_run:
        return
    ranking = heads.run(tuning, found)
    output = tuning.plan.output
    put(as_json(ranking), output / "heads-tune.json")
    console = tables.terminal()
    tables.show(units_table(ranking, found.count), console)
    tables.show(sets_table(ranking), console)
    tables.say(f"Heads: {output / 'heads.json'} (hf-ctx heads=)", console)
    tables.say(f"Results of the other half: {output} (ctx-eval leaderboard {output})", console)


def _one_arm(alphas: str | None, schedules: str | None) -> Arm:
    """The one steering that heads are ranked in."""
    from ctx_models.tune.plan import remedies

    strengths, kinds = _numbers("--alphas", alphas or ""), _words(schedules or "constant")
    if len(strengths) != 1 or len(kinds) != 1:
        raise UserError(
            f"--heads steers in one way: give one alpha and one schedule, such as --alphas 0.5 "
            f"--schedules constant (--alphas is {alphas}, --schedules {schedules})."
        )
    return remedies(strengths, kinds, [], [])[0]


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.split(",") if word.strip()]


def _numbers(option: str, given: str) -> list[float]:
    return [_number(option, one) for one in _words(given)]


def _number(option: str, given: str) -> float:
    try:
        return float(given)
    except ValueError as error:
        raise UserError(f"{option} {given}: {given!r} is not a number.") from error


def _prices(given: list[str]) -> dict[str, float]:
    """TASK=LOSS as a mapping."""
    found = {}
    for one in given:
        task, _, allowed = one.rpartition("=")
        if not task:
            raise UserError(f"--at-most {one} is not TASK=LOSS, such as mmlu=0.01.")
        found[task] = _number(f"--at-most {task}=", allowed)
        if found[task] < 0:
            raise UserError(f"--at-most {one}: what may be lost is 0 or more.")
    return found


def _mapping(given: str) -> dict[str, Any]:
    try:
        found = json.loads(given)
    except json.JSONDecodeError as error:
        raise UserError(f"--metadata {given} is not JSON: {error.msg}.") from error
    if not isinstance(found, dict):
        raise UserError(f"--metadata {given} must be a JSON object.")
    return found


def _cost(tuning: Tuning) -> str:
    """What it will take, before it starts."""
    from ctx_models.tune import run as tune

    rounds = ", ".join(f"{one.candidates} on {one.end:g}" for one in tuning.rounds)
    rated = "" if tuning.judge is None else f", to MT-Bench rated by {tuning.judge.model}"
    return (
        f"{tuning.checkpoint.name}: {len(tuning.candidates)} candidates ({rounds} of the choosing "
        f"half), {tune.measurements(tuning) + 2} runs, at most {tune.answers(tuning)} answers"
        f"{rated}."
    )


def _show(outcomes: list[Outcome], output: Path) -> None:
    from ctx_tasks import tables
    from ctx_tasks.tune.outcome import sentences, table

    console = tables.terminal()
    for outcome in outcomes:
        tables.show(table(outcome), console)
        for said in sentences(outcome):
            tables.say(said, console)
        # A command line is not folded.
        typer.echo(outcome.command)
    tables.say(f"Results of the other half: {output} (ctx-eval leaderboard {output})", console)
