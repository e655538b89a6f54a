"""`ctx-eval gate`: exit 0 pass, 1 regression, 2 inconclusive, 3 error."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ctx_models.commands import choice
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
    results: Annotated[Path, typer.Argument(help="Results file or folder, with samples.")],
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
) -> None:
    """Tell whether a checkpoint lost context awareness.

    Exit codes: 0 pass, 1 regression, 2 inconclusive, 3 error.

    \b
    Examples:
      ctx-eval gate --save baseline.json results/main
      ctx-eval gate --baseline baseline.json results/new --markdown comment.md --junit gate.xml
    """
    reports = {"junit": junit, "markdown": markdown, "json": json}
    try:
        # The baseline itself may be replaced: by results that passed.
        if save is not None and save.exists() and save != baseline and not force:
            raise UserError(f"--save {save} is there already: name another file, or add --force.")
        asked = choice.read(metric, filter)
        code = _gate(results, baseline, save, margin, margins, asked, reports)
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
) -> int:
    from ctx_tasks.gate import baseline as baselines
    from ctx_tasks.gate import decision as gate
    from ctx_tasks.gate.margin import Margin
    from ctx_tasks.tables import plain_text

    if baseline is None and save is None:
        raise UserError("Nothing to do: give --baseline FILE to compare with, or --save FILE.")
    if baseline is not None and baseline.resolve() == results.resolve():
        raise UserError(f"{results} is the baseline itself; give the results to be judged.")
    tolerated, by_task = Margin.read(margin), _margins(margins)
    new = baselines.read(results, asked)
    code = 0
    if baseline is not None:
        start = time.perf_counter()
        pairs = gate.match(baselines.read(baseline, asked), new)
        decisions = gate.decide(pairs, tolerated, by_task)
        found = list(zip([gate.named(result) for _, result in pairs], decisions, strict=True))
        _show(found)
        _write(found, str(baseline), time.perf_counter() - start, reports)
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
    seconds: float,
    reports: dict[str, Path | None],
) -> None:
    from ctx_tasks.gate import formats

    texts = {
        "junit": lambda: formats.junit(found, seconds),
        "markdown": lambda: formats.markdown(found),
        "json": lambda: formats.as_json(found, baseline),
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


def _show(found: list[tuple[str, Decision]]) -> None:
    from ctx_tasks import tables
    from ctx_tasks.gate import formats as gate_formats

    console = tables.terminal()
    for name, decision in found:
        tables.say(name, console)
        tables.show(gate_formats.table(decision), console)
        for said in gate_formats.sentences(decision):
            tables.say(said, console)
        tables.say(f"gate: {gate_formats.word(decision.verdict)}", console)
