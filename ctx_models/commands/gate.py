"""`ctx-eval gate`: exit 0 pass, 1 regression, 2 inconclusive, 3 error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ctx_models.commands.entry import tell
from ctx_models.commands.output import put
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from ctx_tasks.gate.decision import Judgement, Margin

ERROR = 3


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
    save: Annotated[Path | None, typer.Option(help="Write RESULTS as a baseline file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --save replace a file.")] = False,
    margin: Annotated[str, typer.Option(help="Loss tolerated: 0.01, or a share: 5%.")] = "0.01",
    margins: Annotated[
        Path | None, typer.Option(help="YAML of margins by task, such as `drop_contains: 5%`.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Instead of each task's own (score, rating, acc).")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write JSON.")] = None,
) -> None:
    """Tell whether a checkpoint lost context awareness.

    Exit codes: 0 pass, 1 regression, 2 inconclusive, 3 error.

    \b
    Examples:
      ctx-eval gate --save baseline.json results/main
      ctx-eval gate --baseline baseline.json results/new --markdown comment.md --junit gate.xml
    """
    try:
        if save is not None and save.exists() and not force:
            raise UserError(f"--save {save} is there already: name another file, or add --force.")
        code = _gate(results, baseline, save, margin, margins, metric, junit, markdown, json)
    # A crash must not exit with 1, which means regression.
    except Exception as error:
        tell("ctx-eval gate: error", error)
        code = ERROR
    raise typer.Exit(code)


def _gate(
    results: Path,
    baseline: Path | None,
    save: Path | None,
    margin: str,
    margins: Path | None,
    metric: str | None,
    junit: Path | None,
    markdown: Path | None,
    json: Path | None,
) -> int:
    from ctx_tasks.gate import baseline as baselines
    from ctx_tasks.gate import decision as gate
    from ctx_tasks.gate import formats as gate_formats

    if baseline is None and save is None:
        raise UserError("Nothing to do: give --baseline FILE to compare with, or --save FILE.")
    tolerated, by_task = gate.Margin.read(margin), _margins(margins)
    new = baselines.read(results, metric)
    if save is not None:
        put(baselines.text(new), save)
        typer.echo(f"Saved {len(new)} run{'s' if len(new) != 1 else ''} as a baseline: {save}")
    if baseline is None:
        return 0
    pairs = gate.match(baselines.read(baseline, metric), new)
    names = [f"{result.checkpoint}, {result.arm.name}" for _, result in pairs]
    named = list(zip(names, gate.judge(pairs, tolerated, by_task), strict=True))
    _show(named)
    for path, form in (
        (junit, gate_formats.junit),
        (markdown, gate_formats.markdown),
        (json, gate_formats.as_json),
    ):
        if path is not None:
            put(form(named), path)
            typer.echo(f"Wrote {path}")
    return int(gate.worst([judgement.verdict for _, judgement in named]))


def _margins(path: Path | None) -> dict[str, Margin]:
    import yaml

    from ctx_tasks.gate.decision import Margin

    if path is None:
        return {}
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--margins {path} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"--margins {path} must hold lines such as `drop_contains: 0.02`.")
    return {str(task): Margin.read(value) for task, value in content.items()}


def _show(named: list[tuple[str, Judgement]]) -> None:
    from ctx_tasks import tables
    from ctx_tasks.gate import formats as gate_formats

    console = tables.terminal()
    for name, judgement in named:
        tables.say(name, console)
        tables.show(gate_formats.table(judgement), console)
        for said in gate_formats.sentences(judgement):
            tables.say(said, console)
        tables.say(f"gate: {gate_formats.word(judgement.verdict)}", console)
