"""The tokenizer that the model arguments of a checkpoint name, without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctx_models import model_names
from ctx_tasks.needle.inputs import load_tokenizer

_ARGUMENTS = ("revision", "trust_remote_code", "subfolder", "gguf_file")


def source(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The model arguments that say where in a repository the tokenizer is."""
    return {key: model_args[key] for key in _ARGUMENTS if key in model_args}


def tokenizer_of(model_args: Mapping[str, Any]) -> Any:
    """The tokenizer that our models would take: an adapter's own where it has one.

    Raises:
        UserError: it cannot be loaded.
    """
    adapter = model_args.get("peft") or model_args.get("lora_local_path")
    pretrained = model_names.resolve(model_args.get("pretrained"))
    named = model_args.get("tokenizer") or adapter_tokenizer(adapter)
    return load_tokenizer(pretrained, named, **source(model_args))


def adapter_tokenizer(adapter: str | None) -> str | None:
    """The folder of an adapter if it has a tokenizer of its own."""
    return adapter if adapter and (Path(adapter) / "tokenizer_config.json").exists() else None
