"""What can be seen to be wrong with a `ctx-eval run` before its model loads."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ctx_models.commands import backends
from ctx_models.generation import check_generation, void
from ctx_tasks import harness
from ctx_tasks.catalogue import tasks
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

_TRACKERS = {"wandb_args": "wandb", "trackio_args": "trackio"}


@dataclass(frozen=True)
class Given:
    """What the user asked for, on the command line or in the file of --config."""

    model: str
    model_args: Mapping[str, Any]
    tasks: tuple[str, ...]
    metadata: Mapping[str, Any]
    gen_kwargs: Mapping[str, Any]
    include_path: tuple[str, ...]
    output_path: Path | None
    args: argparse.Namespace

    @classmethod
    def of(cls, args: argparse.Namespace, config: Mapping[str, Any]) -> Given:
        """Read both; the command line wins, as in the harness."""

        def mapping(name: str) -> dict[str, Any]:
            value = getattr(args, name) or config.get(name) or {}
            return harness.read_arguments(value) if isinstance(value, str) else dict(value)

        asked = args.tasks or config.get("tasks") or []
        listed = [asked] if isinstance(asked, str) else asked
        include = args.include_path or config.get("include_path")
        output = args.output_path or config.get("output_path")
        return cls(
            model=args.model or config.get("model") or "hf",
            model_args=mapping("model_args"),
            tasks=tuple(name for one in listed for name in str(one).split(",")),
            metadata=mapping("metadata"),
            gen_kwargs=mapping("gen_kwargs"),
            include_path=(include,) if include else (),
            output_path=Path(output) if output else None,
            args=args,
        )


def check(given: Given) -> None:
    """Refuse what cannot work, and warn of what does nothing.

    Raises:
        UserError: the first mistake found.
    """
    _check_flags(given)
    _check_trackers(given)
    # The harness evaluates first, then only logs that nothing could be saved.
    if given.output_path is not None:
        named = given.output_path.suffix == ".json"
        require_writable(given.output_path if named else given.output_path / "results.json")
    check_metadata(given.metadata, given.tasks)
    entries = known_tasks(given) or []
    backends.check(given.model, given.gen_kwargs, entries)
    for entry in entries:
        task = entry.cfg or {}
        if task.get("output_type") == "generate_until":
            _check_answers(given, entry.name, task.get("generation_kwargs") or {})


def known_tasks(given: Given) -> list[Entry] | None:
    """The tasks asked for, where our folder and the user's hold them all; else None."""
    if not given.tasks:
        return None
    from lm_eval.tasks import TaskManager

    from ctx_tasks.catalogue import task_folder

    folders: list[Any] = [str(task_folder()), *given.include_path]
    manager = TaskManager(include_path=folders, include_defaults=False)
    return harness.entries(manager, given.tasks)


def not_found(given: Given) -> str:
    """The sentence for tasks that neither we nor the harness have."""
    ours = [task.name for task in tasks()]
    close = [name for task in given.tasks for name in get_close_matches(task, ours, n=1)]
    missing = ", ".join(task for task in given.tasks if task not in ours)
    meant = f"did you mean {', '.join(dict.fromkeys(close))}? " if close else ""
    return f"Tasks not found: {missing}; {meant}`ctx-eval ls` and `lm_eval ls tasks` list them."


def check_metadata(metadata: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse a key that is nearly one our tasks read; others may be another task's.

    Raises:
        UserError: naming the key and the one that was meant.
    """
    known = _metadata_keys()
    if not {task.name for task in tasks()} >= set(names):
        return
    for key in metadata:
        close = get_close_matches(str(key), known, n=1, cutoff=0.8)
        if key not in known and close:
            raise UserError(f"--metadata has the unknown key {key!r}: did you mean {close[0]}?")


def _metadata_keys() -> list[str]:
    """What our tasks and the judge after a run take from --metadata."""
    from ctx_tasks import conflict, mt_bench, nano_world, needle, paper, reading
    from ctx_tasks.judge.endpoint import Options

    loaders: list[Callable[..., Any]] = [needle.nih, nano_world.nih, mt_bench.questions]
    loaders += [reading.squad, reading.quac, reading.drop, conflict.conflict]
    found = {name for one in loaders for name in signature(one).parameters}
    found |= {f"judge_{name}" for name in signature(Options).parameters}
    return sorted(found | paper.SETTINGS.keys() | {"questions", "mt_bench_first"})


def _check_flags(given: Given) -> None:
    """The harness's own rules about its flags, as sentences."""
    with _hushed():
        try:
            harness.validate(given.args)
        except (ValueError, TypeError, OSError) as error:
            raise UserError(f"{str(error).rstrip('.')}.") from error


@contextmanager
def _hushed() -> Iterator[None]:
    """The run itself says these things again."""
    logging.disable()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _check_trackers(given: Given) -> None:
    for flag, package in _TRACKERS.items():
        if getattr(given.args, flag) and importlib.util.find_spec(package) is None:
            raise UserError(
                f"--{flag} needs the package {package}, which is not installed: pip install "
                f"{package}, or leave the flag out."
            )


def _check_answers(given: Given, task: str, own: Mapping[str, Any]) -> None:
    """Generation arguments that stop the run, or that the task's own make void."""
    for said in void(given.gen_kwargs, own):
        typer.echo(f"ctx-eval: {task}: {said}", err=True)
    window = given.model_args.get("max_length")
    check_generation({**own, **given.gen_kwargs}, window if isinstance(window, int) else None)
