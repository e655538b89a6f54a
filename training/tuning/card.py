"""The model card (README.md) of a tuned model: data, recipe, beta, indicator, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from training import files
from training.tuning.recipe import Recipe


def card(recipe: Recipe, counts: Mapping[str, Any]) -> str:
    """Markdown with a YAML head, as the Hugging Face hub reads it.

    `counts` are those of `dataset.summary`; beta comes from the record that `ctx-train
    select` left beside the data.
    """
    base = recipe.model["model_name_or_path"]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_head(recipe, base), sort_keys=False, allow_unicode=True).strip(),
            "---",
            f"# {base} tuned with {recipe.path.stem}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in _facts(recipe, counts)),
            "",
            "## Measure it",
            "",
            "```",
            f"ctx-eval run --model hf-ctx --model_args {_model_args(recipe, base)} \\",
            "  --tasks context_awareness --apply_chat_template",
            "```",
            "",
            "The tokenizer here carries the chat template the model was tuned with.",
            "",
            "## Recipe",
            "",
            "```yaml",
            yaml.safe_dump(recipe.settings(), sort_keys=False, allow_unicode=True).strip(),
            "```",
            "",
        ]
    )


def _head(recipe: Recipe, base: str) -> dict[str, Any]:
    library = "peft" if recipe.lora else "transformers"
    return {"base_model": base, "library_name": library, "tags": ["lm-eval-ctx", "trl", "sft"]}


def _facts(recipe: Recipe, counts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    method = "QLoRA (4-bit base)" if recipe.quantization else "LoRA"
    assistant_only = recipe.training.get("assistant_only_loss", False)
    data = recipe.data["path"]
    return [
        ("Base model", f"`{_base(recipe)}`"),
        ("Method", method if recipe.lora else "full fine-tuning"),
        ("Data", f"`{data}`, {_amount(counts['read'])}"),
        ("Trained on", f"{_amount(counts)} ({counts['tokens_in_loss']} in the loss)"),
        ("Data SHA-256", ", ".join(f"`{entry['sha256']}`" for entry in files.describe(data))),
        ("Indicator", f"`{recipe.indicator}`" if recipe.indicator else "none (vanilla)"),
        ("Turns with the indicator", _turns(counts)),
        ("Selected by", _selection(data) if recipe.indicator else "none (vanilla)"),
        ("Loss on", "assistant tokens" if assistant_only else "all tokens"),
        ("Recipe", recipe.path.name),
    ]


def _amount(counts: Mapping[str, Any]) -> str:
    return f"{counts['conversations']} conversations, {counts['tokens']} tokens"


def _turns(counts: Mapping[str, Any]) -> str:
    read = counts["read"]["turns_with_indicator"]
    return f"{counts['turns_with_indicator']} of the {read} in the data"


def _selection(data: str) -> str:
    """How `ctx-train select` chose the turns: beta of eq. 2, or the share of the highest scores."""
    settings = files.provenance(data)
    known = [f"{key} = {settings[key]}" for key in ("beta", "top") if settings.get(key) is not None]
    return ", ".join(known) or "not recorded"


def _base(recipe: Recipe) -> str:
    """`name@revision` of the base model, or its name alone."""
    revision = recipe.model.get("model_revision")
    name = recipe.model["model_name_or_path"]
    return f"{name}@{revision}" if revision else name


def _model_args(recipe: Recipe, base: str) -> str:
    model = f"pretrained={base},peft=THIS_FOLDER" if recipe.lora else "pretrained=THIS_FOLDER"
    return f"{model},indicator={recipe.indicator}" if recipe.indicator else model
