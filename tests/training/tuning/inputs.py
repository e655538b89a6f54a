"""A tiny base model on disk, a small dataset, and recipes over them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests import tiny

WORDS = ["lighthouse", "keeper", "weather", "book", "evening", "lamp", "harbour", "signal"]


def base(folder: Path, *, tied: bool = False, pad: bool = True, **shape: Any) -> Path:
    """A saved tiny Llama with as many rows as its tokenizer has tokens, so new tokens resize it."""
    tokenizer = tiny.tokenizer()
    if not pad:
        tokenizer.pad_token = None
    size = {"vocab_size": len(tokenizer), **shape}
    model = tiny.model("llama", tie_word_embeddings=tied, initializer_range=0.05, **size)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversations(count: int, indicator: str | None = "[IND]") -> list[list[dict[str, str]]]:
    """Two-turn conversations of different lengths; every other first turn ends in the indicator."""
    made = []
    for number in range(count):
        word = WORDS[number % len(WORDS)]
        mark = f" {indicator}" if indicator and number % 2 == 0 else ""
        made.append(
            [
                {"role": "user", "content": f"What does {word} mean?{mark}"},
                {"role": "assistant", "content": " ".join([word] * (1 + number % 5))},
                {"role": "user", "content": "And again?"},
                {"role": "assistant", "content": f"It is {word}."},
            ]
        )
    return made


def write_data(file: Path, messages: Iterable[list[dict[str, str]]]) -> Path:
    file.write_text("".join(json.dumps({"messages": m}) + "\n" for m in messages), encoding="utf-8")
    return file


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}


def recipe(
    folder: Path,
    model: Path,
    data: Path,
    *,
    training: dict[str, Any] | None = None,
    **sections: Any,
) -> Path:
    """A recipe file for four quick steps on the CPU."""
    content = {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": {"path": str(data)},
        "indicator": "[IND]",
        "lora": LORA,
        **sections,
        "training": {
            "output_dir": str(folder / "run"),
            "chat_template_path": "tinyllama.jinja",
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "max_length": 128,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "seed": 42,
            "disable_tqdm": True,
            **(training or {}),
        },
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file
