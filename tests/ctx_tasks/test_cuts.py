"""`cut` of models that are not ours: the reading tasks count what the window did not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctx_tasks.cuts import Cuts
from tests import tiny
from tests.commands import ROOT
from tests.ctx_tasks import reading_data as data

TASK = "squad_contains"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A model with a window of 60 tokens."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.tokenizer().save_pretrained(folder)
    tiny.model(max_position_embeddings=60).save_pretrained(folder)
    return str(folder)


def evaluate(folder: Path, **model_args: Any) -> dict[str, Any]:
    found = simple_evaluate(
        model="hf",
        model_args={"device": "cpu", **model_args},
        tasks=[TASK],
        task_manager=TaskManager(
            include_path=str(ROOT / "task_configs"),
            include_defaults=False,
            metadata={**data.write_all(folder), **model_args},
        ),
        gen_kwargs={"max_gen_toks": 8},
        bootstrap_iters=0,
    )
    assert found is not None
    return dict(found)


def test_hf_s_cuts_are_counted(checkpoint, tmp_path):
    found = evaluate(tmp_path, pretrained=checkpoint)
    tokenizer = tiny.tokenizer()
    lost = [sample["cut"] for sample in found["samples"][TASK]]
    prompts = [sample["arguments"][0][0] for sample in found["samples"][TASK]]
    assert lost == [max(0, len(tokenizer.encode(prompt)) - 52) for prompt in prompts]
    assert any(lost)
    assert found["results"][TASK]["cut,none"] == sum(map(bool, lost)) / len(lost)
    assert "unfinished,none" not in found["results"][TASK]


@pytest.mark.parametrize(
    "unknown",
    [
        {},
        {"pretrained": "no/such-model"},
        {"pretrained": "{}", "max_length": 100},
        {"model": "gpt", "tokenizer": "{}"},
    ],
    ids=["nothing", "a model that is not here", "two meanings of a length", "an API"],
)
def test_nothing_is_said_where_nothing_is_known(checkpoint, unknown):
    named = {key: checkpoint if value == "{}" else value for key, value in unknown.items()}
    assert Cuts.of(named) is None


def test_vllm_s_smaller_window_is_the_window(checkpoint):
    cuts = Cuts.of({"pretrained": checkpoint, "max_model_len": 40})
    assert cuts is not None
    assert cuts.window == 40
