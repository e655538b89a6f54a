"""Evaluation while tuning: held-out conversations, and the context tasks beside their loss.

`data.eval_path` or `data.eval_share` names the conversations, `training.eval_strategy` when. With
`evaluation.tasks` the model answers a few questions of context tasks each time, so that a run shows
when it loses its context awareness while the loss still falls. The numbers stand in the trainer's
log as `eval_TASK_METRIC`, and go where `training.report_to` says.

Tasks run in one process: a sharded model is not asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval import simple_evaluate
from transformers import TrainerCallback

from ctx_models.lm import CtxLM
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from training.tuning.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

# Documents of each task: enough to see a collapse, few enough for every evaluation.
LIMIT = 16


def split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Conversations to train on, and the drawn `share` to evaluate on."""
    if round(share * len(dataset)) in (0, len(dataset)):
        raise UserError(
            f"data.eval_share={share} of {len(dataset)} conversations leaves one side empty; give "
            "another share, or data.eval_path."
        )
    parts = dataset.train_test_split(test_size=round(share * len(dataset)), seed=seed)
    return parts["train"], parts["test"]


def add_context_tasks(trainer: SFTTrainer, recipe: Recipe) -> None:
    """Have `trainer` run `evaluation.tasks` at each evaluation.

    Raises UserError for unknown tasks, and where several processes train.
    """
    if trainer.args.world_size > 1:
        raise UserError(
            f"evaluation.tasks needs one process, and {trainer.args.world_size} train together: "
            "leave it out, and run `ctx-eval run` on the checkpoints."
        )
    trainer.add_callback(_ContextTasks(trainer, recipe))


class _ContextTasks(TrainerCallback):
    def __init__(self, trainer: SFTTrainer, recipe: Recipe) -> None:
        settings = recipe.evaluation or {}
        self._trainer, self._indicator = trainer, recipe.indicator
        self._tasks: list[str] = settings["tasks"]
        self._limit: int = settings.get("limit", LIMIT)
        arguments = {"pretrained": recipe.model["model_name_or_path"]}
        self._manager = harness.task_manager(
            self._tasks, {**arguments, **settings.get("metadata", {})}
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Answer the tasks and log the metrics."""
        self._trainer.log(self._measured())

    def _measured(self) -> dict[str, float]:
        model: Any = self._trainer.model
        training = model.training
        model.eval()
        lm = CtxLM(
            model,
            tokenizer=self._trainer.processing_class,
            batch_size=self._trainer.args.per_device_eval_batch_size,
            **({"indicator": self._indicator} if self._indicator else {}),
        )
        # Without seeds of its own: the draws of the training go on as if it had not been asked.
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))
        found = simple_evaluate(
            model=lm,
            tasks=list(self._tasks),
            task_manager=self._manager,
            apply_chat_template=True,
            limit=self._limit,
            bootstrap_iters=0,
            log_samples=False,
            **seeds,
        )
        model.train(training)
        return dict(_metrics(found["results"]))


def _metrics(results: dict[str, dict[str, Any]]) -> list[tuple[str, float]]:
    return [
        (f"eval_{task}_{name.split(',')[0]}", float(value))
        for task, values in results.items()
        for name, value in values.items()
        if "," in name and "_stderr" not in name and isinstance(value, int | float)
    ]
