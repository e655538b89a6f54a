"""What cannot be steered on vLLM, by name, before an engine starts. Needs no vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError

_SOFTMAX = {"full_attention", "sliding_attention"}
_PLAIN_KEYS = {"auto", "float16", "bfloat16", "float32", "half", "float"}
PENALTIES = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
# Engine arguments that steering forbids where they are set, and why.
_ARGUMENTS = {
    "speculative_config": "a draft copies token ids, and with them their marks",
    "kv_transfer_config": "keys of another engine are not steered",
    "ec_transfer_config": "keys of another engine are not steered",
    "logits_processors": "they would be handed marked token ids",
    "enable_prompt_embeds": "a prompt without token ids has no marks",
    "enable_dbo": "halves of a batch would share one buffer of flags",
}
_PARALLEL = {
    "pipeline_parallel_size": "later stages have no embedding to read the marks from",
    "decode_context_parallel_size": "it is not tested with widened heads",
    "prefill_context_parallel_size": "it is not tested with widened heads",
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse engine arguments that cannot be combined with steering.

    Raises:
        UserError: the first of them.
    """
    for said in _wrong_arguments(arguments):
        raise UserError(f"{said}; leave it out, or run with alpha=1.")


def _wrong_arguments(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, why in _ARGUMENTS.items():
        if arguments.get(name):
            yield f"{name} cannot be combined with steering ({why})"
    for name, why in _PARALLEL.items():
        if int(arguments.get(name) or 1) > 1:
            yield f"{name}={arguments[name]} cannot be combined with steering ({why})"
    keys = str(arguments.get("kv_cache_dtype") or "auto")
    if keys not in _PLAIN_KEYS:
        yield f"kv_cache_dtype={keys} cannot be combined with steering (it would round the bias)"


def check_config(config: Any) -> None:
    """Refuse a model by its transformers configuration.

    Raises:
        UserError: why it cannot be steered.
    """
    text = config.get_text_config()
    for reason in _reasons(config, text):
        raise UserError(
            f"vllm-ctx cannot steer {text.model_type}: {reason}; use hf-ctx, which says whether "
            "transformers' model can be, or alpha=1."
        )


def _reasons(config: Any, text: Any) -> Iterator[str]:
    if getattr(text, "num_attention_heads", None) is None:
        yield "it has no layer with attention"
    if getattr(text, "kv_lora_rank", None):
        yield "its keys are compressed (MLA), with no channel to add"
    if getattr(text, "attn_logit_softcapping", None):
        yield "its attention logits are soft-capped, which would bend the bias"
    if config.is_encoder_decoder:
        yield "it is an encoder with a decoder"
    others = sorted(set(getattr(text, "layer_types", None) or ()) - _SOFTMAX)
    if others:
        yield f"it has layers of {', '.join(others)}"


def check_generation(settings: Mapping[str, Any]) -> None:
    """Refuse generation arguments that count the ids of a prompt.

    Raises:
        UserError: a penalty.
    """
    for name, off in PENALTIES.items():
        if settings.get(name, off) != off:
            raise UserError(
                f"{name}={settings[name]} counts token ids, which carry marks: it cannot be "
                "combined with steering on vLLM; leave it out, or use hf-ctx."
            )


def check_adapter(folder: str) -> None:
    """Refuse an adapter whose trained token rows vLLM does not read.

    Raises:
        UserError: it has such rows.
    """
    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        return
    adapter = json.loads(file.read_text(encoding="utf-8"))
    trained = [name for name in ("trainable_token_indices", "modules_to_save") if adapter.get(name)]
    if trained:
        raise UserError(
            f"lora_local_path={folder} has trained token rows or modules ({', '.join(trained)}), "
            "which vLLM does not read: merge it (ctx-train merge ADAPTER -o MODEL) and give the "
            "merged model as pretrained."
        )
