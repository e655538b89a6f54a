"""`ctx-eval`: the harness's own `run` with our model and tasks known, and what comes after it.

Nothing heavy is imported until a command needs it, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctx_models import nano
from ctx_models.commands import attention, compare, gate, judge, leaderboard, plots, rescore, sweep
from ctx_tasks.catalogue import task_folder, tasks
from ctx_tasks.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure context awareness of chat models, steer them, compare them.",
)
_PASS_THROUGH = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


@app.command(context_settings=_PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Evaluate a model: every flag of `lm_eval run`, with hf-ctx and our tasks known.

    Example: ctx-eval run --model hf-ctx --model_args pretrained=M,alpha=0.9 --tasks nih_recall
    --apply_chat_template
    """
    register_model()
    args = _run_arguments(context.args)
    config = _config_file(args)
    args.include_path = _include_paths(args, config)
    args.model_args = _bundled_model(args, config)
    with judge.afterwards(args, config):
        _call(args)


app.command("judge")(judge.command)
app.command("sweep")(sweep.command)
app.command("rescore")(rescore.command)
app.command("attention")(attention.command)
app.command("leaderboard")(leaderboard.command)
app.command("plots")(plots.command)
app.command("compare")(compare.command)
app.command("gate", cls=gate.GateCommand)(gate.command)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for results, heatmaps and commands.")] = Path(
        "ctx-demo"
    ),
    full: Annotated[
        bool, typer.Option(help="All 400 cells and 400 questions, for the README's table.")
    ] = False,
) -> None:
    """Show on bundled models what a chat template costs, and two remedies; offline, on a CPU."""
    from ctx_models.demo import run as demo
    from ctx_models.demo import summary as demo_summary
    from ctx_tasks import tables
    from ctx_tasks.files import write_text

    rows = demo.run(output, demo.FULL if full else demo.QUICK)
    said = demo_summary.sentence(rows)
    write_text(output / "table.md", f"{demo_summary.markdown(rows)}\n{said}\n")
    console = tables.terminal()
    tables.show(demo_summary.table(rows), console)
    tables.say(said, console)
    tables.say(f"Results, heatmaps and commands: {output}", console)


@app.command()
def ls(
    paths: Annotated[bool, typer.Option(help="Also print each task's YAML file.")] = False,
) -> None:
    """List our tasks, one line each (`lm_eval ls tasks` lists the harness's too)."""
    found = tasks()
    width = max(len(task.name) for task in found)
    for task in found:
        typer.echo(f"{task.name:<{width}}  {task.summary}" + (f"  [{task.path}]" if paths else ""))


def register_model() -> None:
    """Make `--model hf-ctx` known to lm-eval 0.4.13, which reads no entry points.

    `lm_eval.models` must come first: registering before its own registration would leave `hf` and
    all other built-in models unknown.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if "hf-ctx" not in model_registry:
        model_registry.register("hf-ctx", target="ctx_models.lm:CtxLM")


def _run_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments of `lm_eval run` with the harness's own parser."""
    from lm_eval._cli.run import Run

    parser = argparse.ArgumentParser(prog="ctx-eval")
    Run.create(parser.add_subparsers(dest="command"))
    return parser.parse_args(["run", *(arguments or ["--help"])])


def _config_file(args: argparse.Namespace) -> dict[str, Any]:
    """The mapping in the file of `--config`; empty without one (the harness says what is wrong)."""
    if not args.config or not Path(args.config).is_file():
        return {}
    import yaml

    try:
        content = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _include_paths(args: argparse.Namespace, config: dict[str, Any]) -> list[str]:
    """Our task folder, and the one the user named on the command line or in --config."""
    named = args.include_path or config.get("include_path")
    return [str(task_folder()), *([named] if named else [])]


def _bundled_model(args: argparse.Namespace, config: dict[str, Any]) -> Any:
    """The model arguments, with the folder of a bundled model as `pretrained` where it is meant.

    `hf-ctx` finds it by itself, but the needle test reads the tokenizer by the same argument.
    """
    from lm_eval.utils import simple_parse_args_string

    if (args.model or config.get("model")) != "hf-ctx":
        return args.model_args
    given = args.model_args or config.get("model_args") or {}
    if isinstance(given, str):
        given = simple_parse_args_string(given)
    named = given.get("pretrained")
    found = nano.resolve(named)
    if named is None:
        typer.echo(f"ctx-eval: no `pretrained` given; using the bundled {nano.DEFAULT}.", err=True)
    return {**given, "pretrained": found}


def _call(args: argparse.Namespace) -> None:
    from lm_eval.utils import setup_logging

    setup_logging()
    try:
        args.func(args)
    except ValueError as error:
        if "Tasks not found" in str(error):
            raise UserError(f"{error}; `ctx-eval ls` and `lm_eval ls tasks` list them.") from error
        raise


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a mistake of the user becomes one sentence and exit code 2."""
    try:
        return app(arguments)
    except UserError as error:
        print(f"ctx-eval: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
