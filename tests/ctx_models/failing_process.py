"""A model that runs out of memory in process 1, once: `accelerate launch -m` this, on CPUs.

Prints, in process 0 and 1, what became of its first evaluation, and the score of the second.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from lm_eval import simple_evaluate

from ctx_models.lm import CtxLM
from ctx_tasks import harness
from tests.ctx_models import offline_tasks

TASKS = ["toy_generate", "toy_choice"]


def main() -> None:
    """Evaluate twice."""
    model = CtxLM("nano-chat", device="cpu", batch_size=2)
    left = 3

    def fail(*_: Any) -> None:
        nonlocal left
        left -= model.rank
        if left == 0:
            raise torch.OutOfMemoryError("out of memory")

    model.model.register_forward_pre_hook(fail)
    manager = harness.task_manager(TASKS, include=[offline_tasks.FOLDER])
    for _ in range(2):
        try:
            found = simple_evaluate(model, tasks=TASKS, task_manager=manager, bootstrap_iters=0)
            said = found and sorted(found["results"])
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        print(f"{model.rank}: {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
