"""The needle tasks run by the harness: exact prompts, exact scores, in process and by its CLI."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.dummy import DummyLM
from lm_eval.tasks import TaskManager

from ctx_tasks.errors import UserError
from ctx_tasks.metrics import keyword_recall
from ctx_tasks.needle.inputs import load_haystack
from tests import tiny
from tests.commands import ROOT, lm_eval
from tests.scripted import Scripted

CONFIGS = ROOT / "task_configs"
SMALL = {"max_length": 400, "lengths": 2, "depths": 2}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def manager(metadata: dict[str, Any]) -> TaskManager:
    return TaskManager(include_path=str(CONFIGS), include_defaults=False, metadata=metadata)


def evaluate(task: str, model: LM, metadata: dict[str, Any], **settings: Any) -> dict[str, Any]:
    results = simple_evaluate(
        model=model, tasks=[task], task_manager=manager(metadata), bootstrap_iters=10, **settings
    )
    assert results is not None
    return dict(results)


def documents(results: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return [sample["doc"] for sample in results["samples"][task]]


def test_prompt_is_the_papers_to_the_letter(tokenizer_folder: str) -> None:
    model = Scripted(["x"])
    results = evaluate("nih_recall", model, {"tokenizer": tokenizer_folder, **SMALL})
    rows = documents(results, "nih_recall")
    assert len(rows) == 4
    assert model.prompts == [
        "You are a helpful AI assistant that answers a question using only the provided document: "
        f"\n{row['context']}\n\nQuestion: What is the best thing to do in San Francisco?"
        for row in rows
    ]


def test_50_tokens_are_generated_greedily_and_nothing_stops_them(tokenizer_folder: str) -> None:
    model = Scripted(["x"])
    evaluate("nih_recall", model, {"tokenizer": tokenizer_folder, **SMALL})
    assert model.settings == [{"until": [], "max_gen_toks": 50, "do_sample": False}] * 4


def test_prefix_task_adds_the_response_prefix_to_the_prompt(tokenizer_folder: str) -> None:
    plain, begun = Scripted(["x"]), Scripted(["x"])
    metadata = {"tokenizer": tokenizer_folder, **SMALL}
    evaluate("nih_recall", plain, metadata)
    evaluate("nih_recall_prefix", begun, metadata)
    prefix = " The best thing to do in San Francisco is"
    assert begun.prompts == [prompt + prefix for prompt in plain.prompts]


def test_prefix_begins_the_assistant_turn_of_each_needle(tokenizer_folder: str) -> None:
    model = Scripted(["x"])
    metadata = {
        "tokenizer": tokenizer_folder,
        "needles": "several",
        **SMALL,
        "lengths": 3,
        "depths": 3,
    }
    results = evaluate("nih_recall_prefix", model, metadata, apply_chat_template=True)
    rows = documents(results, "nih_recall_prefix")
    assert len({row["needle_id"] for row in rows}) >= 5
    for row, prompt in zip(rows, model.prompts, strict=True):
        assert prompt.startswith("<|user|>\nYou are a helpful AI assistant")
        turn = f"Question: {row['question']}</s>\n<|assistant|>\n{row['response_prefix']}"
        assert prompt.endswith(turn)


def test_recall_its_error_and_the_score_are_means_over_the_cells(tokenizer_folder: str) -> None:
    answers = ["Eat a sandwich, sit in Dolores Park.", "a sunny day", "", "seated sandwiches"]
    metadata = {"tokenizer": tokenizer_folder, **SMALL}
    results = evaluate("nih_recall", Scripted(answers), metadata)
    found = results["results"]["nih_recall"]
    assert found["recall,none"] == found["score,none"] == pytest.approx((5 + 2) / 7 / 4)
    assert found["recall_error,none"] == pytest.approx(1 - (5 + 2) / 7 / 4)
    # Of 5/7, 2/7, 0 and 0.
    assert found["recall_stderr,none"] == pytest.approx(torch.tensor([5, 2, 0, 0.0]).std() / 7 / 2)
    assert (found["empty,none"], found["dangling,none"]) == (0.25, 0)
    assert results["higher_is_better"]["nih_recall"] == {
        "recall": True,
        "recall_error": False,
        "score": True,
        "empty": False,
        "dangling": False,
        "prompt_spread": False,
    }


def test_results_and_rows_say_what_was_measured(tokenizer_folder: str) -> None:
    metadata = {"tokenizer": tokenizer_folder, "seed": 7, **SMALL}
    results = evaluate("nih_recall", Scripted(["x"]), metadata)
    builtin = load_haystack("builtin")
    assert results["configs"]["nih_recall"]["metadata"]["data_used"] == {
        "source": "builtin",
        "sha256": builtin.sha256,
        "rows": 4,
        "tokenizer": tokenizer_folder,
        "window": None,
        "min_length": 200,
        "max_length": 400,
        "lengths": 2,
        "depths": 2,
        "seed": 7,
        "needles": ["sandwich"],
    }
    for row, (length, depth) in zip(
        documents(results, "nih_recall"), [(200, 0), (200, 100), (400, 0), (400, 100)], strict=True
    ):
        assert (row["length"], row["depth"], row["needle_id"]) == (length, depth, "sandwich")
        assert (row["haystack"], row["haystack_sha256"]) == ("builtin", builtin.sha256)
    assert results["versions"]["nih_recall"] == 1.0


def test_equal_settings_give_equal_document_hashes(tokenizer_folder: str) -> None:
    found = []
    for _ in range(2):
        metadata = {"tokenizer": tokenizer_folder, **SMALL}
        samples = evaluate("nih_recall", Scripted(["x"]), metadata)["samples"]["nih_recall"]
        found.append([sample["doc_hash"] for sample in samples])
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


def test_dummy_model_of_the_harness(tokenizer_folder: str) -> None:
    results = evaluate("nih_recall", DummyLM(), {"tokenizer": tokenizer_folder, **SMALL})
    assert results["results"]["nih_recall"]["recall,none"] == 0.0


def test_a_model_without_tokenizer_is_told_what_to_pass() -> None:
    with pytest.raises(UserError, match='"tokenizer": "NAME_OR_PATH", "max_length": TOKENS'):
        manager({"model": "gpt-x"}).load(["nih_recall"])


def test_a_model_without_window_is_told_what_to_pass(tokenizer_folder: str) -> None:
    with pytest.raises(UserError, match="The model's window is not known"):
        manager({"model": "gpt-x", "tokenizer": tokenizer_folder}).load(["nih_recall"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with a window of 700 tokens, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tiny.model("llama", seed=3, max_position_embeddings=700).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def run_hf(task: str, model_args: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """As the command line does it: model arguments and metadata end up in one dictionary."""
    results = simple_evaluate(
        model="hf",
        model_args=model_args,
        tasks=[task],
        task_manager=manager(model_args | metadata),
        apply_chat_template=True,
        bootstrap_iters=0,
        device="cpu",
        batch_size=2,
    )
    assert results is not None
    return dict(results)


@pytest.mark.parametrize("window", [{}, {"max_length": 700}], ids=["default", "given as argument"])
def test_the_default_maximum_fits_prompt_and_answer_into_the_window(
    checkpoint: str, window: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results = run_hf(
            "nih_recall_prefix", {"pretrained": checkpoint, **window}, {"lengths": 2, "depths": 2}
        )
    used = results["configs"]["nih_recall_prefix"]["metadata"]["data_used"]
    assert used["window"] == 700
    longest = max(
        len(tiny.tokenizer()(sample["arguments"][0][0])["input_ids"])
        for sample in results["samples"]["nih_recall_prefix"]
    )
    assert 700 - 150 < longest + 50 <= 700
    assert "Left truncation" not in caplog.text


def test_a_maximum_above_the_window_is_refused(checkpoint: str) -> None:
    with pytest.raises(UserError, match="max_length 701 is longer than the model's window of 700"):
        manager({"pretrained": checkpoint, "max_length": 701}).load(["nih_recall"])


def own_generation(prompt: str) -> str:
    """50 greedy tokens of the checkpoint by transformers alone, nothing cut."""
    tokenizer = tiny.tokenizer()
    model = tiny.model("llama", seed=3, max_position_embeddings=700)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=50, do_sample=False)
    start = inputs["input_ids"].shape[1]
    answer: str = tokenizer.decode(tokens[0, start:], skip_special_tokens=True)
    return answer


def test_the_command_line_scores_a_real_model_as_computed_by_hand(
    checkpoint: str, tmp_path: Path
) -> None:
    done = lm_eval(
        *("run", "--model", "hf"),
        *("--model_args", f"pretrained={checkpoint}", "--device", "cpu"),
        *("--tasks", "nih_recall", "--include_path", CONFIGS),
        *("--metadata", json.dumps(SMALL), "--output_path", tmp_path, "--log_samples"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    lines = next(tmp_path.rglob("samples_nih_recall_*.jsonl")).read_text("utf-8").splitlines()
    samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    assert [(s["doc"]["length"], s["doc"]["depth"]) for s in samples] == [
        (200, 0),
        (200, 100),
        (400, 0),
        (400, 100),
    ]
    said = [own_generation(sample["arguments"]["gen_args_0"]["arg_0"]) for sample in samples]
    assert [sample["filtered_resps"][0] for sample in samples] == said
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text(encoding="utf-8"))
    recalls = [keyword_recall(text, samples[0]["doc"]["keywords"]) for text in said]
    assert results["results"]["nih_recall"]["recall,none"] == pytest.approx(sum(recalls) / 4)
