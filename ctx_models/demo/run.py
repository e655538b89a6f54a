"""`ctx-eval demo`: the paper's comparison on the bundled models and the bundled nano world.

Rows as in Tables 2 and 3 of arXiv 2411.02688: without and with the chat template, told to read in a
sentence, steered, and with `[IND]`, each with the answer begun and as the model begins it. Each is
what one `ctx-eval run` command gives, written down in `commands.txt`; here, those of one checkpoint
share one loaded model, and the harness's index of its own tasks (ten seconds) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lm_eval.tasks import TaskManager

from ctx_models import logs, nano, progress
from ctx_models.arm import read_arm
from ctx_models.evaluation import documents, evaluate
from ctx_models.indicator import INDICATOR
from ctx_models.kept import kept_in
from ctx_models.lm import CtxLM
from ctx_models.progress import Progress
from ctx_tasks import arm as arms
from ctx_tasks import columns, harness
from ctx_tasks.arm import Arm, command
from ctx_tasks.errors import UserError
from ctx_tasks.files import write_text
from ctx_tasks.plots import nih_heatmap

# The harness calls these --metadata: cells and questions an arm. Nothing is 20 x 20 and 400.
QUICK = {"lengths": 6, "depths": 6, "questions": 40}
FULL: dict[str, Any] = {}
# Fills two batches with the quick grid; larger ones are slower on a CPU (padding, cache copies).
BATCH = 18

CONTEXT_TASKS = {one.heading: one.named("nano") for one in columns.CONTEXT}
BY_HEART = columns.BY_HEART.heading
COLUMNS = {**CONTEXT_TASKS, BY_HEART: columns.BY_HEART.named("nano")}


@dataclass(frozen=True)
class Setup:
    """A bundled checkpoint (one of `nano.NAMES`) in one arm."""

    checkpoint: str
    arm: Arm

    @property
    def folder(self) -> str:
        """Name of its results: "nano-chat-chat-alpha-0.9"."""
        return f"{self.checkpoint}-{self.arm.folder}"

    @property
    def begun(self) -> Setup:
        """The same with the answer begun."""
        return replace(self, arm=self.arm.begun)

    @property
    def tasks(self) -> list[str]:
        """Names of tasks and groups, as `--tasks` takes them."""
        if self.arm.prefix:
            return ["nano_context_awareness_prefix"]
        return ["nano_context_awareness", COLUMNS[BY_HEART]]

    @property
    def model_args(self) -> dict[str, Any]:
        """What `--model_args` takes."""
        return {"pretrained": self.checkpoint, **self.arm.model_args}

    def command(self, output: Path, metadata: Mapping[str, Any]) -> str:
        """The command line that gives it, its results going where the demo puts them."""
        return command(
            self.arm,
            "hf-ctx",
            {"pretrained": self.checkpoint},
            self.tasks,
            output / self.folder / "results.json",
            metadata,
            batch_size=BATCH,
            device="cpu",
        )


SENTENCE = "Answer from the passage only."
RAW, CHAT = Setup("nano-chat", arms.RAW), Setup("nano-chat", arms.CHAT)
TOLD = Setup("nano-chat", Arm(instruction=SENTENCE))
STEERED = (
    Setup("nano-chat", Arm(alpha=0.9)),
    Setup("nano-chat", Arm(alpha=0.5)),
    Setup("nano-chat", Arm(alpha=0.9, schedule="compound")),
)
UNMARKED = Setup("nano-chat-ind", arms.CHAT)
MARKED = Setup("nano-chat-ind", Arm(indicator=INDICATOR))
# Entries of one checkpoint stand together: it is loaded once. Raw is compared begun alone.
SETUPS = (
    Setup("nano-base", arms.RAW),
    RAW.begun,
    *(one for setup in (CHAT, TOLD, *STEERED, UNMARKED, MARKED) for one in (setup.begun, setup)),
)

Samples = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Outcome:
    """What the harness reported for a setup: its results and, by task, its samples."""

    setup: Setup
    results: dict[str, Any]
    samples: Samples

    def task(self, column: str) -> str | None:
        """The setup's task in a column of the table; None where it has none."""
        plain = COLUMNS[column]
        wanted = columns.begun(plain) if self.setup.arm.prefix else plain
        return wanted if wanted in self.samples else None


