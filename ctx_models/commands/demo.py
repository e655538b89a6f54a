"""`ctx-eval demo`: the paper's comparison on the bundled models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for results, heatmaps and commands.")
    ] = Path("ctx-demo"),
    full: Annotated[
        bool, typer.Option(help="All 400 cells and 400 questions, for the README's table.")
    ] = False,
) -> None:
    """Show the paper's comparison on bundled models.

    What a chat template costs, and two remedies; offline, on a CPU.

    \b
    Example:
      ctx-eval demo -o ctx-demo
    """
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
