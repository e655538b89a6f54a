"""`ctx-eval gate`: exit 0 pass, 1 regression, 2 inconclusive, 3 error."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ctx_models.commands import choice, gate_plan
from ctx_models.commands.entry import tell
from ctx_models.commands.output import put
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from ctx_tasks.gate.decision import Decision
    from ctx_tasks.gate.margin import Margin
    from ctx_tasks.scores import Choice

INCONCLUSIVE, ERROR = 2, 3


# Typer has a click of its own, whose base of all wrong usage it does not export.
_UsageError: Any = typer.BadParameter.__mro__[1]


class GateCommand(TyperCommand):
    """A wrong option exits with 3 as well: 2 means inconclusive here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's, with our exit code."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            error.exit_code = ERROR
            raise


def command(
    results: Annotated[
        Path | None, typer.Argument(help="Results file or folder, with samples.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A saved baseline, or results to compare with.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write RESULTS as a baseline file; with --baseline only if they pass."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --save replace a file.")] = False,
    margin: Annotated[str, typer.Option(help="Loss tolerated: 0.01, or a share: 5%.")] = "0.01",
    margins: Annotated[
        Path | None, typer.Option(help="YAML of margins by task, such as `drop_contains: 5%`.")
    ] = None,
    metric: choice.Metric = None,
    filter: choice.Filter = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write JSON.")] = None,
    inconclusive_passes: Annotated[
        bool, typer.Option("--inconclusive-passes", help="Exit with 0 where nothing is shown.")
    ] = False,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="5 % false alarms over all candidates held against this baseline, not one; "
            "counted in BASELINE.series.jsonl.",
        ),
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="A baseline: say how many documents the gate needs; RESULTS, if given, are of a "
            "second run that ought to score alike."
        ),
    ] = None,
    loss: Annotated[float, typer.Option(help="--plan: the loss that is to be found.")] = 0.05,
    flips: Annotated[
        float, typer.Option(help="--plan without a second run: share of documents that flip.")
    ] = 0.05,
) -> None:
    """Tell whether a checkpoint lost context awareness.

    Exit codes: 0 pass, 1 regression, 2 inconclusive, 3 error.

    \b
    Examples:
      ctx-eval gate --save baseline.json results/main
      ctx-eval gate --baseline baseline.json results/new --markdown comment.md --junit gate.xml
      ctx-eval gate --plan baseline.json results/again --margin 0.02 --loss 0.05
    """
    reports = {"junit": junit, "markdown": markdown, "json": json}
    try:
        # The baseline itself may be replaced: by results that passed.
        if save is not None and save.exists() and save != baseline and not force:
            raise UserError(f"--save {save} is there already: name another file, or add --force.")
        asked = choice.read(metric, filter)
        if plan is not None:
            gate_plan.show(plan, results, margin, loss, flips, asked, json)
            code = 0
        elif results is None:
            raise UserError("Give the RESULTS to be judged or saved: a file or folder of them.")
        else:
            code = _gate(results, baseline, save, margin, margins, asked, reports, sequential)
    # Neither a crash nor Ctrl-C may exit with 1, which means regression.
    except (Exception, KeyboardInterrupt) as error:
        tell("ctx-eval gate: error", error)
        code = ERROR
    raise typer.Exit(0 if inconclusive_passes and code == INCONCLUSIVE else code)


def _gate(
    results: Path,
    baseline: Path | None,
    save: Path | None,
    margin: str,
    margins: Path | None,
    asked: Choice,
    reports: dict[str, Path | None],
    sequential: bool,
) -> int:
    from ctx_tasks.gate import baseline as baselines
    from ctx_tasks.gate import decision as gate
    from ctx_tasks.gate import series
    from ctx_tasks.gate.margin import Margin
    from ctx_tasks.tables import plain_text

    if baseline is None and (save is None or sequential):
        raise UserError("Nothing to do: give --baseline FILE to compare with, or --save FILE.")
    if baseline is not None and baseline.resolve() == results.resolve():
        raise UserError(f"{results} is the baseline itself; give the results to be judged.")
    tolerated, by_task = Margin.read(margin), _margins(margins)
    new = baselines.read(results, asked)
    code = 0
    if baseline is not None:
        start = time.perf_counter()
        old = baselines.read(baseline, asked)
        pairs = gate.match(old, new)
        place = series.enter(baseline, old, new) if sequential else None
        decisions = gate.decide(pairs, tolerated, by_task, series.level(place))
        found = list(zip([gate.named(result) for _, result in pairs], decisions, strict=True))
        _show(found, place)
        _write(found, str(baseline), place, time.perf_counter() - start, reports)
        code = int(gate.worst([decision.verdict for decision in decisions]))
    else:
        # A baseline that lacks a task gates the others alone: better told now.
        for note in dict.fromkeys(note for one in new for note in one.notes):
            typer.echo(plain_text(note), err=True)
    if save is not None and code == 0:
        put(baselines.text(new), save)
        typer.echo(f"Saved {len(new)} run{'s' if len(new) != 1 else ''} as a baseline: {save}")
    elif save is not None:
        typer.echo(f"{save} is not written: the results did not pass.", err=True)
    return code


def _write(
    found: list[tuple[str, Decision]],
    baseline: str,
    place: int | None,
    seconds: float,
    reports: dict[str, Path | None],
) -> None:
    from ctx_tasks.gate import formats

    texts = {
        "junit": lambda: formats.junit(found, seconds),
        "markdown": lambda: formats.markdown(found, place),
        "json": lambda: formats.as_json(found, baseline, place),
    }
    for name, path in reports.items():
        if path is not None:
            put(texts[name](), path)
            typer.echo(f"Wrote {path}")


def _margins(path: Path | None) -> dict[str, Margin]:
    import yaml

    from ctx_tasks.gate.margin import Margin

    if path is None:
        return {}
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--margins {path} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"--margins {path} must hold lines such as `drop_contains: 0.02`.")
    return {str(task): Margin.read(value) for task, value in content.items()}


def _show(found: list[tuple[str, Decision]], place: int | None) -> None:
    from ctx_tasks import tables
    from ctx_tasks.gate import formats as gate_formats

    console = tables.terminal()
    for name, decision in found:
        tables.say(name, console)
        tables.show(gate_formats.table(decision), console)
        for said in gate_formats.sentences(decision):
            tables.say(said, console)
        tables.say(f"gate: {gate_formats.word(decision.verdict)}", console)
    tables.say(gate_formats.scope(place), console)
