"""`ctx-eval demo`: the paper's comparison on the bundled models and the bundled nano world.

Rows ("arms") as in Tables 2 and 3 of arXiv 2411.02688: without and with the chat template, with the
answer begun, steered, and with `[IND]`. Each arm is what one `ctx-eval run` command gives, written
down in `commands.txt`; here, arms of one checkpoint share one loaded model, and the harness's index
of its own tasks (ten seconds) is left out.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from ctx_models import logs, nano
from ctx_models.arm import read_arm
from ctx_models.evaluation import evaluate
from ctx_models.indicator import INDICATOR
from ctx_models.lm import CtxLM
from ctx_models.steering import Schedule
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from ctx_tasks.plots import nih_heatmap

# The harness calls these --metadata: cells and questions an arm. Nothing is 20 x 20 and 400.
QUICK = {"lengths": 6, "depths": 6, "questions": 40}
FULL: dict[str, Any] = {}
# Fills two batches with the quick grid; larger ones are slower on a CPU (padding, cache copies).
BATCH = 18

CONTEXT_TASKS = {
    "NIH recall": "nano_nih_recall",
    "SQuAD": "nano_squad_contains",
    "QuAC": "nano_quac_contains",
    "DROP": "nano_drop_contains",
}
BY_HEART = "by heart"
COLUMNS = {**CONTEXT_TASKS, BY_HEART: "nano_by_heart"}
PREFIX_TASK = "nano_nih_recall_prefix"


@dataclass(frozen=True)
class Arm:
    """One row: a bundled checkpoint and how it is run.

    Attributes:
        checkpoint: one of `nano.NAMES`.
        chat: with the chat template.
        prefix: with the answer begun; of the tasks only the needle test has that.
        alpha, schedule: see `Steering`.
        indicator: token appended to the user turn.
    """

    checkpoint: str
    chat: bool = True
    prefix: bool = False
    alpha: float = 1.0
    schedule: Schedule = "constant"
    indicator: str | None = None

    @property
    def settings(self) -> str:
        """The row's name after its checkpoint: "chat, α 0.9 compound"."""
        parts = ["chat" if self.chat else "raw"]
        parts += ["prefix"] if self.prefix else []
        parts += [f"α {self.alpha} {self.schedule}"] if self.alpha < 1 else []
        parts += [self.indicator] if self.indicator else []
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """Checkpoint and settings as a file name: "nano-chat-chat-alpha-0.9-compound"."""
        words = f"{self.checkpoint} {self.settings}".replace("α", "alpha")
        kept = (c if c.isalnum() or c == "." else " " for c in words)
        return "-".join("".join(kept).split())

    @property
    def tasks(self) -> list[str]:
        """Names of tasks and groups, as `--tasks` takes them."""
        return [PREFIX_TASK] if self.prefix else ["nano_context_awareness", COLUMNS[BY_HEART]]

    @property
    def model_args(self) -> dict[str, Any]:
        """What `--model_args` takes."""
        steered = {"alpha": self.alpha, "schedule": self.schedule} if self.alpha < 1 else {}
        marked = {"indicator": self.indicator} if self.indicator else {}
        return {"pretrained": self.checkpoint, **steered, **marked}

    def command(self, output: Path, metadata: Mapping[str, Any]) -> str:
        """The command line of this arm, its results going where the demo puts them."""
        arguments = ",".join(f"{key}={value}" for key, value in self.model_args.items())
        words = ["ctx-eval", "run", "--model", "hf-ctx", "--model_args", arguments]
        words += ["--tasks", ",".join(self.tasks)]
        words += ["--apply_chat_template"] if self.chat else []
        words += ["--metadata", json.dumps(metadata)] if metadata else []
        words += ["--batch_size", str(BATCH), "--device", "cpu", "--log_samples"]
        return shlex.join([*words, "--output_path", str(output / self.name / "results.json")])


# Arms of one checkpoint stand together: it is loaded once.
RAW, CHAT = Arm("nano-chat", chat=False), Arm("nano-chat")
STEERED = tuple(
    Arm("nano-chat", alpha=alpha, schedule=schedule)
    for schedule in ("constant", "compound")
    for alpha in (0.9, 0.8, 0.5)
)
UNMARKED = Arm("nano-chat-ind")
MARKED = Arm("nano-chat-ind", indicator=INDICATOR)
ARMS = (
    Arm("nano-base", chat=False),
    RAW,
    CHAT,
    Arm("nano-chat", prefix=True),
    *STEERED,
    UNMARKED,
    MARKED,
)

Samples = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Row:
    """What the harness reported for an arm: its results and, by task, its samples."""

    arm: Arm
    results: dict[str, Any]
    samples: Samples

    def task(self, column: str) -> str | None:
        """The arm's task in a column of the table; None where it has none."""
        wanted = PREFIX_TASK if self.arm.prefix and column == "NIH recall" else COLUMNS[column]
        return wanted if wanted in self.samples else None


def run(
    output: Path,
    metadata: Mapping[str, Any] = QUICK,
    checkpoints: Mapping[str, str | Path] | None = None,
) -> list[Row]:
    """Evaluate every arm on the CPU and write its results, samples and heatmap.

    Args:
        output: folder for `commands.txt`, and for each arm a folder in the harness's format and a
            PNG, both named after it. An arm's older results are replaced when the new are complete.
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
    commands = [arm.command(output, metadata) for arm in ARMS]
    try:
        output.mkdir(parents=True, exist_ok=True)
        write(output / "commands.txt", "\n".join(commands) + "\n")
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error}).") from error
    rows = []
    with _one_thread(), logs.progress(len(ARMS), " arms") as (bar, say):
        for checkpoint, arms in groupby(ARMS, key=lambda arm: arm.checkpoint):
            folder = str(folders[checkpoint])
            for row in _evaluated(folder, list(arms), metadata, output, bar, say):
                rows.append(row)
                bar.update()
    return rows


def _evaluated(
    folder: str,
    arms: Sequence[Arm],
    metadata: Mapping[str, Any],
    output: Path,
    bar: tqdm[Any],
    say: logs.Say,
) -> Iterator[Row]:
    """The rows of one checkpoint, loaded once; each is written before it is given."""
    bar.set_description(f"loading {arms[0].checkpoint}")
    tasks = harness.task_manager(metadata={"pretrained": folder, **metadata})
    with logs.recorded(None, say):
        model = CtxLM(folder, device="cpu", batch_size=BATCH)
    for arm in arms:
        bar.set_description(f"{arm.checkpoint}: {arm.settings}")
        with logs.cell_log(output / arm.name, say) as log:
            row = _run_arm(model, arm, tasks, output, log)
        needle = row.task("NIH recall")
        assert needle is not None
        title = f"{arm.checkpoint}: {arm.settings}"
        nih_heatmap(row.samples[needle], output / f"{arm.name}.png", title)
        yield row


def _run_arm(model: CtxLM, arm: Arm, tasks: TaskManager, output: Path, log: Path) -> Row:
    model.set_arm(read_arm(arm.alpha, arm.schedule, indicator=arm.indicator))
    results = evaluate(
        model,
        output / arm.name,
        model_name="hf-ctx",
        model_args=arm.model_args,
        tasks=arm.tasks,
        manager=tasks,
        chat=arm.chat,
        log=log,
        batch_size=BATCH,
        device="cpu",
    )
    assert results is not None
    samples: Samples = results.pop("samples")
    return Row(arm, results, {task: list(rows) for task, rows in samples.items()})


def write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: models this small lose more to waking a second than they gain by it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
