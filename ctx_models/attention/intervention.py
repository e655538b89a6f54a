"""What is done to one model while it is steered or measured: key bias, segment mass, or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ctx_tasks.errors import UserError

from .mask import Keys, Text, unreachable

NAME = "ctx"


@dataclass
class MassRequest:
    """Attention mass asked of some layers, and where it is collected."""

    layers: frozenset[int]
    segments: torch.Tensor | None  # int [batch, tokens]; None: the mass on each key, by itself
    last_tokens: int | None = None  # only these many last query rows
    found: dict[int, torch.Tensor] = field(default_factory=dict)


class Intervention:
    """What the attention function does to one model within `intervening`.

    Args:
        user_mask: bool [prompts, prompt tokens], True on the tokens that keep their weight; None
            for no bias.
        biases: layer index -> logit bias of every head, [heads]; layers not named have none.
        bias_generated: whether tokens after the prompt are biased too.
    """

    def __init__(
        self,
        user_mask: torch.Tensor | None = None,
        biases: dict[int, torch.Tensor] | None = None,
        bias_generated: bool = True,
    ) -> None:
        self.user_mask = user_mask
        # One number for a layer whose heads all share it: masks then stay [batch, 1, 1, keys].
        self._biases = {
            layer: heads[:1] if bool((heads == heads[0]).all()) else heads
            for layer, heads in (biases or {}).items()
        }
        self.bias_generated = bias_generated
        self.mass: MassRequest | None = None
        self.paths: set[str] = set()

    def bias(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """The bias of a layer, float32 [1, heads or 1, 1, 1], copied to `device` once."""
        if self.user_mask is None or layer not in self._biases:
            return None
        self._biases[layer] = self._biases[layer].to(device, torch.float32)
        return self._biases[layer].view(1, -1, 1, 1)

    def keys(self, text: Text, batch: int, device: torch.device) -> Keys:
        """Flags of the keys of a mask (a sliding cache holds the last ones only)."""
        if (batch, device) not in text.flags:
            self._check(text)
            shown = slice(text.first_key, text.first_key + text.keys)
            text.flags[batch, device] = Keys(
                self._outside(text, batch, shown, device), _padded(text, shown, device)
            )
        return text.flags[batch, device]

    def _check(self, text: Text) -> None:
        prompt = 0 if self.user_mask is None else self.user_mask.shape[1]
        if text.total < prompt:
            raise UserError(
                f"user_mask has {prompt} tokens but the model got {text.total}; "
                "pass a mask aligned with input_ids, padding included."
            )
        if text.attention_mask is not None and text.attention_mask.shape[1] != text.total:
            raise UserError(
                f"attention_mask has {text.attention_mask.shape[1]} columns for {text.total} "
                "tokens (prompt tuning?); steering needs one column a token."
            )

    def _outside(
        self, text: Text, batch: int, shown: slice, device: torch.device
    ) -> torch.Tensor | None:
        if self.user_mask is None:
            return None
        prompts, prompt = self.user_mask.shape
        if batch % prompts:
            raise UserError(
                f"user_mask has {prompts} rows but the batch has {batch}; pass one row a prompt "
                "(beams and return sequences are repeated from it)."
            )
        generated = self.user_mask.new_full((prompts, text.total - prompt), self.bias_generated)
        outside = torch.cat([~self.user_mask, generated], dim=1)
        return outside.repeat_interleave(batch // prompts, dim=0)[:, shown].to(device)


def _padded(text: Text, shown: slice, device: torch.device) -> torch.Tensor | None:
    if text.attention_mask is None or text.attention_mask.all():
        return None
    return ~text.attention_mask[:, shown].to(device)


# The intervention on each model, by the identity of the configs its attention modules hold.
INTERVENTIONS: dict[int, Intervention] = {}


def active_intervention(model: PreTrainedModel) -> Intervention | None:
    """The intervention of `model`, if it is being steered or measured right now."""
    return INTERVENTIONS.get(id(model.config.get_text_config()))


@contextmanager
def intervening(model: PreTrainedModel, intervention: Intervention) -> Iterator[Intervention]:
    """Run `model` through `ctx_attention` under `intervention`; restore it on exit.

    Raises:
        UserError: the model cannot be reached through the attention interface.
        RuntimeError: an intervention on the model is open already (nested or concurrent use).
    """
    require_softmax_attention(model)
    held = [model.config, *(getattr(part, "config", None) for part in model.modules())]
    configs = {id(config): config for config in held if isinstance(config, PreTrainedConfig)}
    if any(key in INTERVENTIONS for key in configs):
        raise RuntimeError("This model is being steered already; leave that context first.")
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    INTERVENTIONS.update(dict.fromkeys(configs, intervention))
    try:
        model.set_attn_implementation(NAME)
        yield intervention
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
            del INTERVENTIONS[key]


def require_softmax_attention(model: PreTrainedModel) -> None:
    """Raise UserError, by name, for a model whose attention this file cannot reach."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or []) - {
        "full_attention",
        "sliding_attention",
        "chunked_attention",
    }
    reason = None
    if model.config.is_encoder_decoder:
        reason = "it is an encoder-decoder model"
    elif kinds or model._is_stateful:
        reason = f"it has layers without softmax attention ({', '.join(sorted(kinds)) or 'state'})"
    elif not model._can_set_attn_implementation():
        reason = "its code does not use transformers' AttentionInterface"
    elif any(part.is_prompt_learning for part in getattr(model, "peft_config", {}).values()):
        reason = "its adapter prepends virtual tokens (prompt learning)"
    if reason:
        raise unreachable(f"{type(model).__name__} ({config.model_type})", reason)
