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
    """The tokenizer that `CtxLM` would take: an adapter's own where it has one.

    Raises:
        UserError: it cannot be loaded.
    """
    peft = model_args.get("peft")
    own = peft if peft and (Path(peft) / "tokenizer_config.json").exists() else None
    pretrained = model_names.resolve(model_args.get("pretrained"))
    named = model_args.get("tokenizer") or own
    return load_tokenizer(pretrained, named, **source(model_args))
