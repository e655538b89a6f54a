"""Model objects and bundled names reach the needle test without further arguments."""

from __future__ import annotations

import gc

import pytest
from lm_eval import simple_evaluate

from ctx_models.lm import CtxLM
from ctx_tasks import harness, loaded
from ctx_tasks.errors import UserError

GRID = {"lengths": 2, "depths": 1, "max_length": 300}
pytestmark = pytest.mark.usefixtures("nothing_loaded")


def needle(model, metadata=GRID, **options):
    results = simple_evaluate(
        model=model,
        tasks=["nih_recall"],
        task_manager=harness.task_manager(["nih_recall"], metadata),
        apply_chat_template=True,
        limit=1,
        bootstrap_iters=0,
        **options,
    )
    used = results["configs"]["nih_recall"]["metadata"]["data_used"]
    return used, [sample["doc_hash"] for sample in results["samples"]["nih_recall"]]


def test_an_object_and_a_bundled_name_give_the_same_documents():
    by_name = needle(
        "hf-ctx",
        {**GRID, "pretrained": "nano-chat"},
        model_args={"pretrained": "nano-chat"},
        device="cpu",
    )
    gc.collect()
    by_object = needle(CtxLM("nano-chat", device="cpu"))
    assert by_name == by_object
    assert by_object[0]["window"] == 1280


def test_two_models_that_differ_are_not_guessed_between():
    first, second = CtxLM("nano-chat", device="cpu"), CtxLM("nano-base", device="cpu")
    with pytest.raises(UserError, match=r"nano-chat, nano-base|nano-base, nano-chat"):
        needle(first)
    assert loaded.behind("nano-base").pretrained == second.pretrained
    del second
    assert needle(first)[0]["window"] == 1280


def test_an_api_model_never_borrows_a_tokenizer():
    kept = CtxLM("nano-chat", device="cpu")
    with pytest.raises(UserError, match="behind an API"):
        needle(kept, {**GRID, "model": "gpt-x", "base_url": "nowhere"})
