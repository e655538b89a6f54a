"""Adapter + base model -> one 16-bit model that any runtime loads.

The base is loaded in 16 bit, never in the 4 bits it may have been trained on: merging into 4-bit
weights rounds the adapter away.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ctx_models import nano
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable, whole_folder

DTYPES = ("bfloat16", "float16")


def run(
    adapter: Path | str, output: Path | str, *, base: str | None = None, dtype: str = "bfloat16"
) -> Path:
    """Writes the merged model with tokenizer and chat template to the new folder `output`.

    Args:
        adapter: folder `training.tuning.sft.run` wrote.
        base: the unquantised base model, by default the one the adapter names.
        dtype: "bfloat16" or "float16".

    Raises:
        UserError: no adapter there, a dtype of another width, `output` taken, a quantised base.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, output = Path(adapter), Path(output)
    _check(adapter, output, dtype)
    source = base or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(str(adapter))
    model: Any = AutoModelForCausalLM.from_pretrained(nano.resolve(source), dtype=dtype)
    _require_unquantised(model, source)
    # The adapter replaces the new rows; they only have to be there before it is loaded.
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.config.pad_token_id = tokenizer.pad_token_id
    return _save(merged, tokenizer, adapter, output)


def _check(adapter: Path, output: Path, dtype: str) -> None:
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter} holds no adapter; give the output folder of `ctx-train sft`.")
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not 16 bits wide; choose {' or '.join(DTYPES)}.")
    if output.exists():
        raise UserError(f"{output} exists; give a new folder for the merged model.")
    require_writable(output)


def _require_unquantised(model: Any, source: str) -> None:
    if getattr(model.config, "quantization_config", None) is not None:
        raise UserError(
            f"The base model {source} is quantised, so an adapter cannot be merged into it; give "
            "the original weights with --base."
        )


def _save(merged: Any, tokenizer: Any, adapter: Path, output: Path) -> Path:
    with whole_folder(output) as staged:
        merged.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        card = adapter / "README.md"
        if card.is_file():
            text = _merged_card(card.read_text(encoding="utf-8"))
            (staged / "README.md").write_text(text, encoding="utf-8")
    return output


def _merged_card(card: str) -> str:
    """The adapter's card, for a model that needs no base any more."""
    card = card.replace("library_name: peft", "library_name: transformers")
    card = re.sub(r"pretrained=[^,\s]+,peft=THIS_FOLDER", "pretrained=THIS_FOLDER", card)
    return f"{card}\nMerged into 16-bit weights; no adapter is needed.\n"