def run(
    output: Path,
    metadata: Mapping[str, Any] = QUICK,
    checkpoints: Mapping[str, str | Path] | None = None,
) -> list[Outcome]:
    """Evaluate every setup on the CPU and write its results, samples and heatmap.

    Killed, it goes on where it was: no batch is answered twice.

    Args:
        output: folder for `commands.txt`, and for each setup a folder in the harness's format and a
            PNG, both named after it. Its older results are replaced when the new are complete.
        metadata: `QUICK`, `FULL`, or other settings of the nano tasks.
        checkpoints: folders by the names in `nano.NAMES`; None for the bundled ones.

    Raises:
        UserError: the folder cannot be written, or a checkpoint cannot be loaded.
    """
    folders = checkpoints or {name: nano.folder(name) for name in nano.NAMES}
    missing = [str(folder) for folder in folders.values() if not Path(folder).is_dir()]
    if missing:
        raise UserError(
            f"The demo's models are not all there: {', '.join(missing)}; reinstall lm-eval-ctx."
        )
    commands = [setup.command(output, metadata) for setup in SETUPS]
    write_text(output / "commands.txt", "\n".join(commands) + "\n")
    rows: list[Outcome] = []
    sizes = _sizes(folders, metadata)
    with (
        kept_in(output / ".answers", {}),
        _one_thread(),
        progress.shown(sum(sizes.values())) as bar,
    ):
        for checkpoint, setups in groupby(SETUPS, key=lambda setup: setup.checkpoint):
            folder = str(folders[checkpoint])
            rows += _evaluated(folder, list(setups), metadata, output, sizes, bar)
    return rows


def _sizes(folders: Mapping[str, str | Path], metadata: Mapping[str, Any]) -> dict[str, int]:
    """How many documents each setup has, by folder."""
    counts: dict[tuple[str, ...], int] = {}
    for setup in SETUPS:
        tasks = tuple(setup.tasks)
        if tasks not in counts:
            manager = _tasks(str(folders[setup.checkpoint]), metadata)
            with logs.recorded():
                counts[tasks] = documents(manager, tasks)
    return {setup.folder: counts[tuple(setup.tasks)] for setup in SETUPS}


def _tasks(folder: str, metadata: Mapping[str, Any]) -> TaskManager:
    return harness.task_manager(metadata={"pretrained": folder, **metadata})


def _evaluated(
    folder: str,
    setups: Sequence[Setup],
    metadata: Mapping[str, Any],
    output: Path,
    sizes: Mapping[str, int],
    bar: Progress,
) -> Iterator[Outcome]:
    """The rows of one checkpoint, loaded once; each is written before it is given."""
    bar.title(f"loading {setups[0].checkpoint}")
    tasks = _tasks(folder, metadata)
    with logs.recorded(None, bar.say):
        model = CtxLM(folder, device="cpu", batch_size=BATCH)
    bar.title("")
    for setup in setups:
        title = f"{setup.checkpoint}: {setup.arm.name}"
        with (
            bar.evaluation(title, sizes[setup.folder]),
            logs.cell_log(output / setup.folder, bar.say) as log,
        ):
            row = _run_setup(model, setup, tasks, output, log)
        needle = row.task(columns.NEEDLE.heading)
        assert needle is not None
        nih_heatmap(row.samples[needle], output / f"{setup.folder}.png", title)
        yield row


def _run_setup(model: CtxLM, setup: Setup, tasks: TaskManager, output: Path, log: Path) -> Outcome:
    model.set_arm(read_arm(setup.arm))
    results = evaluate(
        model,
        output / setup.folder,
        model_name="hf-ctx",
        model_args=setup.model_args,
        tasks=setup.tasks,
        manager=tasks,
        chat=setup.arm.chat,
        log=log,
        batch_size=BATCH,
        device="cpu",
    )
    assert results is not None
    samples: Samples = results.pop("samples")
    return Outcome(setup, results, {task: list(rows) for task, rows in samples.items()})


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: models this small lose more to waking a second than they gain by it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
