"""`ctx-eval run`: the harness's own `run`, with our models and tasks known."""

from __future__ import annotations

import argparse
import textwrap
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import typer

from ctx_models import model_names, nano
from ctx_models.commands import backends, judge, preflight
from ctx_models.launched import end_when_alone, say_when_ended
from ctx_models.registry import OURS, check_model, register_model
from ctx_tasks import harness
from ctx_tasks.catalogue import task_folder, tasks
from ctx_tasks.errors import UserError

PASS_THROUGH: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
_HELP = """\
usage: ctx-eval run --model hf-ctx --model_args pretrained=M[,KEY=VALUE] --tasks TASK[,TASK] [...]

Evaluate a model: every flag of `lm_eval run`, with our models and tasks known.

Example:
  ctx-eval run --model hf-ctx --model_args pretrained=nano-chat,alpha=0.9 \\
      --tasks nano_context_awareness --apply_chat_template --batch_size 8 --device cpu \\
      --log_samples --output_path results/steered
  accelerate launch --num_processes 4 --no_python ctx-eval run ...    (several GPUs)

Model arguments of hf-ctx, beside all those of hf, and of vllm-ctx, beside all those of vllm:
  pretrained=M            folder, hub name, .gguf file, a bundled model: {bundled},
                          or a package's: {packaged}
  alpha=1.0               attention on all but the user's text is weighted by this; 1 is off
  schedule=constant       or compound: alpha to the power of the layer's number
  steer_generated=true    false: tokens the model wrote keep their weight
  overlength=mark         skip or refuse prompts longer than the window; mark counts them
  cut=left                frame: such a prompt loses the middle of the user's text
  think_tokens=1024       longest thought, up to think_end_token=TAG; answers have their own limit
  steer_thought=true      false: only the answer is steered
  layers=8-15+20          layers to steer; all by default
  heads=FILE              JSON {{"layer": [heads]}} to steer; all by default
  indicator=[IND]         token appended to the user turn
  indicator_turns=last    or all
  indicator_strict=true   false: also what is not one token of the tokenizer
  instruction=TEXT        a sentence put into the prompt, such as "Answer from the passage only."
  instruction_turn=user   or system

Tasks of ours (`ctx-eval ls` says what each measures):
{tasks}

With --output_path, answers are kept beside the results as they come: a killed run goes on when the
same command is given again, --fresh starts over. Sampled answers (do_sample) are not kept.

Exit codes: 0 done, 2 a mistake in the command, 70 what nobody foresaw (CTX_DEBUG=1 shows where).

What follows is the harness's own help.

"""


def command(context: typer.Context) -> None:
    """Evaluate a model: `lm_eval run`, our models and tasks known.

    \b
    Example:
      ctx-eval run --model hf-ctx --model_args pretrained=M,alpha=0.9 \\
          --tasks nih_recall --apply_chat_template
    """
    parser = harness.run_parser()
    parser.prog = "ctx-eval run"
    parser.add_argument(
        "--fresh", action="store_true", help="Forget what an unfinished run has answered"
    )
    if not context.args or {"-h", "--help"} & set(context.args):
        typer.echo(_help() + parser.format_help(), nl=False)
        return
    try:
        args = parser.parse_args(context.args)
    except ValueError as error:
        # Whatever holds braces is read as JSON as a whole.
        raise UserError(
            f"{str(error).partition(' Hint')[0]} Write JSON alone, or KEY=VALUE pairs without "
            "braces; heads= is the name of a file."
        ) from error
    evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Run the harness on what was parsed from the command line.

    Raises:
        UserError: what is wrong with the arguments, before the model loads where possible.
    """
    register_model()
    say_when_ended("ctx-eval")
    # The harness would take it for one of its own.
    fresh = vars(args).pop("fresh")
    config = config_file(args)
    given = preflight.Given.of(args, config)
    check_model(given.model, given.model_args.get("pretrained"))
    preflight.check(given)
    args.include_path = _include_paths(given)
    args.model_args = bundled_model(args, given)
    with ExitStack() as around:
        around.enter_context(judge.afterwards(args, config))
        around.enter_context(harness.git_unheard())
        around.enter_context(_kept(given, fresh))
        if backends.is_api(given.model):
            around.enter_context(harness.no_empty_stop())
        around.enter_context(
            harness.our_copy_untold()
            if preflight.known_tasks(given) is None
            else harness.without_defaults()
        )
        around.enter_context(end_when_alone("ctx-eval"))
        _call(args, given)


def _kept(given: preflight.Given, fresh: bool) -> AbstractContextManager[None]:
    """Answers are kept beside the results, until those are written."""
    if given.model not in OURS or given.output_path is None:
        return nullcontext()
    named = given.output_path.suffix == ".json"
    folder = given.output_path.parent if named else given.output_path
    before = set(folder.rglob("*.json"))
    from ctx_models.kept import kept_in

    return kept_in(
        folder / ".answers",
        {"model_args": dict(given.model_args)},
        fresh=fresh,
        say=lambda text: typer.echo(f"ctx-eval: {text}", err=True),
        # The harness logs an error where it cannot write, and goes on.
        written=lambda: set(folder.rglob("*.json")) > before,
    )


def config_file(args: argparse.Namespace) -> dict[str, Any]:
    """The mapping in the file of `--config`; empty without one (the harness says what is wrong)."""
    if not args.config or not Path(args.config).is_file():
        return {}
    import yaml

    try:
        content = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def bundled_model(args: argparse.Namespace, given: preflight.Given) -> Any:
    """The model arguments, with the folder of a model of ours as `pretrained` where it is named.

    Our models find it by themselves, but the needle test reads the tokenizer by the same argument.
    """
    if given.model not in OURS:
        return args.model_args
    named = given.model_args.get("pretrained")
    if named is None:
        typer.echo(f"ctx-eval: no `pretrained` given; using the bundled {nano.DEFAULT}.", err=True)
    return {**given.model_args, "pretrained": model_names.resolve(named)}


def _help() -> str:
    names = ", ".join(task.name for task in tasks())
    listed = textwrap.fill(names, 98, initial_indent="  ", subsequent_indent="  ")
    packaged = ", ".join(f"{name} ({one})" for name, one in model_names.PACKAGES.items())
    return _HELP.format(bundled=", ".join(nano.NAMES), packaged=packaged, tasks=listed)


def _include_paths(given: preflight.Given) -> list[str]:
    """Our task folder, and the one the user named on the command line or in --config."""
    return [str(task_folder()), *given.include_path]


def _call(args: argparse.Namespace, given: preflight.Given) -> None:
    harness.log_to_terminal()
    try:
        args.func(args)
    except ValueError as error:
        if "Tasks not found" in str(error):
            raise UserError(preflight.not_found(given)) from error
        raise
