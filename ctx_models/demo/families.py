"""What `ctx-eval demo` compares: the bundled nano family, or a real model.

Rows as in Tables 2 and 3 of arXiv 2411.02688: without and with the chat template, told to read in a
sentence, steered, and (nano) with `[IND]`, each with the answer begun and as the model begins it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ctx_models import nano
from ctx_models.indicator import INDICATOR
from ctx_models.sweep.plan import Checkpoint, Plan
from ctx_tasks import arm as arms
from ctx_tasks import columns
from ctx_tasks.arm import Arm, safe

SENTENCE = "Answer from the passage only."
REAL_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Setup:
    """A checkpoint in one arm."""

    checkpoint: str
    arm: Arm

    @property
    def folder(self) -> str:
        """Where its results lie: "nano-chat/chat-alpha-0.9"."""
        return f"{safe(self.checkpoint)}/{self.arm.folder}"

    @property
    def begun(self) -> Setup:
        """The same with the answer begun."""
        return replace(self, arm=self.arm.begun)


@dataclass(frozen=True)
class Family:
    """Checkpoints in arms, and what they are asked.

    Attributes:
        title: of the table.
        kind: of the data.
        raw, chat: the chat model without and with its template.
        told, steered: the remedies that need no training; `chat` with one of them.
        marked: an indicator's arm and the arm it is a remedy of, where there is such a checkpoint.
        first: what stands before all of these.
        by_heart: whether there are questions without a document, too.
        quick, full: settings of the tasks (the harness's --metadata).
        batch_size, device: of all arms.
        threads: of torch; None leaves them as they are.
    """

    title: str
    kind: columns.Kind
    raw: Setup
    chat: Setup
    told: Setup
    steered: tuple[Setup, ...]
    quick: Mapping[str, Any]
    full: Mapping[str, Any]
    batch_size: int
    marked: tuple[Setup, Setup] | None = None
    first: tuple[Setup, ...] = ()
    by_heart: bool = False
    device: str | None = None
    threads: int | None = None

    @property
    def setups(self) -> tuple[Setup, ...]:
        """All arms in the order of the table; raw is compared begun alone."""
        unbegun = (self.chat, self.told, *self.steered)
        unbegun += () if self.marked is None else (self.marked[1], self.marked[0])
        pairs = (one for setup in unbegun for one in (setup.begun, setup))
        return (*self.first, self.raw.begun, *pairs)

    @property
    def context_tasks(self) -> dict[str, str]:
        """The context tasks by the heading of their benchmark."""
        return {one.heading: one.named(self.kind) for one in columns.CONTEXT}

    @property
    def columns(self) -> dict[str, str]:
        """The tasks of the table by heading."""
        own = columns.BY_HEART
        return {
            **self.context_tasks,
            **({own.heading: own.named(self.kind)} if self.by_heart else {}),
        }

    def plan(
        self, output: Path, metadata: Mapping[str, Any], models: Mapping[str, str | Path]
    ) -> Plan:
        """The arms as a sweep.

        Args:
            models: other folders for some of the checkpoints, by name.
        """
        group = next(name for name, at in columns.GROUPS.items() if at == (self.kind, False))
        tasks = (
            group,
            *(task for name, task in self.columns.items() if name not in self.context_tasks),
        )
        checkpoints = tuple(
            Checkpoint(
                name,
                "hf-ctx",
                {"pretrained": str(models.get(name, name))},
                tuple(setup.arm for setup in setups),
            )
            for name, setups in groupby(self.setups, key=lambda setup: setup.checkpoint)
        )
        return Plan(
            checkpoints,
            tasks,
            dict(metadata),
            limit=None,
            attention=False,
            batch_size=self.batch_size,
            device=self.device,
            output=output,
        )


def _steered(checkpoint: str, *settings: Mapping[str, Any]) -> tuple[Setup, ...]:
    return tuple(Setup(checkpoint, Arm(**one)) for one in settings)


_POINT_NINE: dict[str, Any] = {"alpha": 0.9}
_HALF: dict[str, Any] = {"alpha": 0.5}
_COMPOUND: dict[str, Any] = {"alpha": 0.9, "schedule": "compound"}

UNMARKED = Setup("nano-chat-ind", arms.CHAT)
MARKED = Setup("nano-chat-ind", Arm(indicator=INDICATOR))

NANO = Family(
    title="The nano world: bundled questions, no benchmark",
    kind="nano",
    first=(Setup("nano-base", arms.RAW),),
    raw=Setup(nano.DEFAULT, arms.RAW),
    chat=Setup(nano.DEFAULT, arms.CHAT),
    told=Setup(nano.DEFAULT, Arm(instruction=SENTENCE)),
    steered=_steered(nano.DEFAULT, _POINT_NINE, _HALF, _COMPOUND),
    marked=(MARKED, UNMARKED),
    by_heart=True,
    # Cells and questions an arm; without settings, 20 x 20 and 400.
    quick={"lengths": 6, "depths": 6, "questions": 40},
    full={},
    # Fills two batches with the quick grid; larger ones are slower (padding, cache copies).
    batch_size=18,
    device="cpu",
    # Models this small lose more to waking a second thread than they gain by it.
    threads=1,
)
REAL = Family(
    title="SmolLM2-135M-Instruct: bundled questions, no benchmark",
    kind="prose",
    raw=Setup(REAL_MODEL, arms.RAW),
    chat=Setup(REAL_MODEL, arms.CHAT),
    told=Setup(REAL_MODEL, Arm(instruction=SENTENCE)),
    # The last is what the paper's released code does.
    steered=_steered(
        REAL_MODEL, _POINT_NINE, _HALF, _COMPOUND, _COMPOUND | {"steer_generated": False}
    ),
    quick={"max_length": 2000, "lengths": 4, "depths": 3, "questions": 40},
    full={"max_length": 2000, "lengths": 10, "depths": 10},
    # All needles of the quick grid; a step of more rows costs little more (prompts are read in
    # groups of like length, `ctx_models/decoding.py`).
    batch_size=16,
)
