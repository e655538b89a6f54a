"""The one attention function: a bias per key, and the attention mass on each segment.

Registered with transformers' `AttentionInterface`, so every model family that uses the interface
is reached. Two things are added to `softmax(q k^T) v`, neither of which needs a T x T matrix:

* **Key bias.** A key outside the user's tokens gets `b_h` (= log alpha) added to its logit in head
  h. In a prefill the bias rides in extra channels, `[q, b_h / scale] . [k, outside]`, so the kernel
  still runs with `is_causal` and without a mask; padding is one more channel with a large negative
  value. torch's CPU kernel takes a mask row beside `is_causal`, which is cheaper still. A decode
  step has one query row and takes the bias as a plain mask row.
* **Segment mass.** `softmax(q k^T) @ 1[key in segment]`: the indicator columns ride beside the
  values in the same pass.

Soft-capped logits, attention sinks, sliding windows shorter than the text and prefills on top of a
cache have no kernel that takes them; they run exactly, in blocks of query rows (`_blockwise`).

A mask that a model asks for is a `Marker`: it knows its own text, padding and rule of visibility,
so no mask can change the meaning of another. A mask that is none of ours is refused.
The naive version that judges this file is `reference.py`; `FAMILIES.md` lists the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    AttentionMaskInterface,
    causal_mask_function,
    sdpa_mask,
)

from ctx_tasks.errors import UserError

from .spans import Segment

NAME = "ctx"
# Logit of a padded key before the softmax: exp(-32768) is 0 in every dtype, and it fits float16.
_PADDED = -32768.0
# Flash kernels take heads of up to 256 channels, in multiples of 8.
_MAX_WIDTH = 256
# Entries of a block of attention weights in `_blockwise`: 64 MiB in float32.
_BLOCK_ENTRIES = 2**24


@dataclass
class MassRequest:
    """Segment mass asked of some layers, and where it is collected."""

    layers: frozenset[int]
    segments: torch.Tensor  # int [batch, tokens]
    last_tokens: int | None = None  # only these many last query rows
    found: dict[int, torch.Tensor] = field(default_factory=dict)


class EnoughLayers(Exception):
    """Ends a forward pass once the last requested layer has been measured."""


@dataclass
class _Keys:
    """Flags of the keys one attention call sees, each bool [batch, keys]."""

    outside: torch.Tensor | None
    padded: torch.Tensor | None


@dataclass(eq=False)
class Text:
    """The text that one mask was made for, and which of its keys a query sees.

    Args:
        model: the model type, for messages.
        queries: rows of the mask, the last tokens of the text.
        total: tokens of the text, cached ones included.
        keys, first_key: how many keys the mask has, and which token the first one is.
        attention_mask: bool [batch, tokens], False on padding; None where nothing is padded.
        function: transformers' rule `(batch, head, query, key) -> visible` of indices; None where
            every query sees all keys up to its own.
        explicit: whether the marker holds the rule's result instead of its query indices.
    """

    model: str
    queries: int
    total: int
    keys: int
    first_key: int
    attention_mask: torch.Tensor | None
    function: Callable[..., Any] | None
    explicit: bool = False
    row: torch.Tensor | None = None  # what the one query of a decode step sees, for all layers
    flags: dict[tuple[int, torch.device], _Keys] = field(default_factory=dict)


# What code between a mask and the attention may do with it: look at it, move it, take rows of it.
_LOOKS = {torch.Tensor.size, torch.Tensor.dim, torch.Tensor.__repr__, torch.Tensor.__len__}
_KEEPS = {torch.Tensor.__getitem__, torch.Tensor.to}


class Marker(torch.Tensor):
    """A mask by its rule, [batch, 1, queries, keys]: each entry is the index of its query token.

    Rows may be sliced away (Gemma-4 does) and still know where they stand. What a model computes
    from it is meaningless, so every other use of it raises UserError.
    """

    text: Text

    @classmethod
    def of(cls, content: torch.Tensor, text: Text) -> Marker:
        """`content` as a marker of `text`."""
        marker = content.as_subclass(cls)
        marker.text = text
        return marker

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what leaves the marker a marker; refuse the rest."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in _LOOKS or func.__name__ == "__get__":
                return func(*args, **(kwargs or {}))
            result = func(*args, **(kwargs or {})) if func in _KEEPS else None
        if result is None or result.dtype != args[0].dtype:
            marker = next(part for part in args if isinstance(part, cls))
            raise unreachable(
                marker.text.model,
                f"it computes with its attention mask ({func.__name__}) before it attends",
            )
        return cls.of(result, args[0].text)

    def last_rows(self, count: int) -> Marker:
        """The marker of the last `count` queries."""
        return Marker.of(self.plain[:, :, -count:], self.text)

    @property
    def plain(self) -> torch.Tensor:
        """The entries as an ordinary tensor."""
        return self.as_subclass(torch.Tensor)


class Control:
    """What the attention function does to one model while it is controlled.

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

    def keys(self, text: Text, batch: int, device: torch.device) -> _Keys:
        """Flags of the keys of a mask (a sliding cache holds the last ones only)."""
        if (batch, device) not in text.flags:
            self._check(text)
            shown = slice(text.first_key, text.first_key + text.keys)
            text.flags[batch, device] = _Keys(
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


# The control of each controlled model, by the identity of the configs its attention modules hold.
_CONTROLS: dict[int, Control] = {}


def active_control(model: PreTrainedModel) -> Control | None:
    """The control of `model`, if it is being steered or measured right now."""
    return _CONTROLS.get(id(model.config.get_text_config()))


@contextmanager
def controlled(model: PreTrainedModel, control: Control) -> Iterator[Control]:
    """Run `model` through `ctx_attention` under `control`; restore it on exit.

    Raises:
        UserError: the model cannot be reached through the attention interface.
        RuntimeError: the model is controlled already (nested or concurrent use).
    """
    require_softmax_attention(model)
    held = [model.config, *(getattr(part, "config", None) for part in model.modules())]
    configs = {id(config): config for config in held if isinstance(config, PreTrainedConfig)}
    if any(key in _CONTROLS for key in configs):
        raise RuntimeError("This model is being steered already; leave that context first.")
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    _CONTROLS.update(dict.fromkeys(configs, control))
    try:
        model.set_attn_implementation(NAME)
        yield control
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
            del _CONTROLS[key]


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


def unreachable(model: str, reason: str) -> UserError:
    """The refusal of a model by name."""
    return UserError(
        f"Attention of {model} cannot be steered or measured because {reason}; use alpha=1 or a "
        "decoder whose layers all have attention."
    )


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
    """Attention with the running control's key bias and mass request.

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
    control = _CONTROLS[id(module.config)]
    layer: int = module.layer_idx  # type: ignore[assignment]
    _refuse_foreign_terms(module.config, kwargs)
    marker = _own_mask(module.config, attention_mask, query.shape[2], key.shape[2])
    call = _Call(
        query,
        key,
        value,
        control.keys(marker.text, query.shape[0], query.device),
        control.bias(layer, query.device),
        marker,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap,
        s_aux,
    )
    if control.mass is not None and layer in control.mass.layers:
        output = _measure(call, control.mass, layer)
    else:
        output = _run(call, control.paths)
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


@dataclass
class _Call:
    """The inputs of one attention call, shapes as in `ctx_attention`."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    keys: _Keys
    bias: torch.Tensor | None
    mask: Marker
    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def groups(self) -> int:
        """Query heads for each key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def causal(self) -> bool:
        """Whether each query sees all keys up to its own, and the last query is the last token."""
        return self.mask.text.function is None and self.mask.shape[2] == self.mask.text.queries


def _run(call: _Call, paths: set[str]) -> torch.Tensor:
    """The attention output [batch, heads, queries, value width], by the fastest exact path."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    width = _extended_width(call)
    if call.softcap or call.sinks is not None or (queries > 1 and not call.causal):
        path, function = "blockwise", _blockwise
    elif queries == 1:
        path, function = "decode", _decode
    elif queries == keys and _takes_mask_row(call):
        path, function = "mask row", _prefill_with_row
    elif queries == keys and width <= max(_MAX_WIDTH, call.query.shape[-1]):
        path, function = "channels", _prefill
    else:
        path, function = "blockwise", _blockwise
    paths.add(path)
    return function(call)


def _sdpa(call: _Call, mask: torch.Tensor | None) -> torch.Tensor:
    """transformers' SDPA, which knows the fast way for grouped heads and single queries."""
    groups = _Groups(call.groups)
    output, _ = sdpa_attention_forward(
        groups, call.query, call.key, call.value, mask, scaling=call.scaling
    )
    return output.transpose(1, 2)


class _Groups(torch.nn.Module):
    """The one attribute of an attention module that `sdpa_attention_forward` reads."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


def _decode(call: _Call) -> torch.Tensor:
    """One query row: bias and padding are a mask row [batch, 1 or heads, 1, keys]."""
    return _sdpa(call, _additive(call, _visible_row(call)))


def _additive(call: _Call, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Bias, padding and `mask` as one additive mask, or None where there is nothing to add."""
    added: torch.Tensor | None = None
    if call.bias is not None:
        assert call.keys.outside is not None
        added = call.bias * call.keys.outside[:, None, None, :]
    hidden = None if mask is None else ~mask
    if call.keys.padded is not None:
        padded = call.keys.padded[:, None, None, :]
        hidden = padded if hidden is None else hidden | padded
    if hidden is not None:
        added = torch.zeros((), device=hidden.device) if added is None else added
        added = torch.where(hidden, _PADDED, added)
    return None if added is None else added.to(call.query.dtype)


def _extended_width(call: _Call) -> int:
    """Width of query, key and value once the extra channels are appended."""
    extra = 2 * (call.bias is not None) + (call.keys.padded is not None)
    width = max(call.query.shape[-1] + extra, call.value.shape[-1])
    return width if width == call.query.shape[-1] else -(-width // 8) * 8


def _prefill(call: _Call) -> torch.Tensor:
    """Causal attention of all tokens, bias and padding in extra channels, no mask.

    The bias is split in two channels, so that bfloat16 keeps 16 of its bits instead of 8.
    """
    bias, padded = call.bias, call.keys.padded
    query_channels, key_channels = [], []
    if bias is not None:
        assert call.keys.outside is not None
        high = (bias / call.scaling).to(call.query.dtype)
        low = (bias / call.scaling - high.float()).to(call.query.dtype)
        query_channels += [high, low]
        key_channels += [call.keys.outside, call.keys.outside]
    if padded is not None:
        query_channels.append(torch.ones_like(call.query[:1, :1, :1, :1]))
        key_channels.append(padded * (_PADDED / call.scaling))
    width = _extended_width(call)
    extended = _Call(**vars(call))
    extended.query = _append(call.query, query_channels, width)
    extended.key = _append(call.key, [channel[:, None, :, None] for channel in key_channels], width)
    extended.value = _append(call.value, [], width)
    return _sdpa(extended, None)[..., : call.value.shape[-1]]


def _takes_mask_row(call: _Call) -> bool:
    """Whether torch's CPU flash kernel can run this prefill with a mask row beside `is_causal`."""
    return (
        call.query.device.type == "cpu"
        and call.query.dtype == torch.float32  # the row has the query's dtype: 8 bits in bfloat16
        and call.query.shape[-1] == call.value.shape[-1]
        and not (torch.is_grad_enabled() and call.query.requires_grad)
        and _cpu_kernel_adds_row()
    )


def _prefill_with_row(call: _Call) -> torch.Tensor:
    """Causal attention of all tokens; bias and padding as a mask row, broadcast over queries."""
    key, value = (part.repeat_interleave(call.groups, dim=1) for part in (call.key, call.value))
    return _cpu_kernel(call.query, key, value, _additive(call, None), call.scaling)


def _cpu_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """The kernel below SDPA, whose own interface forbids a mask beside `is_causal`."""
    if row is not None:
        row = row.expand(*query.shape[:3], key.shape[2])
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, True, attn_mask=row, scale=scaling
    )
    return output


@lru_cache
def _cpu_kernel_adds_row() -> bool:
    """Whether this torch has that kernel and it computes what we ask: it is no public function."""
    tokens, width = 520, 8  # more than one of its blocks
    query, key, value = (
        torch.arange(2 * tokens * width).mul(step).sin().view(1, 2, tokens, width)
        for step in (0.7, 1.3, 2.1)
    )
    row = torch.arange(2 * tokens).mul(0.9).cos().view(1, 2, 1, tokens)
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    logits = (query @ key.mT + row).masked_fill(~causal, -torch.inf)
    try:
        output = _cpu_kernel(query, key, value, row, scaling=1.0)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(output, logits.softmax(dim=-1) @ value, atol=1e-4)


def _append(tensor: torch.Tensor, channels: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """`tensor` [..., w] with broadcast `channels` [..., 1] appended and zeros up to `width`."""
    own = tensor.shape[-1]
    if width == own:
        return tensor
    extended = tensor.new_zeros(*tensor.shape[:-1], width)
    extended[..., :own] = tensor
    for position, channel in enumerate(channels, start=own):
        extended[..., position : position + 1] = channel
    return extended


def _blockwise(call: _Call) -> torch.Tensor:
    """Exact attention in blocks of query rows, for what no kernel takes; memory O(block x keys)."""
    batch, heads, queries, _ = call.query.shape
    rows = max(1, _BLOCK_ENTRIES // (batch * heads * call.key.shape[2]))
    blocks = [_block(call, start, min(start + rows, queries)) for start in range(0, queries, rows)]
    return torch.cat(blocks, dim=2)


def _block(call: _Call, start: int, stop: int) -> torch.Tensor:
    """Attention of the query rows start..stop, each seeing the keys `_visible` lets it see."""
    batch, heads, _, width = call.query.shape
    key_heads, keys = call.key.shape[1:3]
    query = call.query[:, :, start:stop].reshape(batch, key_heads, -1, width)
    logits = (query @ call.key.transpose(2, 3)).view(batch, heads, stop - start, keys)
    logits = logits.float() * call.scaling
    if call.softcap:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    added = _additive(call, _visible(call, start, stop))
    if added is not None:
        logits = logits + added.float()
    weights = _softmax(logits, call.sinks).to(call.value.dtype)
    output = weights.view(batch, key_heads, -1, keys) @ call.value
    return output.view(batch, heads, stop - start, -1)


def _visible(call: _Call, start: int, stop: int) -> torch.Tensor:
    """Which keys the query rows start..stop may see: bool [batch or 1, 1, rows, keys]."""
    text, content = call.mask.text, call.mask.plain
    if text.explicit:
        return content[:, :, start:stop]
    rows = content[0, 0, start:stop, 0, None]
    columns = text.first_key + torch.arange(text.keys, device=rows.device)
    visible: Callable[..., Any] = text.function or causal_mask_function
    batch = torch.arange(content.shape[0], device=rows.device)[:, None, None, None]
    return visible(batch, batch.new_zeros(()), rows, columns).view(-1, 1, stop - start, text.keys)


def _visible_row(call: _Call) -> torch.Tensor | None:
    """What a single query sees, None for everything; one computation serves all layers."""
    text = call.mask.text
    if call.causal:
        return None
    if text.queries > 1:
        return _visible(call, 0, 1)
    if text.row is None or text.row.device != call.query.device:
        text.row = _visible(call, 0, 1).to(call.query.device)
    return text.row


def _softmax(logits: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Softmax over keys; a sink [heads] takes a share of the row and gives nothing."""
    if sinks is None:
        return logits.softmax(dim=-1)
    column = sinks.float().view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
    return torch.cat([logits, column], dim=-1).softmax(dim=-1)[..., :-1]


def _measure(call: _Call, request: MassRequest, layer: int) -> torch.Tensor:
    """Attention output of a measured layer; its mass goes to `request.found[layer]`.

    Measured in float32 whatever the model's dtype: a mass is a sum of thousands of weights.
    """
    indicator = functional.one_hot(request.segments.to(call.query.device).long(), len(Segment))
    if call.keys.padded is not None:
        indicator = indicator * ~call.keys.padded[..., None]
    columns = indicator[:, None].expand(-1, call.key.shape[1], -1, -1).float()
    measured = _Call(**vars(call))
    measured.query, measured.key = call.query.float(), call.key.float()
    if request.last_tokens is not None:
        measured.query = measured.query[:, :, -request.last_tokens :]
        measured.mask = call.mask.last_rows(request.last_tokens)
        measured.value = columns
        request.found[layer] = _blockwise(measured)
        output = None
    else:
        measured.value = torch.cat([call.value.float(), columns], dim=-1)
        joined = _run(measured, set())
        output, request.found[layer] = joined.split([call.value.shape[-1], len(Segment)], dim=-1)
    if len(request.found) == len(request.layers):
        raise EnoughLayers
    return _run(call, set()) if output is None else output.to(call.value.dtype)


@torch.no_grad()
def segment_mass(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    segments: torch.Tensor,
    *,
    layers: Sequence[int],
    attention_mask: torch.Tensor | None = None,
    last_tokens: int | None = None,
) -> torch.Tensor:
    """Attention of each query token on each segment (the inner sum of eq. 2, for every segment).

    Runs the layers up to the last one named and no LM head. Inside `steer` the mass is that of the
    steered attention.

    Args:
        model: a causal language model, on any device, in any dtype.
        input_ids: int [batch, tokens].
        segments: int [batch, tokens], values of `Segment`; padding may hold any of them.
        layers: layer indices, from 0.
        attention_mask: int or bool [batch, tokens], 0 on padding.
        last_tokens: measure only that many last query rows (the others cost nothing extra).

    Returns:
        float32 [batch, layers, heads, tokens (or last_tokens), len(Segment)]. Rows sum to 1, less
        what an attention sink takes; rows of padding tokens mean nothing.

    Raises:
        UserError: a layer out of range, or shapes that do not fit.
    """
    _check_request(model, input_ids, segments, layers)
    request = MassRequest(frozenset(layers), segments, last_tokens)
    running = active_control(model)
    if running is not None:
        _forward(model, running, request, input_ids, attention_mask)
    else:
        with controlled(model, Control()) as control:
            _forward(model, control, request, input_ids, attention_mask)
    device = input_ids.device
    return torch.stack([request.found[layer].to(device) for layer in layers], dim=1)


def _forward(
    model: PreTrainedModel,
    control: Control,
    request: MassRequest,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> None:
    control.mass = request
    try:
        model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except EnoughLayers:
        pass
    finally:
        control.mass = None


def _check_request(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    segments: torch.Tensor,
    layers: Sequence[int],
) -> None:
    count = model.config.get_text_config().num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers:
        raise UserError(
            f"layers={list(layers)} is not in this model: name at least one of 0 to {count - 1}."
        )
    if segments.shape != input_ids.shape:
        raise UserError(
            f"segments has shape {tuple(segments.shape)} but input_ids {tuple(input_ids.shape)}; "
            "they must be equal."
        )


AttentionInterface.register(NAME, ctx_attention)
AttentionMaskInterface.register(NAME, ctx_mask)
