"""`python -m training.nano`: make all nano models again from seeds, and print the README's table.

Everything goes into a new folder; `--install` puts the three models into `ctx_models/nano`
afterwards. Deterministic on one machine: torch runs on the number of threads given here.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from ctx_models import nano
from ctx_tasks.errors import UserError
from ctx_tasks.files import whole_folder
from training.nano import pretrain, tune
from training.nano.fresh import compare


def main(
    output: Annotated[
        Path | None, typer.Option(help="A new folder for models, data and results.")
    ] = None,
    install: Annotated[
        bool, typer.Option(help="Replace the bundled models by those made.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Torch threads; part of what decides bits.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the world, the starting weights, every draw.")] = 0,
) -> None:
    """Pretrain nano-base, tune nano-chat and nano-chat-ind, evaluate; over an hour on two cores."""
    torch.set_num_threads(threads)
    try:
        folder = new_folder(output)
        models = make(folder, seed)
        with timed("evaluation"):
            compare(folder / "demo", models)
        if install:
            replace_bundled(models)
    except UserError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None


def new_folder(output: Path | None) -> Path:
    """Create `output`, or a temporary folder for None.

    Raises:
        UserError: it exists and holds something.
    """
    if output is None:
        return Path(tempfile.mkdtemp(prefix="nano-"))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists already; name a new or empty folder.")
    output.mkdir(parents=True, exist_ok=True)
    return output


def make(folder: Path, seed: int) -> dict[str, Path]:
    """Make the three models below `folder`; returns their folders by name."""
    models = {name: folder / name for name in nano.NAMES}
    base, chat, indicator = models.values()
    work = folder / "work"
    data = work / "conversations.jsonl"
    with timed("nano-base"):
        pretrain.make_base(base, seed=seed)
    with timed("conversations"):
        tune.write_conversations(base, data, seed=seed)
    with timed("nano-chat"):
        tune.make_chat(base, data, work, chat)
    with timed("nano-chat-ind"):
        found = tune.make_indicator(base, chat, data, work, indicator)
    print(
        f"eq. 2 marked {found.selected} turns, {found.both} of the {found.needed} that need their "
        f"document: precision {found.precision:.3f}, recall {found.recall:.3f}"
    )
    return models


def replace_bundled(models: dict[str, Path]) -> None:
    """Copy the models to where the package keeps its own, each complete before it is seen."""
    for name, made in models.items():
        with whole_folder(nano.folder(name)) as incoming:
            shutil.copytree(made, incoming, dirs_exist_ok=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the body took."""
    start = time.monotonic()
    yield
    print(f"{what}: {(time.monotonic() - start) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    typer.run(main)
