"""How `ctx-eval` and `ctx-train` start, and how they end when something goes wrong.

A mistake of the user's is one sentence and exit code 2 (`ctx-eval gate`: 3). What nobody foresaw is
one sentence and exit code 70, as a crash of a program ends in sysexits.h. With `CTX_DEBUG=1` in the
environment the traceback stands before either sentence.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from ctx_tasks.errors import UserError

MISTAKE = 2
UNFORESEEN = 70
# `--max_length` is `--max-length`: the harness writes its flags so, typer writes ours so.
SETTINGS: dict[str, Any] = {"token_normalize_func": lambda token: token.replace("_", "-")}


def new_app(help: str) -> typer.Typer:
    """An empty command line in the style of both programs."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
    )


def start(app: typer.Typer, program: str, arguments: list[str] | None = None) -> Any:
    """Run the command line; anything that goes wrong becomes one sentence and an exit code."""
    try:
        return app(arguments, prog_name=program)
    except UserError as error:
        tell(program, error)
        sys.exit(MISTAKE)
    except Exception as error:
        tell(program, error)
        sys.exit(UNFORESEEN)


def tell(program: str, error: BaseException) -> None:
    """Print the sentence of an error; before it, on request, how it came to be."""
    if os.environ.get("CTX_DEBUG"):
        traceback.print_exception(error)
    print(f"{program}: {sentence(error)}", file=sys.stderr)


def sentence(error: BaseException) -> str:
    """A mistake's own sentence; for anything else its kind, its first line, and how to see more."""
    if isinstance(error, UserError):
        return str(error)
    return f"{first_line(error)} (not foreseen: CTX_DEBUG=1 shows where it came from)"


def first_line(error: BaseException) -> str:
    """The first line of an error, with its kind unless it is a sentence of ours."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def _print_version(asked: bool) -> None:
    if asked:
        version = importlib.metadata.version
        typer.echo(f"lm-eval-ctx {version('lm-eval-ctx')} (lm-eval {version('lm-eval')})")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
]
