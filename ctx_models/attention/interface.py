"""The two functions that transformers calls: one for a model's mask, one for its attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import (
    AttentionMaskInterface,
    causal_mask_function,
    sdpa_mask,
)

from ctx_tasks.errors import UserError

from .intervention import INTERVENTIONS, NAME
from .mask import Marker, Text, unreachable
from .mass import measure
from .paths import Call, run


def ctx_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    *,
    config: PreTrainedConfig,
    **_: Any,
) -> Marker:
    """The marker of a mask that a model asks transformers for; arguments as `sdpa_mask`'s."""
    total = int(q_offset) + q_length
    if kv_offset + kv_length > total:
        raise UserError(
            "cache_implementation='static' cannot be steered: its keys outnumber the tokens; "
            "use the default dynamic cache."
        )
    # A window or chunk that the whole text fits in hides nothing.
    fits = local_size is None or kv_offset + kv_length <= local_size
    text = Text(
        config.model_type,
        q_length,
        total,
        kv_length,
        int(kv_offset),
        attention_mask,
        None if allow_is_causal_skip and fits else mask_function,
        explicit=use_vmap,
    )
    if use_vmap:  # overlays that need not be functions of indices
        content = sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            allow_is_causal_skip=False,
            use_vmap=True,
            device=device,
        )
        assert content is not None
    else:
        rows = torch.arange(total - q_length, total, device=device)
        content = rows[:, None].expand(batch_size, 1, q_length, kv_length)
    return Marker.of(content, text)


def ctx_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with the running intervention's key bias and mass request.

    Args:
        query: [batch, heads, queries, width]; key: [batch, key heads, keys, width];
        value: [batch, key heads, keys, value width]; attention_mask: a `Marker`;
        scaling: defaults to width ** -0.5; softcap: logits become
            `softcap * tanh(logits / softcap)`; s_aux: sink logits [heads].

    Returns:
        [batch, queries, heads, value width], and None in place of the weights.

    Raises:
        UserError: a mask or a term of the logits that steering does not know.
    """
    intervention = INTERVENTIONS[id(module.config)]
    layer: int = module.layer_idx  # type: ignore[assignment]
    _refuse_foreign_terms(module.config, kwargs)
    marker = _own_mask(module.config, attention_mask, query.shape[2], key.shape[2])
    call = Call(
        query,
        key,
        value,
        intervention.keys(marker.text, query.shape[0], query.device),
        intervention.bias(layer, query.device),
        marker,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap,
        s_aux,
    )
    if intervention.mass is not None and layer in intervention.mass.layers:
        output = measure(call, intervention.mass, layer)
    else:
        output = run(call, intervention.paths)
    return output.transpose(1, 2).contiguous(), None


# Arguments by which a few families change logits or visible keys beside the mask.
_FOREIGN_TERMS = ("position_bias", "indices", "block_indices", "sinks")


def _refuse_foreign_terms(config: Any, arguments: dict[str, Any]) -> None:
    for name in _FOREIGN_TERMS:
        if arguments.get(name) is not None:
            raise unreachable(config.model_type, f"it takes {name}, a term unknown here")


def _own_mask(config: Any, mask: torch.Tensor | None, queries: int, keys: int) -> Marker:
    """`mask`, if it is a marker of these queries and keys."""
    if not isinstance(mask, Marker):
        raise UserError(
            f"{config.model_type} was called with a 4-dimensional attention_mask (or makes its own "
            "mask); pass the 2-dimensional one [batch, tokens] when steering or measuring "
            "attention."
        )
    if mask.text.function is None and mask.text.first_key:
        raise unreachable(config.model_type, "its cache drops tokens that its mask shows")
    if mask.shape[2:] != (queries, keys) or mask.text.keys != keys:
        raise unreachable(
            config.model_type,
            f"it attends from {queries} to {keys} tokens under a mask for {mask.text.queries} and "
            f"{mask.text.keys}",
        )
    return mask


AttentionInterface.register(NAME, ctx_attention)
AttentionMaskInterface.register(NAME, ctx_mask)
