"""Adapter + base model -> one model that any runtime loads.

The sum is made in float32 and rounded once to the dtype of the output: an update that is small
beside its weight is rounded away in 16 bits (and wholly in the 4 bits it may have been trained
on). How much of the adapter is left is measured on the logits of a few sentences.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ctx_models import model_names
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable, whole_folder

DTYPES = ("bfloat16", "float16", "float32")
_WEAK = 0.9
_PROBE = (
    "The keeper of the lighthouse wrote into his book that the lamp had burned through the night. "
    "What did the keeper write, according to the text above?"
)


def run(
    adapter: Path | str, output: Path | str, *, base: str | None = None, dtype: str = "bfloat16"
) -> float:
    """Writes the merged model with tokenizer and chat template to the new folder `output`.

    Args:
        adapter: folder `training.tuning.sft.run` wrote.
        base: the unquantised base model, by default the one the adapter names.
        dtype: "bfloat16", "float16" or "float32", of the weights that are written.

    Returns:
        The share of the adapter's effect on the logits that the rounding left, see `survival`.

    Raises:
        UserError: no adapter there, another dtype, `output` taken, a quantised base.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, output = Path(adapter), Path(output)
    _check(adapter, output, dtype)
    source = base or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(str(adapter))
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_names.resolve(source), dtype=torch.float32
    )
    _require_unquantised(model, source)
    known = model.get_input_embeddings().weight.shape[0]
    # The adapter replaces the new rows; they only have to be there before it is loaded.
    if len(tokenizer) > known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tuned: Any = PeftModel.from_pretrained(model, str(adapter)).eval()
    ids = torch.tensor([tokenizer(_PROBE)["input_ids"]])
    with tuned.disable_adapter():
        before = _logits(tuned, ids, known)
    after = _logits(tuned, ids, known)
    merged = tuned.merge_and_unload()
    _round(merged, dtype)
    left = survival(before, after, _logits(merged, ids, known))
    merged.to(dtype=getattr(torch, dtype))
    merged.config.pad_token_id = tokenizer.pad_token_id
    _save(merged, tokenizer, adapter, output, dtype)
    return left


def survival(base: torch.Tensor, tuned: torch.Tensor, merged: torch.Tensor) -> float:
    """How much of the step from `base` to `tuned` logits `merged` made, along that step.

    1 is all of it; 1 too where the adapter does nothing.
    """
    step = (tuned - base).double()
    length = step.square().sum()
    return float(((merged - base).double() * step).sum() / length) if length else 1.0


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor, known: int) -> torch.Tensor:
    """Those of the base model's own tokens: without the adapter the others have none."""
    return model(ids, use_cache=False).logits[..., :known].float()


@torch.no_grad()
def _round(model: Any, dtype: str) -> None:
    """Weights as they will be stored, still in float32; buffers are not stored."""
    for weight in model.parameters():
        weight.copy_(weight.to(getattr(torch, dtype)))


def _check(adapter: Path, output: Path, dtype: str) -> None:
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter} holds no adapter; give the output folder of `ctx-train sft`.")
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is unknown; choose {', '.join(DTYPES)}.")
    if output.exists():
        raise UserError(f"{output} exists; give a new folder for the merged model.")
    require_writable(output)


def _require_unquantised(model: Any, source: str) -> None:
    if getattr(model.config, "quantization_config", None) is not None:
        raise UserError(
            f"The base model {source} is quantised, so an adapter cannot be merged into it; give "
            "the original weights with --base."
        )


def _save(merged: Any, tokenizer: Any, adapter: Path, output: Path, dtype: str) -> None:
    with whole_folder(output) as staged:
        merged.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        card = adapter / "README.md"
        if card.is_file():
            text = _merged_card(card.read_text(encoding="utf-8"), dtype)
            (staged / "README.md").write_text(text, encoding="utf-8")


def _merged_card(card: str, dtype: str) -> str:
    """The adapter's card, for a model that needs no base any more."""
    card = card.replace("library_name: peft", "library_name: transformers")
    card = re.sub(r"pretrained=[^,\s]+,peft=THIS_FOLDER", "pretrained=THIS_FOLDER", card)
    return f"{card}\nMerged into {dtype} weights; no adapter is needed.\n"


def summary(left: float, dtype: str, output: Path) -> str:
    """What `run` returned, in lines for the terminal."""
    lines = [f"{left:.0%} of the adapter's effect on the logits is left in {dtype}."]
    if left < _WEAK:
        lines.append("Rounding took the rest: --dtype float32 keeps it, at twice the size.")
    return "\n".join([*lines, f"Wrote {output}"])
