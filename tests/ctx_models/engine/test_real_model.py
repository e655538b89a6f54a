"""`vllm-ctx` and `hf-ctx` in float32 on SmolLM2-135M-Instruct, asked about real prose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ctx_models.lm import CtxLM
from ctx_tasks import harness
from tests.ctx_models.engine.asking import HF, IN_PROCESS, generations, log_likelihoods, put
from tests.real_models import SMOLLM2, checkpoint

pytestmark = pytest.mark.vllm

TASKS = ("prose_squad_contains", "prose_quac_contains", "prose_drop_contains")
# A few of the 270 of its 30 layers.
HEADS = {"8": [0, 4], "15": [1, 2, 8], "29": [3]}


@pytest.fixture(scope="module")
def questions() -> list[str]:
    """Fifty, with the passages that answer them."""
    tasks = harness.task_manager(TASKS, {"questions": 17}).load(list(TASKS))["tasks"]
    found = [task.doc_to_text(doc) for task in tasks.values() for doc in task.eval_docs]
    return found[:50]


@pytest.fixture(scope="module")
def models() -> tuple[Any, CtxLM]:
    """The engine, and ours on transformers."""
    from ctx_models.engine.lm import CtxVLLM

    folder = str(checkpoint(SMOLLM2))
    return CtxVLLM(folder, steerable=True, **IN_PROCESS), CtxLM(folder, **HF)


def test_fifty_real_prompts_are_answered_alike(models, questions):
    engine, hf = models
    said = generations(put(engine, alpha=0.9), questions)
    assert said == generations(put(hf, alpha=0.9), questions)
    assert len(set(said)) > 40


@pytest.mark.parametrize(
    "arm",
    [
        {"alpha": 0.1},
        {"alpha": 0.5, "schedule": "compound"},
        {"alpha": 0.9, "schedule": "compound", "steer_generated": False},
        {"alpha": 0.1, "heads": "heads.json"},
        {},
    ],
    ids=str,
)
def test_every_arm_answers_alike(models, questions, arm, tmp_path):
    if "heads" in arm:
        arm = {**arm, "heads": str(tmp_path / "heads.json")}
        (tmp_path / "heads.json").write_text(json.dumps(HEADS))
    engine, hf = models
    said = generations(put(engine, **arm), questions)
    assert said == generations(put(hf, **arm), questions)


def test_answers_are_as_likely(models, questions):
    answers = ["The answer", "No", "It is", "In 1851", "Because of"] * 10
    engine, hf = (put(model, alpha=0.5) for model in models)
    ours, theirs = (log_likelihoods(model, questions, answers) for model in (engine, hf))
    for (found, _), (expected, _) in zip(ours, theirs, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
