"""Full fine-tuning in two sharded processes, launched as the recipes say, on CPUs over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.tuning import inputs as tuning
from training import files
from training.tuning import recipe, sft

ROOT = Path(__file__).parents[3]
ZERO3 = pytest.param("zero3", marks=pytest.mark.deepspeed)
pytestmark = pytest.mark.slow


def launch(config, *arguments, kill_at=-1):
    """`accelerate launch` with a bundled config file; what it printed, or None if it was killed."""
    launcher = ["accelerate.commands.launch", "--num_processes", 2, "--main_process_port", 0]
    file = recipe.RECIPES / "accelerate" / f"{config}.yaml"
    program = ["-m", "tests.training.tuning.cpus_as_gpus", kill_at, "sft"]
    command = [sys.executable, "-m", *launcher, "--config_file", file, *program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode == 0) == (kill_at == -1), done.stderr
    return done.stdout


@pytest.fixture
def setting(tmp_path):
    """A recipe of full fine-tuning, and the number of rows after `[PAD]` and `[IND]` are added."""
    return written(tmp_path)


def written(folder, *, tied=False):
    base = tuning.base(folder / "base", pad=False, tied=tied)
    data = tuning.write_data(folder / "data.jsonl", tuning.conversations(12))
    rows = len(AutoTokenizer.from_pretrained(base)) + 2
    return folder, tuning.recipe(folder, base, data, lora=None), rows


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("config", ["fsdp", ZERO3])
def test_two_sharded_processes_learn_what_one_does_and_save_a_whole_model(tmp_path, config, tied):
    """Four conversations a step either way, and a limit of the gradient's norm that binds."""
    folder, file, rows = written(tmp_path, tied=tied)
    clipped = "training.max_grad_norm=0.1"
    one = sft.run(file, ["training.per_device_train_batch_size=4", clipped])
    seen = launch(
        config,
        file,
        f"training.output_dir={folder / 'two'}",
        "training.per_device_train_batch_size=1",
        "training.gradient_accumulation_steps=2",
        "training.gradient_checkpointing=true",
        clipped,
    )
    for process in (0, 1):
        assert f"process {process} holds {rows * 64 // 2} numbers" in seen
    record = json.loads(files.meta_path(folder / "two").read_text(encoding="utf-8"))
    assert record["counts"]["final_loss"] == pytest.approx(one["final_loss"], abs=1e-4)
    two = weights(folder / "two")
    assert two["lm_head.weight"].shape[0] == two["model.embed_tokens.weight"].shape[0] == rows
    assert largest_difference(weights(folder / "run"), two) < 1e-4
    names = {entry.name for entry in (folder / "run").iterdir()}
    assert names == {entry.name for entry in (folder / "two").iterdir()}
    assert {"README.md", "model.safetensors", "run.json", "tokenizer.json"} <= names
    assert AutoTokenizer.from_pretrained(folder / "two").tokenize("[IND]") == ["[IND]"]


@pytest.mark.parametrize("config", ["fsdp", ZERO3])
def test_a_killed_sharded_run_continues_to_the_same_end(setting, config):
    folder, file, _ = setting
    steps = ["training.max_steps=8", "training.save_strategy=steps", "training.save_steps=2"]
    killed = [file, *steps, f"training.output_dir={folder / 'killed'}"]
    launch(config, *killed, kill_at=5)
    assert not files.meta_path(folder / "killed").exists()
    first = folder / "killed" / "checkpoint-4" / "trainer_state.json"
    written_at = first.stat().st_mtime_ns
    assert "holds" not in launch(config, *killed)
    assert first.stat().st_mtime_ns == written_at
    sft.run(file, [*steps, "training.per_device_train_batch_size=4"])
    assert largest_difference(weights(folder / "run"), weights(folder / "killed")) < 2e-4


@pytest.mark.parametrize(
    ("config", "stored"),
    [("fsdp", torch.float32), pytest.param("zero3", torch.bfloat16, marks=pytest.mark.deepspeed)],
)
def test_bf16_is_as_the_recipe_says_and_zero3_saves_it(setting, config, stored):
    folder, file, _ = setting
    one = sft.run(file, ["training.per_device_train_batch_size=4"])
    launch(config, file, "training.bf16=true", f"training.output_dir={folder / 'two'}")
    record = json.loads(files.meta_path(folder / "two").read_text(encoding="utf-8"))
    difference = abs(record["counts"]["final_loss"] - one["final_loss"])
    assert 1e-5 < difference < 0.05
    saved = load_file(folder / "two" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {stored}
