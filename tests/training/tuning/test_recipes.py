"""The bundled recipes against the paper's table, and how a recipe is read, overridden, refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ctx_tasks.errors import UserError
from training.tuning import recipe, sft

# arXiv 2411.02688, section 5.1 and appendix A.1.1. `batch` is per GPU, accumulation, GPUs.
PUBLISHED = {
    "tinyllama-1.1b": {"qlora": False, "lr": 2e-5, "batch": (16, 2, 4), "length": 2048},
    "llama2-7b": {"qlora": True, "lr": 2e-4, "batch": (2, 8, 4), "length": 4096},
    "llama3-8b": {"qlora": True, "lr": 2e-4, "batch": (2, 8, 4), "length": 4096},
}
BASES = {
    "tinyllama-1.1b": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "llama3-8b": "meta-llama/Meta-Llama-3-8B",
}
EPOCHS = {"sharegpt": 1, "ultrachat": 1, "wizardlm": 2}
ARMS = {"vanilla": None, "indicator": "[IND]"}
RUNS = [(m, d, a) for m in PUBLISHED for d in EPOCHS for a in ARMS]


def test_there_is_one_recipe_per_published_run():
    assert len(RUNS) == 18
    assert [file.stem for file in recipe.bundled()] == sorted("-".join(run) for run in RUNS)


@pytest.mark.parametrize(("model", "data", "arm"), RUNS, ids="-".join)
def test_a_recipe_has_the_published_values(model, data, arm):
    loaded = recipe.load(f"{model}-{data}-{arm}")
    published, training = PUBLISHED[model], loaded.training
    per_gpu, accumulation, _ = published["batch"]
    suffix = "_indicator" if arm == "indicator" else ""
    assert loaded.model["model_name_or_path"] == BASES[model]
    assert loaded.data == {"path": f"data/{data}{suffix}.jsonl"}
    assert (loaded.indicator, loaded.pad_token) == (ARMS[arm], "[PAD]")
    expected = {
        "output_dir": f"runs/{model}-{data}-{arm}",
        "num_train_epochs": EPOCHS[data],
        "learning_rate": published["lr"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": per_gpu,
        "gradient_accumulation_steps": accumulation,
        "max_length": published["length"],
        "bf16": True,
        "gradient_checkpointing": True,
        "seed": 42,
        "packing": False,
        "assistant_only_loss": False,
        "chat_template_path": "tinyllama.jinja",
    }
    assert {key: training[key] for key in expected} == expected
    assert bool(loaded.lora) is bool(loaded.quantization) is published["qlora"]


@pytest.mark.parametrize(("model", "data", "arm"), [r for r in RUNS if r[0] != "tinyllama-1.1b"])
def test_qlora_is_four_bits_and_rank_16_on_every_linear_layer(model, data, arm):
    loaded = recipe.load(f"{model}-{data}-{arm}")
    projections = [f"{name}_proj" for name in ["q", "k", "v", "o", "gate", "up", "down"]]
    assert loaded.lora == {
        "r": 16,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "target_modules": projections,
    }
    assert loaded.quantization["load_in_4bit"] is True


@pytest.mark.parametrize("file", recipe.bundled(), ids=lambda file: file.stem)
def test_every_launch_command_of_a_header_keeps_the_published_batch(file):
    header = file.read_text(encoding="utf-8").split("\nmodel:")[0]
    commands = [line[4:] for line in header.splitlines() if line.startswith("#   ")]
    counts = []
    for words in map(shlex.split, commands):
        assert f"training/recipes/{file.name}" in words
        if "--config_file" in words:
            assert Path(words[words.index("--config_file") + 1]).is_file()
            gpus = int(words[words.index("--num_processes") + 1])
        else:
            gpus = 1
        counts.append(gpus)
        training = recipe.load(file, [word for word in words if "=" in word]).training
        total = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        per_gpu, accumulation, published = PUBLISHED[file.stem.rsplit("-", 2)[0]]["batch"]
        assert total * gpus == per_gpu * accumulation * published
    assert counts == [1, 4, 8]
    assert "--num_machines 2" in commands[2]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "zero3"])
def test_accelerate_reads_its_config_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    file = recipe.RECIPES / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[name]
    assert config.mixed_precision == "no"  # the recipe's `training.bf16` decides


@pytest.mark.parametrize("file", recipe.bundled(), ids=lambda file: file.stem)
def test_the_libraries_accept_every_recipe(file, tmp_path):
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    overrides = ["training.use_cpu=true", f"training.output_dir={tmp_path}"]
    loaded = recipe.load(file, overrides)
    assert sft.training_arguments(loaded).learning_rate == loaded.training["learning_rate"]
    if loaded.lora:
        assert LoraConfig(**loaded.lora).r == 16
        assert BitsAndBytesConfig(**loaded.quantization).bnb_4bit_quant_type == "nf4"


def written(tmp_path, **changes):
    content = {
        "model": {"model_name_or_path": "base"},
        "data": {"path": "data.jsonl"},
        "training": {"output_dir": "out", "learning_rate": 1e-3},
        **changes,
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def test_any_value_can_be_overridden(tmp_path):
    overrides = [
        "training.learning_rate=3e-5",
        "lora={r: 8, target_modules: all-linear}",
        "lora.lora_alpha=32",
        "indicator='[CTX]'",
        "model.dtype=float16",
        "training.lr_scheduler_kwargs.num_cycles=2",
    ]
    loaded = recipe.load(written(tmp_path), overrides)
    assert loaded.training["learning_rate"] == 3e-5
    assert loaded.lora == {"r": 8, "target_modules": "all-linear", "lora_alpha": 32}
    assert loaded.indicator == "[CTX]"
    assert loaded.model["dtype"] == "float16"
    assert loaded.training["lr_scheduler_kwargs"] == {"num_cycles": 2}


def test_an_override_can_switch_a_section_off():
    off = recipe.load("llama3-8b-sharegpt-indicator", ["lora=null", "quantization=null"])
    assert off.lora is off.quantization is None


def test_all_mistakes_are_reported_at_once(tmp_path):
    file = written(
        tmp_path,
        model={"dtpye": "float16"},
        optimizer={},
        quantization={"load_in_4bits": True},
    )
    overrides = [
        "training.learning_rat=1",
        "training.num_train_epochs=many",
        "training.seed=true",
        "lora.trainable_token_indices=[1]",
        "quantization.load_in_4bit=true",
        "training.packing=true",
        "training.packing_strategy=wrapped",
        "nonsense",
        "lora.r={",
    ]
    with pytest.raises(UserError) as caught:
        recipe.load(file, overrides)
    message = str(caught.value)
    for expected in (
        "unknown key `model.dtpye`, did you mean `model.dtype`?",
        "unknown key `optimizer`",
        "unknown key `quantization.load_in_4bits`, did you mean `quantization.load_in_4bit`?",
        "unknown key `training.learning_rat`, did you mean `training.learning_rate`?",
        "`training.num_train_epochs` is 'many', expected float",
        "`training.seed` is True, expected int",
        "`lora.trainable_token_indices` cannot be set",
        "`training.packing_strategy` is 'wrapped', expected 'bfd'",
        "override 'nonsense' is not `key=value`",
        "the value of override 'lora.r={' is not YAML",
        "`model.model_name_or_path` is missing",
    ):
        assert expected in message
    assert "\n" not in message


def test_quantised_weights_without_an_adapter_are_refused(tmp_path):
    with pytest.raises(UserError, match="`quantization` without `lora`"):
        recipe.load(written(tmp_path), ["quantization.load_in_4bit=true"])


def test_a_value_the_library_refuses_is_a_sentence(tmp_path):
    overrides = ["training.eval_strategy=sometimes", "data.eval_share=0.1"]
    overrides += ["training.use_cpu=true"]
    loaded = recipe.load(written(tmp_path), overrides)
    with pytest.raises(UserError, match=r"section training: sometimes is not a valid"):
        sft.training_arguments(loaded)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"Recipe .*broken.yaml"):
        recipe.load(file)


def test_a_missing_recipe_names_the_bundled_ones(tmp_path):
    with pytest.raises(UserError, match="llama2-7b-sharegpt-indicator"):
        recipe.load(tmp_path / "none.yaml")


def test_every_key_of_a_recipe_but_the_plainest_has_its_reason():
    """What differs from a library's default without being in the paper's table says why."""
    text = (recipe.RECIPES / "llama3-8b-sharegpt-indicator.yaml").read_text(encoding="utf-8")
    for key in ("bnb_4bit_quant_type", "warmup_steps", "max_length", "assistant_only_loss"):
        assert re.search(rf"^  {key}: \S+  # \w", text, re.MULTILINE), key
