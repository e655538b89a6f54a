"""What the tests ask of both models: prompts of nano tasks, without the harness around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance

from ctx_models import model_names
from ctx_models.arm import read_arm
from ctx_tasks import harness
from ctx_tasks.arm import Arm

TASKS = ("nano_squad_contains", "nano_drop_contains", "nano_nih_recall")
METADATA = {"lengths": 5, "depths": 4, "max_length": 400, "questions": 15}
SETTINGS = {"until": ["\n\n"], "max_gen_toks": 24, "do_sample": False}
# Starts in seconds on a CPU; chunks shorter than most prompts.
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "batch_size": "auto",
    "enforce_eager": True,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 16,
    "max_model_len": 1024,
}
IN_PROCESS: dict[str, Any] = {**ENGINE, "distributed_executor_backend": "uni"}
HF: dict[str, Any] = {"device": "cpu", "batch_size": 16, "max_length": 1024, "dtype": "float32"}


def questions() -> list[str]:
    """Fifty prompts of different lengths, up to 400 tokens."""
    arguments = {"pretrained": model_names.resolve("nano-chat"), **METADATA}
    tasks = harness.task_manager(TASKS, arguments).load(list(TASKS))["tasks"]
    return [task.doc_to_text(doc) for task in tasks.values() for doc in task.eval_docs]


def prompts(model: Any, texts: Sequence[str], system: str | None = None) -> list[str]:
    """Chats of one question each, rendered."""
    told = [] if system is None else [{"role": "system", "content": system}]
    return [model.apply_chat_template([*told, {"role": "user", "content": one}]) for one in texts]


def generations(model: Any, texts: Sequence[str], **settings: Any) -> list[str]:
    """What a model answers to chats."""
    asked = [
        Instance("generate_until", {}, (prompt, {**SETTINGS, **settings}), place)
        for place, prompt in enumerate(prompts(model, texts))
    ]
    found: list[str] = model.generate_until(asked, disable_tqdm=True)
    return found


def log_likelihoods(
    model: Any, texts: Sequence[str], answers: Sequence[str]
) -> list[tuple[float, bool]]:
    """How likely a model finds answers to chats."""
    asked = [
        Instance("loglikelihood", {}, (prompt, answer), place)
        for place, (prompt, answer) in enumerate(zip(prompts(model, texts), answers, strict=True))
    ]
    found: list[tuple[float, bool]] = model.loglikelihood(asked, disable_tqdm=True)
    return found


def put(model: Any, **arm: Any) -> Any:
    """The model, in an arm."""
    model.set_arm(read_arm(Arm.of(arm)))
    return model
