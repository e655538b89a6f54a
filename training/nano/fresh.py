"""`python -m training.nano.fresh`: the README's table on questions that nothing was chosen on.

The mixture of nano-chat was chosen on the bundled questions, so their scores flatter it. Questions,
needles and haystack of another seed do not.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ctx_models.demo import run as demo
from ctx_models.demo import summary as demo_summary
from ctx_tasks import tables
from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text
from training.nano import held_out
from training.nano.world import World


def main(
    output: Annotated[Path, typer.Argument(help="Folder for questions and results.")],
    seed: Annotated[int, typer.Option(help="Of the questions; 0 draws the bundled ones.")] = 1,
) -> None:
    """Draw 400 questions of each kind anew and evaluate all arms of the bundled models on them."""
    questions = output / "questions"
    try:
        held_out.write(World(), questions, seed=seed)
        compare(output / "demo", metadata={"nano_world": str(questions)})
    except UserError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None


def compare(
    output: Path,
    models: Mapping[str, Path] | None = None,
    metadata: Mapping[str, Any] = demo.FULL,
) -> None:
    """Evaluate as `ctx-eval demo --full` does, write its table, print it and its sentence.

    Args:
        output: folder for the results of each arm.
        models: folders by the names in `nano.NAMES`; None for the bundled ones.
        metadata: settings of the nano tasks.
    """
    rows = demo.run(output, metadata, models)
    said = demo_summary.sentence(rows)
    write_text(output / "table.md", f"{demo_summary.markdown(rows)}\n{said}\n")
    console = tables.terminal()
    tables.show(demo_summary.table(rows), console)
    tables.say(said, console)
    tables.say(f"All of it: {output}", console)


if __name__ == "__main__":
    typer.run(main)
