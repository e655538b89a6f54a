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
from ctx_models.demo.families import NANO
from ctx_models.demo.summary import tell
from ctx_tasks.errors import UserError
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
    metadata: Mapping[str, Any] = NANO.full,
) -> None:
    """Evaluate as `ctx-eval demo --full` does, write its table, print it and its sentence.

    Args:
        output: folder for the results of each arm.
        models: folders by the names in `nano.NAMES`; None for the bundled ones.
        metadata: settings of the nano tasks.
    """
    tell(NANO, demo.run(NANO, output, metadata, models), output)


if __name__ == "__main__":
    typer.run(main)
