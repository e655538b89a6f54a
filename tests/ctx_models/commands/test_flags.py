"""The flags of `lm_eval run` and the arguments of the harness's HF model, with `hf-ctx`.

What leaves the answers as they are gives the answers of the bare command; the rest is judged by
what it is for. Mistakes are in `test_run.py`, steered answers of few-shot, turns and system in
`test_replay.py`.
"""

from __future__ import annotations

import json
from functools import cache as kept_once
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from lm_eval.caching import cache
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ctx_models import nano
from tests.commands import ctx_eval
from tests.ctx_tasks.result_files import read_lines

pytestmark = pytest.mark.slow
TASK = "nano_squad_contains"
# Model argument or flag -> no answer changes.
SAME: dict[str, tuple[str, tuple[Any, ...]]] = {
    "batch size auto": ("", ("--batch_size", "auto")),
    "batch size auto:2": ("", ("--batch_size", "auto:2")),
    "max batch size": ("", ("--batch_size", "auto", "--max_batch_size", 2)),
    "write out": ("", ("--write_out",)),
    "show config": ("", ("--show_config",)),
    "seed": ("", ("--seed", 7)),
    "device map": ("device_map=cpu", ()),
    "float32": ("dtype=float32", ()),
    "softmax in float32": ("softmax_dtype=float32", ()),
    "eager attention": ("attn_implementation=eager", ()),
    "BOS that the template writes": ("add_bos_token=True", ()),
    "an end token without thinking": ("think_end_token=</think>,enable_thinking=False", ()),
    "overlength": ("overlength=refuse", ()),
    "cut": ("cut=frame", ()),
    # Without GPUs all layers are on the disk, or in memory that is said to have room for them.
    "parallelize": ("parallelize=True", ()),
    "parallelize in memory": ("parallelize=True,max_cpu_memory=4GiB", ()),
    "an adapter that adds nothing": ("peft={adapter}", ()),
    "a delta that adds nothing": ("delta={delta}", ()),
}
# Flag -> how many of the four documents are answered.
FEWER: dict[str, tuple[tuple[Any, ...], int]] = {
    "a share": (("--limit", 0.5), 2),
    "a number": (("--limit", 3), 3),
    "samples": (("--samples", json.dumps({TASK: [1, 3]})), 2),
}


def run(arguments: str, flags: tuple[Any, ...]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples by document, and results, of a steered run of four questions."""
    with TemporaryDirectory() as folder:
        done = ctx_eval(
            *("run", "--model", "hf-ctx", "--tasks", TASK, "--device", "cpu", "--log_samples"),
            *(
                "--model_args",
                ",".join(filter(None, ["pretrained=nano-chat,alpha=0.5", arguments])),
            ),
            *("--metadata", json.dumps({"questions": 4}), "--apply_chat_template"),
            *("--output_path", folder),
            *flags,
        )
        assert done.code == 0, done.err
        [samples] = Path(folder).rglob("samples_*.jsonl")
        [results] = Path(folder).rglob("results_*.json")
        lines = sorted(read_lines(samples), key=lambda line: line["doc_id"])
        return lines, json.loads(results.read_text())


@kept_once
def bare() -> list[str]:
    return answers(run("", ("--batch_size", 4))[0])


def answers(lines: list[dict[str, Any]]) -> list[str]:
    return [line["resps"][0][0] for line in lines]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """An adapter and a delta of nano-chat that leave its weights as they are."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("adapter", "delta")}
    model = AutoModelForCausalLM.from_pretrained(nano.folder("nano-chat"))
    # The second matrix of each pair begins with zeros.
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(made["adapter"])
    zeros = AutoModelForCausalLM.from_pretrained(nano.folder("nano-chat"))
    with torch.no_grad():
        for weights in zeros.parameters():
            weights.zero_()
    zeros.save_pretrained(made["delta"])
    return made


@pytest.mark.parametrize("name", SAME)
def test_leaves_every_answer(name, folders):
    arguments, flags = SAME[name]
    assert answers(run(arguments.format(**folders), flags)[0]) == bare()


@pytest.mark.parametrize("name", FEWER)
def test_takes_fewer_documents(name):
    flags, count = FEWER[name]
    lines, _ = run("", flags)
    assert len(lines) == count
    assert set(answers(lines)) <= set(bare())


def test_a_config_file_is_the_flags_in_it(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("batch_size: 4\n")
    assert answers(run("", ("--config", config))[0]) == bare()


@pytest.mark.parametrize("argument", ["load_in_4bit=True", "load_in_8bit=True"])
def test_quantized_weights_answer_and_are_recorded(argument):
    details = ",bnb_4bit_quant_type=nf4" if "4bit" in argument else ""
    lines, results = run(argument + details, ("--batch_size", 4))
    assert all(answers(lines))
    assert results["config"]["ctx"]["quantization"][argument.partition("=")[0]] == "True"


def test_cached_requests_are_the_same_requests(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "PATH", str(tmp_path))
    for _ in range(2):
        lines, _ = run("", ("--cache_requests", "true", "--batch_size", 4))
        assert answers(lines) == bare()
    [kept] = tmp_path.glob(f"requests-{TASK}*")
    # Steered prompts carry their segments: a plain run must not take them for its own.
    assert "ctx_" in kept.name


def test_answers_without_scores_are_the_same_answers():
    lines, results = run("", ("--predict_only",))
    assert answers(lines) == bare()
    assert "contains,none" not in results["results"][TASK]


def test_sampling_is_seeded_and_samples():
    flags = ("--gen_kwargs", "do_sample=True,temperature=1.5", "--batch_size", 4)
    first, again = (answers(run("", flags)[0]) for _ in range(2))
    assert first == again != bare()


def test_beams_are_steered_rows_of_their_own():
    found = answers(run("", ("--gen_kwargs", "num_beams=2", "--batch_size", 4))[0])
    alone = answers(run("", ("--gen_kwargs", "num_beams=2", "--batch_size", 1))[0])
    assert found == alone


def test_cached_answers_are_the_same_with_what_was_noted(tmp_path):
    flags = ("--use_cache", tmp_path / "cache", "--batch_size", 4)
    first, again = (run("", flags)[0] for _ in range(2))
    assert answers(again) == answers(first) == bare()
    assert [line["unfinished"] for line in again] == [line["unfinished"] for line in first]
