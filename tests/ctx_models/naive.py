"""A whole model run on `reference.py`: float64, full matrices, no cache; the fast paths' judge."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, LogitsProcessor, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ctx_models.reference import segment_mass, steered_weights

_RUN: dict[str, Any] = {}


def _attention(
    module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None, **_
):
    groups = query.shape[1] // key.shape[1]
    weights = steered_weights(
        query,
        repeat_kv(key, groups),
        visible=attention_mask,
        user=_RUN["user"][:, : key.shape[2]],
        alpha=_RUN["alpha"][module.layer_idx],
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=s_aux,
    )
    weights = weights.nan_to_num(0.0)  # rows of padding see nothing
    if _RUN["segments"] is not None:
        _RUN["mass"].append(segment_mass(weights, _RUN["segments"], _RUN["count"]))
    return (weights @ repeat_kv(value, groups)).transpose(1, 2).contiguous(), None


def _mask(*args, **kwargs):
    kwargs["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register("naive", _attention)
AttentionMaskInterface.register("naive", _mask)


@contextmanager
def naive(
    model: PreTrainedModel,
    user: torch.Tensor,
    alpha: torch.Tensor,
    segments: torch.Tensor | None = None,
    count: int = 5,
) -> Iterator[PreTrainedModel]:
    """A float64 copy steered by eq. 1: user bool [batch, tokens], alpha [layers, heads]."""
    twin = copy.deepcopy(model).double()
    twin.set_attn_implementation("naive")
    twin.set_experts_implementation("eager")  # the grouped kernel knows no float64
    _RUN.update(user=user, alpha=alpha.double(), segments=segments, count=count, mass=[])
    yield twin
    _RUN.clear()


@torch.no_grad()
def logits(model, input_ids, attention_mask, user, alpha) -> torch.Tensor:
    """Logits [batch, tokens, vocabulary] of the naively steered model."""
    with naive(model, user, alpha) as twin:
        return twin(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


@torch.no_grad()
def mass(model, input_ids, attention_mask, user, alpha, segments, count=5) -> torch.Tensor:
    """Segment mass [batch, layers, heads, tokens, count] of the naively steered model."""
    with naive(model, user, alpha, segments, count) as twin:
        twin(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return torch.stack(_RUN["mass"], dim=1)


class _Forced(LogitsProcessor):
    """Chooses the tokens of `sequences`, whatever the logits are."""

    def __init__(self, sequences: torch.Tensor) -> None:
        self.sequences = sequences

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self.sequences[:, input_ids.shape[1], None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@torch.no_grad()
def step_logits(model, sequences, attention_mask, user, alpha) -> torch.Tensor:
    """Logits [batch, steps, vocabulary] before each generated token, each by a pass of its own.

    `sequences` is the prompt, as long as `attention_mask`, and what `generate` made of it; `user`
    bool [batch, all tokens]. Positions and other inputs are those that `generate` makes.
    """
    prompt = attention_mask.shape[1]
    with naive(model, user, alpha) as twin:
        output = twin.generate(
            input_ids=sequences[:, :prompt],
            attention_mask=attention_mask,
            max_new_tokens=sequences.shape[1] - prompt,
            min_new_tokens=sequences.shape[1] - prompt,
            do_sample=False,
            use_cache=False,
            logits_processor=[_Forced(sequences)],
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(output.logits, dim=1)
